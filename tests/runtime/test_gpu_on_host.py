"""Whole explanations on a GPU, without one: CUDA kernels from their own sources, streams and engines that stand in.

Work is deferred as on a stream, so what reads a result before it is made, or on another stream, fails here too.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sightline import AdaSISE, Explainer, Request, demo
from sightline.bindings import Engine, open_engine
from sightline.bundle import LOGITS, PROBABILITIES, Bundle
from sightline.errors import OutOfMemoryError
from sightline.runtime.batching import Result
from sightline.runtime.explainer import METHODS
from sightline.runtime.gate import pearson
from sightline.runtime.job import Job
from tests.fakes import cupy as fake_cupy
from tests.fakes import onnxruntime as fake_onnxruntime
from tests.fakes.onnxruntime import Machine
from tests.fakes.streams import Stream
from tests.runtime import tiny


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    found = fake_onnxruntime.install(monkeypatch)
    monkeypatch.setattr(Stream, "deferred", True)
    yield found
    Stream._waiting.clear()
    for name in [name for name in sys.modules if name.startswith("cupy")]:
        assert sys.modules[name] is not fake_cupy or name == "cupy"


@pytest.mark.parametrize("name", METHODS)
def test_every_method_gives_the_map_of_the_cpu(name: str, bundle: Bundle, machine: Machine) -> None:
    method = METHODS[name](**({"passes": 30} if name == "rise" else {}))
    images = [tiny.image(seed) for seed in range(3)]
    with (
        Explainer(bundle, method, "onnxruntime-cuda", 5) as gpu,
        Explainer(bundle, method, "onnxruntime-cpu", 5) as cpu,
    ):
        assert gpu.engine == "onnxruntime-cuda"
        together = list(gpu.batch(images))
        for image, found in zip(images, together, strict=True):
            expected = cpu(image)
            assert (found.target, found.passes) == (expected.target, expected.passes)
            np.testing.assert_allclose(found.saliency, expected.saliency, atol=1e-5)
            assert found.layer_maps.keys() == expected.layer_maps.keys()
            np.testing.assert_allclose(gpu(image).saliency, found.saliency, atol=1e-6)


@pytest.mark.parametrize("name", ["sise", "score-cam", "grad-cam", "rise"])
def test_an_engine_of_the_callers_own_on_the_cpu_beside_a_gpu(name: str, bundle: Bundle, machine: Machine) -> None:
    """The attribution pass runs on the fastest engine, which is on another device than the masks."""

    def open_batch(size: int) -> Engine:
        shapes = {tiny.INPUT.name: (size, *tiny.INPUT.shape)}
        return open_engine(bundle.classifier, "onnxruntime-cpu", shapes=shapes, outputs=[LOGITS, PROBABILITIES])

    method = METHODS[name](**({"passes": 30} if name == "rise" else {}))
    with Explainer(bundle, method, open_batch, 5) as own, Explainer(bundle, method, "onnxruntime-cpu", 5) as cpu:
        before = len(machine.sessions)
        for found, seed in zip(own.batch([tiny.image(seed) for seed in range(3)]), range(3), strict=True):
            np.testing.assert_allclose(found.saliency, cpu(tiny.image(seed)).saliency, atol=1e-5)
        assert before == 1, "the attribution pass was to run on the GPU"


def test_several_targets_a_function_among_them_under_a_budget(bundle: Bundle, machine: Machine) -> None:
    with (
        Explainer(bundle, engine="onnxruntime-cuda", batch_size=4) as gpu,
        Explainer(bundle, "sise", "onnxruntime-cpu", 4) as cpu,
    ):
        for limits in ({}, {"max_passes": 6}, {"deadline": 1e-9}):
            found, expected = (
                explainer(tiny.image(), (1, lambda p: p[:, 2] + p[:, 3]), **limits) for explainer in (gpu, cpu)
            )
            for one, other in zip(found, expected, strict=True):
                assert one.passes == other.passes
                assert one.score == pytest.approx(other.score)
                np.testing.assert_allclose(one.saliency, other.saliency, atol=1e-4)
        np.testing.assert_allclose(next(gpu.classify([tiny.image()])), next(cpu.classify([tiny.image()])), atol=1e-6)


@pytest.mark.parametrize("size", [1, 4])
def test_requests_that_stop_and_go_on(size: int, bundle: Bundle, machine: Machine) -> None:
    """Batches that are cut short leave the device with nothing to wait for, and nothing taken twice."""
    asked = [Request(tiny.image(n)) if n % 3 else None for n in range(12)]
    with (
        Explainer(bundle, engine="onnxruntime-cuda", batch_size=size) as gpu,
        Explainer(bundle, "sise", "onnxruntime-cpu", 4) as cpu,
    ):
        for ours, theirs in zip(gpu.answer(asked), cpu.answer(asked), strict=True):
            assert ours.request is theirs.request
            assert (ours.error, theirs.error) == (None, None)
            np.testing.assert_allclose(ours.explanations[0].saliency, theirs.explanations[0].saliency, atol=1e-5)


@pytest.mark.parametrize("limits", [{}, {"max_passes": 9}, {"deadline": 60.0}], ids=str)
@pytest.mark.parametrize("failing", [1, 2, 3])
def test_a_batch_without_room_in_the_middle(
    failing: int, limits: dict[str, Any], bundle: Bundle, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is halved, on another engine and stream, and what is made from then on is enqueued there."""
    with (
        Explainer(bundle, engine="onnxruntime-cuda", batch_size=4) as gpu,
        Explainer(bundle, "sise", "onnxruntime-cpu", 4) as cpu,
    ):
        engine, passes = gpu._passes.engine, 0

        def run() -> None:
            nonlocal passes
            passes += 1
            if passes == failing:
                raise OutOfMemoryError("no room")
            type(engine).run(engine)

        monkeypatch.setattr(engine, "run", run)
        found, expected = gpu(tiny.image(), **limits), cpu(tiny.image(), **limits)
        assert gpu.batch_size == 2
        assert found.passes == expected.passes
        np.testing.assert_allclose(found.saliency, expected.saliency, atol=1e-4)


