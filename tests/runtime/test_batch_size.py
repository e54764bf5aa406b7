"""The batch size that is measured: the choice, its limits, and that it is measured once."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from sightline import Explainer
from sightline.bindings import Engine
from sightline.bundle import Bundle
from sightline.errors import OutOfMemoryError
from sightline.runtime import batch_size, engines
from sightline.runtime.batch_size import best, measured
from sightline.runtime.memory_plan import MemoryPlan
from tests.runtime.test_batching import Recording


def test_the_smallest_that_comes_close_to_the_fastest() -> None:
    assert best({8: 1.0, 16: 0.995, 32: 0.992}) == 8
    assert best({8: 1.0, 16: 0.9, 32: 0.895}) == 16
    assert best({8: 1.0, 16: 0.9, 32: 0.5}) == 32
    assert best({8: 1.0}) == 8


def test_every_candidate_is_timed_until_the_budget_is_spent(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])

    class Timed(Recording):
        def run(self) -> None:
            now[0] += 0.1 * len(self.buffers["x"]) ** 0.5

    found = measured(Timed, (4, 16, 64), budget=100)
    assert found == pytest.approx({4: 0.05, 16: 0.025, 64: 0.0125})
    assert list(measured(Timed, (4, 16, 64), budget=1.5)) == [4, 16]
    assert list(measured(Timed, (4, 16, 64), budget=0)) == [4]


def test_a_machine_that_is_slow_for_a_while_does_not_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    now, passes = [0.0], [0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])

    class Drifting(Recording):
        def run(self) -> None:
            passes[0] += 1
            now[0] += 0.01 * len(self.buffers["x"]) * (1.3 if passes[0] <= 6 else 1.0)

    assert best(measured(Drifting, (8, 16), budget=100)) == 8


def test_a_candidate_without_room_ends_the_search() -> None:
    def open_batch(size: int) -> Engine:
        if size > 8:
            raise OutOfMemoryError("no room")
        return Recording(size)

    assert list(measured(open_batch, (8, 16, 32))) == [8]
    with pytest.raises(OutOfMemoryError):
        measured(open_batch, (16, 32))


def test_it_is_measured_once_for_a_bundle(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SIGHTLINE_CACHE", str(tmp_path))
    caplog.set_level(logging.INFO, "sightline")
    with Explainer(bundle) as first:
        assert first.batch_size in batch_size.CANDIDATES["cpu"]
    assert "measuring the batch size" in caplog.text
    caplog.clear()
    with Explainer(bundle) as again:
        assert again.batch_size == first.batch_size
    assert "measured before" in caplog.text
    caplog.clear()
    with Explainer(bundle, threads=1):
        assert "measuring the batch size" in caplog.text  # another setting, another measurement
    for file in tmp_path.rglob("batch-size/*.json"):
        file.write_text("torn {")
    caplog.clear()
    with Explainer(bundle):
        assert "measuring the batch size" in caplog.text


def test_it_stays_within_the_memory_plan(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGHTLINE_CACHE", str(tmp_path))
    monkeypatch.setattr(engines, "memory_plan", lambda *_, **__: MemoryPlan(free=100, fixed=0, per_image=20))
    with Explainer(bundle) as explainer:
        assert explainer.batch_size == 4
