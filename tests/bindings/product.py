"""A graph small enough to know its results by heart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

WEIGHTS = np.array([[1, 2], [3, 4], [5, 6]], np.float32)


def write(folder: Path, weights: npt.NDArray[np.float32] = WEIGHTS) -> Path:
    """x (N×3) -> y = x·W (M×2, the same M as N by another name) and total (), its weights in a file of their own."""
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
        helper.make_graph(nodes, "product", inputs, outputs, [numpy_helper.from_array(weights, "w")]),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=9,
    )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "product.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert (folder / "weights.bin").stat().st_size >= WEIGHTS.nbytes
    return path