def test_the_host_does_not_wait_for_the_batch_behind(
    bundle: Bundle, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scores of a set are there while the next batch is still under way."""
    with Explainer(bundle, engine="onnxruntime-cuda", batch_size=4) as explainer:
        stream, add, busy = explainer._passes.engine.stream, Job.add, []

        def added(job: Job, result: Result) -> None:
            busy.append(not stream.done)
            add(job, result)

        monkeypatch.setattr(Job, "add", added)
        explainer(tiny.image())
        assert busy == [True] * (len(busy) - 1) + [False]  # behind the last one there is nothing


def test_channels_last(tmp_path: Path, machine: Machine) -> None:
    written = tiny.write(tmp_path / "b", layout="NHWC")
    with (
        Explainer(written, engine="onnxruntime-cuda", batch_size=4) as gpu,
        Explainer(written, engine="onnxruntime-cpu", batch_size=4) as cpu,
    ):
        np.testing.assert_allclose(gpu(tiny.image()).saliency, cpu(tiny.image()).saliency, atol=1e-5)


def test_the_host_does_not_wait_between_batches(bundle: Bundle, machine: Machine) -> None:
    """It waits for every block's extrema and for the scores of whole sets, however many batches they take."""
    waits = {}
    for batch_size in (1, 8):
        with Explainer(bundle, engine="onnxruntime-cuda", batch_size=batch_size) as explainer:
            explainer(tiny.image())
            stream = explainer._passes.engine.stream
            before = stream.synchronized
            passes = explainer(tiny.image()).passes
            waits[batch_size] = stream.synchronized - before
    assert passes > 8
    assert waits[1] <= waits[8] + 1  # more batches, no more waits


def test_auto_takes_the_gpu(bundle: Bundle, machine: Machine) -> None:
    with Explainer(bundle, batch_size=4) as explainer:
        assert explainer.engine == "onnxruntime-cuda"  # tensorrt's provider would round float32 to TF32


def test_the_demo_network_on_a_real_image(machine: Machine) -> None:
    sample = demo.samples()[0]
    with (
        Explainer(demo.BUNDLE, AdaSISE(), "onnxruntime-cuda", 16) as gpu,
        Explainer(demo.BUNDLE, AdaSISE(), "onnxruntime-cpu", 16) as cpu,
    ):
        found, expected = gpu(sample.image), cpu(sample.image)
    assert found.passes == expected.passes
    assert pearson(found, expected) >= 0.9999
