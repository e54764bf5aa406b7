"""How many workers fit, and what each of them gets."""

from __future__ import annotations

import logging

import pytest

import sightline
from sightline import demo
from sightline.dataset import capacity
from sightline.errors import DatasetError, OutOfMemoryError

GIB = 2**30


@pytest.fixture(autouse=True)
def cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "cores", lambda: 8)


@pytest.mark.parametrize(("workers", "threads"), [(1, 8), (2, 4), (3, 2), (8, 1), (20, 1)])
def test_workers_share_the_cores(workers: int, threads: int) -> None:
    assert capacity.threads_of(workers) == threads


def test_one_worker_a_core_or_a_gpu() -> None:
    assert capacity.workers_for(None, GIB, 100 * GIB, "cpu", 1) == 8
    assert capacity.workers_for(None, GIB, 100 * GIB, "cuda", 3) == 3
    assert capacity.workers_for(12, GIB, 100 * GIB, "cpu", 1) == 12


def test_memory_limits_workers(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert capacity.workers_for(None, GIB, 5 * GIB, "cpu", 1) == 4  # of 80 %
    assert "room for 4 workers, not for 8" in caplog.text
    assert capacity.workers_for(4, GIB, 5 * GIB, "cpu", 1) == 4
    with pytest.raises(OutOfMemoryError, match=r"5 workers would hold 1,024 MiB each.*there is room for 4"):
        capacity.workers_for(5, GIB, 5 * GIB, "cpu", 1)
    assert capacity.workers_for(8, GIB, 5 * GIB, "cuda", 2) == 8  # four on each GPU
    with pytest.raises(OutOfMemoryError, match="room for 0"):
        capacity.workers_for(None, GIB, GIB, "cpu", 1)


def test_less_than_one_worker() -> None:
    with pytest.raises(DatasetError, match="workers=0"):
        capacity.workers_for(0, GIB, 9 * GIB, "cpu", 1)


def test_a_worker_holds_what_the_plan_of_its_explainer_says() -> None:
    bundle = sightline.load(demo.BUNDLE)
    needed, free = capacity.bytes_of(bundle, "onnxruntime-cpu", "fp32", 16)
    with sightline.Explainer(bundle, "grad-cam", "onnxruntime-cpu", 16, threads=1) as explainer:
        plan = explainer.memory_plan
    assert needed == plan.fixed + 16 * plan.per_image + capacity.PROCESS
    assert free == pytest.approx(plan.free, rel=0.5)


@pytest.mark.parametrize(
    ("visible", "names"), [("2", ["2"]), ("0, 3", ["0", "3"]), ("GPU-a,GPU-b", ["GPU-a", "GPU-b"])]
)
def test_every_worker_sees_one_of_the_gpus_that_are_to_be_seen(
    visible: str, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [dict(one) for one in capacity.visible_gpus()] == [{"CUDA_VISIBLE_DEVICES": name} for name in names]
