"""The memory plan: what it counts, and that it is made before anything is opened."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sightline import Explainer
from sightline.bundle import Bundle, Memory
from sightline.errors import OutOfMemoryError
from sightline.runtime import memory_plan as module
from sightline.runtime.memory_plan import MemoryPlan, memory_plan


def with_memory(bundle: Bundle, memory: Memory) -> Bundle:
    return replace(bundle, manifest=replace(bundle.manifest, memory=memory))


def test_the_largest_batch_fits_into_the_share_of_what_is_free() -> None:
    plan = MemoryPlan(free=1000, fixed=200, per_image=60)
    assert plan.largest_batch == 10
    assert plan.fixed + plan.largest_batch * plan.per_image <= module.SHARE * plan.free
    assert MemoryPlan(free=1000, fixed=900, per_image=60).largest_batch == 0


def test_what_is_counted(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_free", lambda device: 10_000)
    known = with_memory(bundle, Memory(weights=400, classifier=100, attribution=300))
    shared = memory_plan(known, "cpu", "fp32", shared=True)
    assert (shared.free, shared.fixed, shared.per_image) == (10_000, 1250, 150)  # the weights of both graphs
    alone = memory_plan(known, "cpu", "fp32", shared=False)
    assert (alone.fixed, alone.per_image) == (400, 150)
    half = memory_plan(known, "cpu", "bf16", shared=True)
    assert (half.fixed, half.per_image) == (1050, 75)  # the attribution pass stays in float32


def test_no_room_is_an_error_before_anything_is_opened(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("opened before the plan was made")

    monkeypatch.setattr("sightline.runtime.engines.open_engine", never)
    huge = with_memory(bundle, Memory(weights=0, classifier=1 << 60, attribution=0))
    with pytest.raises(OutOfMemoryError, match="does not fit into memory"):
        Explainer(huge)


def test_a_container_s_limit_counts(tmp_path: Path) -> None:
    assert module._control_group(tmp_path) == []
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("100\n")
    (tmp_path / "memory.stat").write_text("anon 40\nfile 60\ninactive_file 50\nactive_file 10\n")
    assert module._control_group(tmp_path) == []
    (tmp_path / "memory.max").write_text("1000\n")
    assert module._control_group(tmp_path) == [950]  # files that were read make room


def test_a_batch_beyond_the_plan_is_said(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_free", lambda device: 10_000)
    small = with_memory(bundle, Memory(weights=0, classifier=1200, attribution=0))
    with Explainer(small, batch_size=8) as explainer:
        assert explainer.batch_size == 8
        assert explainer.memory_plan.largest_batch == 4
    assert "a batch of 8 may not fit" in caplog.text


def test_an_attribution_pass_on_the_same_device_counts(bundle: Bundle) -> None:
    memory = bundle.manifest.memory
    with Explainer(bundle, engine="onnxruntime-cpu", batch_size=4) as explainer:
        assert explainer.memory_plan.fixed == 2 * memory.weights + int(module.MARGIN * memory.attribution)
