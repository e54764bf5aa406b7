"""Operators that are a constant matrix along each axis, or along the first ones together: their gradient is its
transpose."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import helper

from sightline.exporter.builder import Term
from sightline.exporter.gradient import Step
from sightline.exporter.rules.rule import Rule

Matrix = npt.NDArray[np.floating]


def _transposed(s: Step, matrices: Mapping[int, Matrix]) -> Term:
    """Apply the transpose of each axis's matrix (output × input)."""
    gradient = s.g
    for axis, matrix in matrices.items():
        gradient = s.builder.along_axis(gradient, matrix.T, axis, len(s.shape()))
    return gradient


def _gather(s: Step) -> Term:
    shape = s.shape()
    axis = s.integer("axis", 0) % len(shape)
    rows = np.eye(shape[axis])[s.constant(1).reshape(-1)]
    flat = (*shape[:axis], len(rows), *shape[axis + 1 :])
    return s.builder.along_axis(s.builder.reshape(s.g, flat), rows.T, axis, len(shape))


def _gather_nd(s: Step) -> Term:
    """Entries of the first axes, as torch writes an adaptive pooling whose windows differ in size."""
    if s.integer("batch_dims", 0):
        raise s.unsupported("gathers row by row (batch_dims), which has no rule")
    shape, indices = s.shape(), s.constant(1)
    depth = indices.shape[-1]
    leading, kept = shape[:depth], shape[depth:]
    entries = np.ravel_multi_index(tuple(np.moveaxis(indices, -1, 0).reshape(depth, -1)), leading, mode="wrap")
    matrix = np.eye(math.prod(leading))[entries]
    gradient = s.builder.reshape_exactly(s.g, (len(entries), -1))
    gradient = s.builder("MatMul", s.builder.constant(matrix.T, like=s.g), gradient)
    return s.builder.reshape_exactly(gradient, (*leading, *((-1, *kept[1:]) if kept else ())))


def _slice(s: Step) -> Term:
    shape = s.shape()
    starts, ends = s.constant(1), s.constant(2)
    axes = s.constant(3) if s.has(3) else np.arange(len(starts))
    steps = s.constant(4) if s.has(4) else np.ones(len(starts), dtype=np.int64)
    begins, after = [0] * len(shape), [0] * len(shape)
    matrices = {}
    for start, end, axis, step in zip(*(map(int, values) for values in (starts, ends, axes, steps)), strict=True):
        axis %= len(shape)
        size = shape[axis]
        # An end below −size means "past the beginning" for a negative step; Python would count it from the end again.
        stop = None if step < 0 and end < -size else end
        taken = range(size)[slice(start, stop, step)]
        if step == 1:
            begins[axis], after[axis] = taken.start, size - taken.stop
        else:
            matrices[axis] = np.eye(size)[list(taken)]
    return s.builder.pad(_transposed(s, matrices), begins, after)


def _pad(s: Step) -> Term:
    shape = s.shape()
    mode = s.string("mode", "constant")
    pads = [int(amount) for amount in s.constant(1)]
    axes = [int(axis) % len(shape) for axis in s.constant(3)] if s.has(3) else list(range(len(shape)))
    begins, ends = dict(zip(axes, pads, strict=False)), dict(zip(axes, pads[len(axes) :], strict=True))
    if mode == "constant":
        return s.builder.pad(
            s.g,
            [-begins.get(axis, 0) for axis in range(len(shape))],
            [-ends.get(axis, 0) for axis in range(len(shape))],
        )
    matrices = {}
    for axis in axes:
        begin, end, size = begins[axis], ends[axis], shape[axis]
        if begin or end:
            # np.pad has the same modes under the same names; negative amounts crop.
            padded = np.pad(np.arange(size), (max(begin, 0), max(end, 0)), mode=mode)  # type: ignore[call-overload]
            kept = padded[max(-begin, 0) : len(padded) - max(-end, 0)]
            matrices[axis] = np.eye(size)[kept]
    return _transposed(s, matrices)


def _resize(s: Step) -> Term:
    shape, out = s.shape(), s.output_shape
    axes = s.integers("axes", range(len(shape)))
    scales = {}
    if s.has(2) and s.constant(2).size:
        scales = dict(zip((axis % len(shape) for axis in axes), s.constant(2).tolist(), strict=True))
    return _transposed(
        s,
        {
            axis: _resize_matrix(s, size, to, scales.get(axis))
            for axis, (size, to) in enumerate(zip(shape, out, strict=True))
            if size != to or scales.get(axis, 1.0) != 1.0
        },
    )


def _resize_matrix(s: Step, size: int, to: int, scale: float | None) -> Matrix:
    """What ONNX Runtime makes of the rows of an identity matrix: the operator has too many modes to write them anew."""
    attributes = {
        name: attribute.value
        for name, attribute in s.node.attributes.items()
        if name not in ("axes", "keep_aspect_ratio_policy")
    }
    if attributes.get("coordinate_transformation_mode") == "tf_crop_and_resize":
        raise s.unsupported("crops (tf_crop_and_resize), which has no rule")
    if scale is None:
        name, given = "sizes", helper.make_tensor("sizes", onnx.TensorProto.INT64, [4], [1, 1, size, to])
    else:
        name, given = "scales", helper.make_tensor("scales", onnx.TensorProto.FLOAT, [4], [1, 1, 1, scale])
    node = helper.make_node(
        "Resize", ["x", "", *(["scales"] if name == "scales" else ["", "sizes"])], ["y"], **attributes
    )
    x, y = (helper.make_tensor_value_info(end, onnx.TensorProto.FLOAT, None) for end in "xy")
    graph = helper.make_graph([node], "resize", [x], [y], [given])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", s.opset)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (rows,) = session.run(None, {"x": np.eye(size, dtype=np.float32)[None, None]})
    return np.asarray(rows[0, 0].T, np.float64)


SAMPLING: dict[str, Rule] = {
    "Gather": _gather,
    "GatherND": _gather_nd,
    "Pad": _pad,
    "Resize": _resize,
    "Slice": _slice,
}
