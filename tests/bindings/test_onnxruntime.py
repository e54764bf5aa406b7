"""ONNX Runtime on the CPU."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from sightline.bindings import open_engine
from sightline.bindings.onnxruntime import SPIN_MICROSECONDS
from sightline.errors import EngineError, OutOfMemoryError, PrecisionError
from tests.bindings import product
from tests.bindings.product import WEIGHTS

NAME = "onnxruntime-cpu"


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    return product.write(tmp_path)


def test_a_pass_reads_and_writes_the_same_buffers(graph: Path) -> None:
    with open_engine(graph, NAME, shapes={"x": (4, 3)}) as engine:
        assert (engine.name, engine.device, engine.precision, engine.stream) == (NAME, "cpu", "fp32", None)
        x, y, total = (engine.buffers[name] for name in ("x", "y", "total"))
        for seed in range(3):
            x[:] = np.random.default_rng(seed).normal(size=(4, 3))
            engine.run()
            np.testing.assert_allclose(y, x @ WEIGHTS, rtol=1e-6)
            np.testing.assert_allclose(total, (x @ WEIGHTS).sum(), rtol=1e-5)


def test_only_the_outputs_asked_for_are_bound(graph: Path) -> None:
    with open_engine(graph, NAME, shapes={"x": (2, 3)}, outputs=["y"], threads=1) as engine:
        assert set(engine.buffers) == {"x", "y"}


@pytest.mark.parametrize(
    ("shapes", "outputs", "said"),
    [
        ({}, None, r"'x' .* \['N', 3\]"),
        ({"x": (2, 3, 1)}, None, r"\[2, 3, 1\]"),
        ({"x": (2, 4)}, None, "failed in a pass"),
        ({"x": (2, 3), "z": (1,)}, None, "has no z"),
        ({"x": (2, 3)}, ["probabilities"], "has no probabilities"),
    ],
)
def test_what_does_not_fit_the_graph_is_an_error(
    graph: Path, shapes: dict[str, tuple[int, ...]], outputs: list[str] | None, said: str
) -> None:
    with pytest.raises(EngineError, match=said):
        open_engine(graph, NAME, shapes=shapes, outputs=outputs)


def _truncated(graph: Path) -> None:
    graph.write_bytes(graph.read_bytes()[:50])


def _without_weights(graph: Path) -> None:
    (graph.parent / "weights.bin").unlink()


@pytest.mark.parametrize("damage", [_truncated, _without_weights, Path.unlink])
def test_a_damaged_graph_is_an_error_that_names_it(
    graph: Path, damage: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    damage(graph)
    with pytest.raises(EngineError, match=r"cannot open .*product\.onnx"):
        open_engine(graph, NAME, shapes={"x": (1, 3)})
    assert capsys.readouterr().out == ""


def test_after_a_pass_its_threads_sleep(tmp_path: Path) -> None:
    # ONNX Runtime's own default has them spin for tens of milliseconds, on the cores that another session needs.
    from onnx import TensorProto, helper, save

    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1 << 20]) for name in "xy")
    save(
        helper.make_model(helper.make_graph([helper.make_node("Exp", ["x"], ["y"])], "exp", [x], [y])),
        tmp_path / "m.onnx",
    )
    with open_engine(tmp_path / "m.onnx", NAME, shapes={}, threads=2) as engine:
        spun = []
        for _ in range(5):  # other threads of this process may have something to do at times
            engine.run()
            began = time.process_time()
            time.sleep(0.1)
            spun.append(time.process_time() - began)
    assert min(spun) < 10 * SPIN_MICROSECONDS / 1e6


def test_a_closed_engine_says_so(graph: Path) -> None:
    engine = open_engine(graph, NAME, shapes={"x": (1, 3)})
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.run()


def test_a_quantized_graph(tmp_path: Path) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class Readings(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left = 8

        def get_next(self) -> dict[str, Any] | None:
            self._left -= 1
            return (
                {"x": np.random.default_rng(self._left).normal(size=(4, 3)).astype(np.float32)} if self._left else None
            )

    source, path = product.write(tmp_path), tmp_path / "int8.onnx"
    quantize_static(str(source), str(path), Readings(), quant_format=QuantFormat.QDQ)
    with open_engine(path, NAME, shapes={"x": (4, 3)}, precision="int8") as engine:
        assert engine.precision == "int8"
        engine.buffers["x"][:] = np.random.default_rng(3).normal(size=(4, 3))
        engine.run()
        np.testing.assert_allclose(engine.buffers["y"], engine.buffers["x"] @ WEIGHTS, atol=0.3)


def test_a_precision_it_has_not(graph: Path) -> None:
    with pytest.raises(PrecisionError, match=r"onnxruntime-cpu does not compute in 'bf16'.*fp32, int8"):
        open_engine(graph, NAME, shapes={"x": (1, 3)}, precision="bf16")


@pytest.mark.parametrize("message", ["Failed to allocate memory for requested buffer of size 1", "std::bad_alloc"])
def test_a_pass_without_room(graph: Path, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(self: object, binding: object, options: object = None) -> None:
        raise RuntimeError(message)

    monkeypatch.setattr(onnxruntime.InferenceSession, "run_with_iobinding", run)
    with pytest.raises(OutOfMemoryError, match="smaller batch_size"):
        open_engine(graph, NAME, shapes={"x": (1, 3)})
