"""TensorRT itself, where it, PyCUDA, CuPy and a GPU are. The rules of its API are tested in tests/bindings as well."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

pytest.importorskip("tensorrt", reason="needs TensorRT: pip install 'sightline[tensorrt]'", exc_type=ImportError)
pytest.importorskip("pycuda.driver", reason="needs PyCUDA: pip install 'sightline[tensorrt]'", exc_type=ImportError)
cupy: Any = pytest.importorskip("cupy", reason="needs CuPy: pip install 'sightline[gpu]'", exc_type=ImportError)
if not cupy.is_available():
    pytest.skip("needs a GPU", allow_module_level=True)

from sightline import demo  # noqa: E402
from sightline.bindings.engine import Precision  # noqa: E402
from sightline.bindings.tensorrt import TensorRt, build  # noqa: E402
from sightline.errors import EngineError, OutOfMemoryError  # noqa: E402

CLASSIFIER, ATTRIBUTION = demo.BUNDLE / "classifier.onnx", demo.BUNDLE / "attribution.onnx"
SHAPES = {"x": (16, 3, 224, 224)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def engine(folder: Path) -> Iterator[TensorRt]:
    with TensorRt(CLASSIFIER, SHAPES, cache=folder) as opened:
        yield opened


def images(seed: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(seed).normal(size=SHAPES["x"]).astype(np.float32)


def on_cpu(path: Path, feed: dict[str, Any]) -> dict[str, Any]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, feed), strict=True))


def test_passes_agree_with_onnx_runtime_and_replay_a_graph(engine: TensorRt, caplog: pytest.LogCaptureFixture) -> None:
    assert engine._graph is not None, caplog.text
    for seed in range(3):
        engine.buffers["x"].set(images(seed), stream=engine.stream)  # type: ignore[attr-defined]
        engine.run()
        for name, value in on_cpu(CLASSIFIER, {"x": images(seed)}).items():
            found = engine.buffers[name].get(stream=engine.stream)  # type: ignore[attr-defined]
            np.testing.assert_allclose(found, value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("precision", ["fp32", "tf32"])
def test_tensorfloat_32_is_forbidden_in_float32(folder: Path, precision: Precision) -> None:
    with TensorRt(CLASSIFIER, SHAPES, precision=precision, cache=folder) as engine:
        engine.buffers["x"].set(images(0), stream=engine.stream)  # type: ignore[attr-defined]
        engine.run()
        found = engine.buffers["logits"].get(stream=engine.stream)  # type: ignore[attr-defined]
    error = np.abs(found - on_cpu(CLASSIFIER, {"x": images(0)})["logits"]).max()
    assert error < (1e-3 if precision == "fp32" else 5e-2)


def test_the_attribution_pass_agrees_with_onnx_runtime(folder: Path) -> None:
    feed = {
        "x": images(0)[:1],
        "target": np.array([3]),
        "seed": np.zeros((1, 5), np.float32),
        "rivals": np.array([1], np.float32),
    }
    with TensorRt(ATTRIBUTION, {}, cache=folder) as engine:
        for name, value in feed.items():
            engine.buffers[name].set(value, stream=engine.stream)  # type: ignore[attr-defined]
        engine.run()
        for name, value in on_cpu(ATTRIBUTION, feed).items():
            found = engine.buffers[name].get(stream=engine.stream)  # type: ignore[attr-defined]
            np.testing.assert_allclose(found, value, rtol=1e-2, atol=1e-3 * np.abs(value).max())


def test_a_plain_copy_into_a_buffer_is_waited_for(engine: TensorRt) -> None:
    engine.buffers["x"][...] = cupy.asarray(images(1))  # on CUDA's default stream
    engine.run()
    engine.stream.synchronize()
    wanted = on_cpu(CLASSIFIER, {"x": images(1)})["logits"]
    np.testing.assert_allclose(cupy.asnumpy(engine.buffers["logits"]), wanted, rtol=1e-3, atol=1e-4)


def test_a_second_opening_builds_nothing(engine: TensorRt, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    assert not build(CLASSIFIER, SHAPES, cache=folder).built
    assert not caplog.text


def test_closing_gives_the_memory_back(folder: Path) -> None:
    for _ in range(2):  # the first time loads kernels that stay
        TensorRt(CLASSIFIER, SHAPES, cache=folder).close()
    before = cupy.cuda.runtime.memGetInfo()[0]
    for _ in range(5):
        engine = TensorRt(CLASSIFIER, SHAPES, cache=folder)
        engine.run()
        engine.close()
    assert before - cupy.cuda.runtime.memGetInfo()[0] < 32 << 20
    with pytest.raises(EngineError, match="closed"):
        engine.run()


def test_a_batch_without_room_is_out_of_memory(folder: Path) -> None:
    with TensorRt(CLASSIFIER, SHAPES, cache=folder) as engine:  # built while there is room
        size = sum(buffer.nbytes for buffer in engine.buffers.values())
    free = cupy.cuda.runtime.memGetInfo()[0]
    taken, piece = [], free // 2
    while piece > size // 4:  # no one piece of memory may be as large as all that is free
        try:
            taken.append(cupy.cuda.memory.alloc(piece))
        except cupy.cuda.memory.OutOfMemoryError:
            piece //= 2
    try:
        with pytest.raises(OutOfMemoryError, match="smaller batch_size"):
            TensorRt(CLASSIFIER, SHAPES, cache=folder)
    finally:
        del taken
        cupy.get_default_memory_pool().free_all_blocks()
