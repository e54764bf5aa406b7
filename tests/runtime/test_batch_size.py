"""The batch size that is measured: the choice, its limits, and that it is measured once."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from sightline import Explainer
from sightline.bindings import Engine
from sightline.bindings.engine import FACTOR
from sightline.bundle import Bundle
from sightline.errors import OutOfMemoryError
from sightline.runtime import batch_size, engines
from sightline.runtime.batch_size import fitting, measured
from sightline.runtime.memory_plan import MemoryPlan
from tests.runtime.test_batching import Multiplying, Recording


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that only passes move."""
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    return clock


def _taking(now: list[float], per_image: dict[int, float]) -> type[Recording]:
    class Timed(Recording):
        def run(self) -> None:
            size = len(self.buffers["x"])
            now[0] += size * per_image[size]

    return Timed


def test_the_smallest_that_comes_close_to_the_fastest(now: list[float]) -> None:
    for per_image, best in (
        ({8: 1.0, 16: 0.99, 32: 0.985}, 8),
        ({8: 1.0, 16: 0.9, 32: 0.895}, 16),
        ({8: 1.0, 16: 0.98, 32: 0.94}, 8),
        ({8: 1.0, 16: 0.98, 32: 0.91}, 32),
        ({8: 1.0, 16: 0.9, 32: 0.5}, 32),
        ({8: 1.0, 16: 1.2, 32: 0.5}, 32),
        ({8: 1.0}, 8),
    ):
        size, seconds = measured(_taking(now, per_image), list(per_image), "x", budget=10_000)
        assert size == best
        assert seconds == pytest.approx(per_image)


def test_candidates_are_tried_until_the_budget_is_spent(now: list[float]) -> None:
    per_image = {4: 0.05, 16: 0.025, 64: 0.0125}
    for budget, tried in ((100, [4, 16, 64]), (1.5, [4, 16]), (0, [4])):
        size, seconds = measured(_taking(now, per_image), list(per_image), "x", budget)
        assert (size, list(seconds)) == (tried[-1], tried)


def test_what_opening_takes_is_not_of_the_budget(now: list[float]) -> None:
    """TensorRT builds for minutes, once."""

    class Built(_taking(now, {16: 0.004, 32: 0.003, 64: 0.002})):  # type: ignore[misc]
        def __init__(self, size: int) -> None:
            super().__init__(size)
            now[0] += 300

    size, seconds = measured(Built, (16, 32, 64), "x")
    assert (size, list(seconds)) == (64, [16, 32, 64])


@pytest.mark.parametrize("period", [0.3, 0.5, 0.7, 1.1, 1.9])
def test_a_machine_whose_speed_drifts_does_not_decide(now: list[float], period: float) -> None:
    def drifting(per_image: dict[int, float]) -> type[Recording]:
        class Drifting(Recording):
            def run(self) -> None:
                size = len(self.buffers["x"])
                now[0] += size * per_image[size] * (1.3 if now[0] % period < period / 2 else 1.0)

        return Drifting

    for start in range(10):
        now[0] = start * period / 10
        assert measured(drifting({8: 0.001, 16: 0.001}), (8, 16), "x")[0] == 8
        assert measured(drifting({8: 0.001, 16: 0.0008}), (8, 16), "x")[0] == 16


def test_in_case_of_doubt_the_smaller_is_taken(now: list[float]) -> None:
    per_image = {8: [3.0, 3.0, 1.0, 1.0, 1.0], 16: [2.7, 2.7, 0.9, 1.2, 1.2]}  # by turn; the larger wins three of five

    class Turns(Recording):
        passes = 0

        def run(self) -> None:
            size = len(self.buffers["x"])
            turn = (self.passes - 2) // 2 if size == 8 else self.passes - 1  # behind the passes that warm it up
            now[0] += size * per_image[size][max(0, turn)]
            self.passes += 1

    size, seconds = measured(Turns, (8, 16), "x", budget=10_000)
    assert size == 8
    assert seconds == pytest.approx({8: 1, 16: 1.2})


@pytest.mark.parametrize("buffer", ["x", FACTOR])
def test_what_masks_are_written_to_is_written_before_every_pass(now: list[float], buffer: str) -> None:
    passes = [0]

    class Read(Recording if buffer == "x" else Multiplying):  # type: ignore[misc]
        def run(self) -> None:
            assert not self.buffers[buffer].any()
            self.buffers[buffer][:] = 1
            now[0] += 1
            passes[0] += 1

    measured(Read, (8, 16), "x")
    assert passes[0] > 10


def test_a_candidate_without_room_ends_the_search() -> None:
    opened: list[Recording] = []

    def open_batch(size: int) -> Engine:
        if size > 8:
            raise OutOfMemoryError("no room")
        opened.append(Recording(size))
        return opened[-1]

    size, seconds = measured(open_batch, (8, 16, 32), "x")
    assert (size, list(seconds)) == (8, [8])
    with pytest.raises(OutOfMemoryError):
        measured(open_batch, (16, 32), "x")


def test_every_engine_is_closed_and_never_more_than_two_are_open(now: list[float]) -> None:
    opened: set[Recording] = set()
    most = [0]

    class Counted(_taking(now, {8: 1.0, 16: 0.9, 32: 0.8, 64: 0.9})):  # type: ignore[misc]
        def __init__(self, size: int) -> None:
            super().__init__(size)
            opened.add(self)
            most[0] = max(most[0], len(opened))

        def close(self) -> None:
            opened.remove(self)

    assert measured(Counted, (8, 16, 32, 64), "x", budget=10_000)[0] == 32
    assert (len(opened), most[0]) == (0, 2)


def test_two_batches_must_fit_at_once() -> None:
    assert fitting((8, 16, 32), 100) == [8, 16, 32]
    assert fitting((8, 16, 32), 47) == [8, 16]
    assert fitting((8, 16, 32), 20) == [8]
    assert fitting((8, 16, 32), 4) == [4]


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
