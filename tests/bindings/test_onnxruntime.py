"""The ONNX Runtime binding, and how engines are found."""

from __future__ import annotations

import importlib.util
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sightline.bindings import available, open_engine
from sightline.errors import EngineError, MissingPackageError

WEIGHTS = np.array([[1, 2], [3, 4], [5, 6]], np.float32)


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """x (N×3) -> y = x·W (M×2, the same M as N by another name) and total (1), its weights in a file of their own."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["y"]),
        helper.make_node("ReduceSum", ["y"], ["total"], keepdims=0),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3])]
    outputs = [
        helper.make_tensor_value_info("y", TensorProto.FLOAT, ["M", 2]),
        helper.make_tensor_value_info("total", TensorProto.FLOAT, []),
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "product", inputs, outputs, [numpy_helper.from_array(WEIGHTS, "w")]),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=9,
    )
    path = tmp_path / "product.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert (tmp_path / "weights.bin").stat().st_size >= WEIGHTS.nbytes
    return path


def test_a_pass_reads_and_writes_the_same_buffers(graph: Path) -> None:
    with open_engine(graph, shapes={"x": (4, 3)}) as engine:
        assert (engine.name, engine.device) == ("onnxruntime-cpu", "cpu")
        x, y, total = (engine.buffers[name] for name in ("x", "y", "total"))
        for seed in range(3):
            x[:] = np.random.default_rng(seed).normal(size=(4, 3))
            engine.run()
            np.testing.assert_allclose(y, x @ WEIGHTS, rtol=1e-6)
            np.testing.assert_allclose(total, (x @ WEIGHTS).sum(), rtol=1e-5)


def test_only_the_outputs_asked_for_are_bound(graph: Path) -> None:
    with open_engine(graph, shapes={"x": (2, 3)}, outputs=["y"], threads=1) as engine:
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
        open_engine(graph, shapes=shapes, outputs=outputs)


def _truncated(graph: Path) -> None:
    graph.write_bytes(graph.read_bytes()[:50])


def _without_weights(graph: Path) -> None:
    (graph.parent / "weights.bin").unlink()


@pytest.mark.parametrize("damage", [_truncated, _without_weights, Path.unlink])
def test_a_damaged_graph_is_an_error_that_names_it(graph: Path, damage: Callable[[Path], None]) -> None:
    damage(graph)
    with pytest.raises(EngineError, match=r"cannot open .*product\.onnx"):
        open_engine(graph, shapes={"x": (1, 3)})


def test_a_closed_engine_says_so(graph: Path) -> None:
    engine = open_engine(graph, shapes={"x": (1, 3)})
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.run()


def test_an_unknown_engine_is_an_error_that_lists_the_known(graph: Path) -> None:
    with pytest.raises(EngineError, match=r"'warp'.*auto, onnxruntime-cpu"):
        open_engine(graph, "warp", shapes={"x": (1, 3)})


def test_auto_says_what_it_took(graph: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "sightline")
    open_engine(graph, "auto", shapes={"x": (1, 3)}).close()
    assert "onnxruntime-cpu" in caplog.text


@pytest.mark.parametrize("engine", ["auto", "onnxruntime-cpu"])
def test_a_missing_package_is_named_with_how_to_get_it(
    graph: Path, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sightline.bindings.find_spec", lambda name: None)
    assert [entry.version for entry in available()] == [None]
    with pytest.raises(MissingPackageError, match="pip install onnxruntime"):
        open_engine(graph, engine, shapes={"x": (1, 3)})


def test_listing_engines_loads_none_of_them() -> None:
    script = """
import sys
from sightline.bindings import available
print(available())
sys.exit("onnxruntime" in sys.modules)
"""
    said = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    assert "onnxruntime-cpu" in said
    assert importlib.util.find_spec("onnxruntime") is not None
