"""ONNX Runtime's GPU providers on a GPU, against its CPU provider."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from sightline import demo
from sightline.bindings import choose, open_engine
from sightline.errors import EngineError, MissingPackageError, PrecisionError

CLASSIFIER, ATTRIBUTION = demo.BUNDLE / "classifier.onnx", demo.BUNDLE / "attribution.onnx"
ENGINES = ("onnxruntime-cuda", "onnxruntime-tensorrt")


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return usable(str(request.param))


def usable(name: str, precision: Any = "tf32") -> str:
    try:
        return choose(name, variants=("fp32",), precision=precision)
    except (EngineError, MissingPackageError, PrecisionError) as error:
        pytest.skip(str(error))


def images(count: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(count).normal(size=(count, 3, 224, 224)).astype(np.float32)


def reference(path: Any, inputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    with open_engine(path, "onnxruntime-cpu", shapes={"x": inputs["x"].shape}) as cpu:
        for name, value in inputs.items():
            cpu.buffers[name][...] = value
        cpu.run()
        return {name: value.copy() for name, value in cpu.buffers.items()}


def test_the_classifier_agrees_with_the_cpu(engine: str) -> None:
    with open_engine(CLASSIFIER, engine, shapes={"x": (5, 3, 224, 224)}, precision="tf32") as gpu:
        for scale in (0.5, 1.0):  # the second pass replays the CUDA graph on other images
            x = scale * images(5)
            with gpu.stream:
                gpu.buffers["x"].set(x)  # type: ignore[attr-defined]
            gpu.run()
            found = gpu.buffers["probabilities"].get(stream=gpu.stream)  # type: ignore[attr-defined]
            np.testing.assert_allclose(found, reference(CLASSIFIER, {"x": x})["probabilities"], atol=2e-2)


def test_the_attribution_pass_agrees_with_the_cpu_in_float32() -> None:
    inputs = {
        "x": images(1),
        "target": np.array([-1]),
        "seed": np.zeros((1, 5), np.float32),
        "rivals": np.ones(1, np.float32),
    }
    expected = reference(ATTRIBUTION, inputs)
    with open_engine(ATTRIBUTION, usable("onnxruntime-cuda", "fp32"), shapes={"x": (1, 3, 224, 224)}) as gpu:
        for name, value in inputs.items():
            gpu.buffers[name].set(value, stream=gpu.stream)  # type: ignore[attr-defined]
        gpu.run()
        for name, value in expected.items():
            found = gpu.buffers[name].get(stream=gpu.stream)  # type: ignore[attr-defined]
            assert np.linalg.norm(found - value) <= 1e-4 * np.linalg.norm(value), name


def test_passes_and_copies_keep_their_order_without_waiting(engine: str) -> None:
    """Every pass reads what was enqueued before it, and is overwritten by what is enqueued after it."""
    import cupy

    with open_engine(CLASSIFIER, engine, shapes={"x": (4, 3, 224, 224)}, precision="tf32") as gpu:
        batches = [cupy.asarray(images(4) * scale) for scale in np.linspace(0.1, 1, 20)]
        cupy.cuda.Device().synchronize()
        scores = []
        with gpu.stream:
            for batch in batches:
                gpu.buffers["x"][...] = batch
                gpu.run()
                scores.append(gpu.buffers["probabilities"].copy())
        gpu.stream.synchronize()
        for batch, score in zip(batches, scores, strict=True):
            with gpu.stream:
                gpu.buffers["x"][...] = batch
            gpu.run()
            gpu.stream.synchronize()
            cupy.testing.assert_allclose(gpu.buffers["probabilities"], score, atol=1e-6)


def test_a_pass_returns_before_it_is_done() -> None:
    """On the CUDA provider; TensorRT's waits whenever it replays a graph."""
    import cupy

    with open_engine(CLASSIFIER, usable("onnxruntime-cuda"), shapes={"x": (64, 3, 224, 224)}, precision="tf32") as gpu:
        for _ in range(50):
            gpu.run()
        event = cupy.cuda.Event()
        event.record(gpu.stream)
        assert not event.done, "50 passes were over before the host came back: run() waits"


def test_what_tensorrt_built_is_read_back(tmp_path: Any) -> None:
    name = usable("onnxruntime-tensorrt")
    results = []
    for _ in range(2):
        with open_engine(CLASSIFIER, name, shapes={"x": (2, 3, 224, 224)}, precision="tf32", cache=tmp_path) as gpu:
            gpu.buffers["x"].set(images(2), stream=gpu.stream)  # type: ignore[attr-defined]
            gpu.run()
            results.append(gpu.buffers["probabilities"].get(stream=gpu.stream))  # type: ignore[attr-defined]
    assert list((tmp_path / "onnxruntime-tensorrt").rglob("*.engine"))
    np.testing.assert_array_equal(results[0], results[1])
