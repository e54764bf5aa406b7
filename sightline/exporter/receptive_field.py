"""Receptive fields: which pixels a unit of a feature map depends on, read off the graph.

Along each axis of the image, index i of a tensor sees the pixels from stride·i + low to stride·i + high. Every operator
turns the reach of its inputs into that of its output (Araujo et al., Distill 2019, for the chain of windows; where
branches meet it is their union). What an operator does is never underestimated: one that is not known here, or that
mixes all positions, sees the whole axis. Padding needs no case of its own: pixels outside the image do not exist.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import onnx_ir as ir

from sightline import bundle
from sightline.exporter.builder import Builder
from sightline.exporter.gradient import Step
from sightline.exporter.rules.window import window

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reach:
    """What one axis of the image is to a tensor: index i of the tensor's ``axis`` sees stride·i + low … + high."""

    axis: int | None
    """None: everything in the tensor may see all of the image's axis."""
    stride: float = 1.0
    low: float = 0.0
    high: float = 0.0

    def through(self, stride: float, low: float, high: float) -> Reach:
        """Of an output whose index i reads stride·i + low … + high of this axis."""
        return replace(
            self,
            stride=self.stride * stride,
            low=self.stride * low + self.low,
            high=self.stride * high + self.high,
        )


WHOLE = Reach(None)

Rule: TypeAlias = Callable[[Step, int, Reach], Reach]
"""From a node, the position of an input and that input's reach along an axis it still has, to the output's."""


def receptive_fields(
    graph: ir.Graph, image: ir.Value, layout: bundle.Layout, maps: Sequence[ir.Value]
) -> list[tuple[bundle.Span | None, bundle.Span | None]]:
    """The spans of rows and columns that a unit of each feature map sees.

    Args:
        graph: static shapes, sorted.
        image: its input.
        layout: of the image.
        maps: feature maps 1×C×h×w.

    Returns:
        Of every map, rows and columns; None where a unit may see all of them.
    """
    axes = (2, 3) if layout == "NCHW" else (1, 2)
    reaches: dict[ir.Value, tuple[Reach, Reach]] = {image: (Reach(axes[0]), Reach(axes[1]))}
    builder = Builder(graph, "receptive field/")
    for node in graph:
        seen = {index: reaches[value] for index, value in enumerate(node.inputs) if value in reaches}
        if not seen:
            continue
        step = Step(builder, node, (), frozenset())
        rows, columns = (
            _union([_output(step, index, pair[which]) for index, pair in seen.items()]) for which in (0, 1)
        )
        reaches.update(dict.fromkeys(node.outputs, (rows, columns)))
    found = []
    for value in maps:
        rows, columns = reaches[value]
        found.append((_span(rows, 2), _span(columns, 3)))
    return found


def _span(reach: Reach, axis: int) -> bundle.Span | None:
    if reach.axis != axis:
        return None
    return bundle.Span(offset=reach.low, stride=reach.stride, size=reach.high - reach.low + 1)


def _output(step: Step, position: int, reach: Reach) -> Reach:
    if reach.axis is None:
        return WHOLE
    rule = _RULES.get(step.node.op_type)
    if rule is None:
        logger.debug("receptive field: %s is taken to see everything", step.node.op_type)
        return WHOLE
    return rule(step, position, reach)


def _union(reaches: Sequence[Reach]) -> Reach:
    first = reaches[0]
    if any((reach.axis, reach.stride) != (first.axis, first.stride) for reach in reaches):
        return WHOLE
    return replace(first, low=min(reach.low for reach in reaches), high=max(reach.high for reach in reaches))


def _elementwise(step: Step, position: int, reach: Reach) -> Reach:
    """Shapes broadcast from the right; an axis that is stretched is seen whole by every index."""
    shape, out = step.shape(position), step.output_shape
    axis = (reach.axis or 0) + len(out) - len(shape)
    return replace(reach, axis=axis) if shape[reach.axis or 0] == out[axis] else WHOLE


def _window(step: Step, position: int, reach: Reach) -> Reach:
    axis = (reach.axis or 0) - 2
    if axis < 0 or position != 0:
        return WHOLE
    kernel = step.shape(1)[2:] if step.node.op_type == "Conv" else step.integers("kernel_shape", [])
    geometry = window(step, kernel, inputs=step.shape()[2:], outputs=step.output_shape[2:])
    begin, extent = geometry.begins[axis], (geometry.kernel[axis] - 1) * geometry.dilations[axis]
    return reach.through(geometry.strides[axis], -begin, extent - begin)


def _transposed_window(step: Step, position: int, reach: Reach) -> Reach:
    """Input j spreads over the outputs stride·j − begin … + extent, so output i reads (i + begin − extent) / stride …
    (i + begin) / stride."""
    axis = (reach.axis or 0) - 2
    automatic = step.string("auto_pad", "NOTSET") != "NOTSET" or "output_shape" in step.node.attributes
    if axis < 0 or position != 0 or automatic:
        return WHOLE
    rank = len(step.shape()) - 2
    stride, dilation = step.integers("strides", [1] * rank)[axis], step.integers("dilations", [1] * rank)[axis]
    begin, extent = step.integers("pads", [0] * 2 * rank)[axis], (step.shape(1)[2 + axis] - 1) * dilation
    return reach.through(1 / stride, (begin - extent) / stride, begin / stride)


def _resized(step: Step, position: int, reach: Reach) -> Reach:
    """A generous bound: the neighbours of a sampling position (two to a side where cubic), and what the rounding of the
    output's size may move it by."""
    axis = reach.axis or 0
    if position != 0 or step.string("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
        return WHOLE
    size, out = step.shape()[axis], step.output_shape[axis]
    if size == out:
        return reach
    if step.string("coordinate_transformation_mode", "half_pixel") == "align_corners":
        stride = (size - 1) / max(out - 1, 1)
    else:
        stride = size / out
    wide = max(stride, 1.0) if step.integer("antialias", 0) else 1.0
    margin = 2 * wide if step.string("mode", "nearest") == "cubic" else wide
    shift = abs(stride - 1) / 2 + 1
    return reach.through(stride, -shift - margin, shift + margin)


def _padded(step: Step, position: int, reach: Reach) -> Reach:
    mode, axis, rank = step.string("mode", "constant"), reach.axis or 0, len(step.shape())
    pads = [int(amount) for amount in step.constant(1)]
    axes = [int(each) % rank for each in step.constant(3)] if step.has(3) else list(range(rank))
    if position != 0 or axis not in axes:
        return reach if position == 0 else WHOLE
    begin, end = pads[axes.index(axis)], pads[len(axes) + axes.index(axis)]
    if mode == "wrap":
        return reach if begin == end == 0 else WHOLE
    # A mirrored position lies up to twice the padding inward, a repeated one once.
    moved = {"constant": 0, "edge": 1, "reflect": 2}[mode] * max(begin, end, 0)
    return reach.through(1, -begin - moved, -begin + moved)


def _sliced(step: Step, position: int, reach: Reach) -> Reach:
    rank = len(step.shape())
    starts = [int(start) for start in step.constant(1)]
    axes = [int(axis) % rank for axis in step.constant(3)] if step.has(3) else list(range(len(starts)))
    if position != 0 or reach.axis not in axes:
        return reach if position == 0 else WHOLE
    which = axes.index(reach.axis)
    stride = int(step.constant(4)[which]) if step.has(4) else 1
    size = step.shape()[reach.axis]
    if stride < 0:
        return WHOLE
    start = min(starts[which] + size if starts[which] < 0 else starts[which], size)
    return reach.through(stride, max(start, 0), max(start, 0))


def _along(name: str, default: int) -> Rule:
    """Operators that mix, split or join along one axis, and leave the others as they are."""

    def rule(step: Step, position: int, reach: Reach) -> Reach:
        if position != 0 and step.node.op_type != "Concat":
            return WHOLE
        axis = step.integer(name, default) % len(step.shape(position))
        return WHOLE if axis == reach.axis else reach

    return rule


def _normalized(step: Step, position: int, reach: Reach) -> Reach:
    """Over the last axes, from ``axis`` on."""
    first = step.integer("axis", -1) % len(step.shape())
    return WHOLE if position != 0 or (reach.axis or 0) >= first else reach


def _reduced(step: Step, position: int, reach: Reach) -> Reach:
    rank = len(step.shape())
    axes = {int(axis) % rank for axis in step.constant(1).reshape(-1)} if step.has(1) else set(range(rank))
    if position != 0 or reach.axis is None or reach.axis in axes:
        return WHOLE
    gone = 0 if step.integer("keepdims", 1) else sum(axis < reach.axis for axis in axes)
    return replace(reach, axis=reach.axis - gone)


def _reshaped(step: Step, position: int, reach: Reach) -> Reach:
    """An axis survives a reshape that keeps its length and the number of elements before it."""
    shape, out, axis = step.shape(), step.output_shape, reach.axis or 0
    before = math.prod(shape[:axis])
    for other, size in enumerate(out):
        if size == shape[axis] and math.prod(out[:other]) == before and position == 0:
            return replace(reach, axis=other)
    return WHOLE


def _turned(step: Step, position: int, reach: Reach) -> Reach:
    permutation = step.integers("perm", range(len(step.shape()))[::-1])
    return replace(reach, axis=permutation.index(reach.axis or 0))


def _multiplied(step: Step, position: int, reach: Reach) -> Reach:
    """A matrix product with constants on its right mixes the last axis only."""
    rank = len(step.shape(position))
    weights = step.node.inputs[1]
    learned = weights is not None and weights.const_value is not None
    return reach if learned and reach.axis != rank - 1 and rank == len(step.output_shape) else WHOLE


def _depth_to_space(step: Step, position: int, reach: Reach) -> Reach:
    size = step.integer("blocksize", 1)
    return reach.through(1 / size, -1 + 1 / size, 0) if (reach.axis or 0) > 1 else WHOLE


def _space_to_depth(step: Step, position: int, reach: Reach) -> Reach:
    size = step.integer("blocksize", 1)
    return reach.through(size, 0, size - 1) if (reach.axis or 0) > 1 else WHOLE


_ELEMENTWISE = (
    {"Abs", "Add", "And", "BatchNormalization", "Cast", "Ceil", "Celu", "Clip", "Div", "Dropout", "Elu", "Equal", "Erf"}
    | {"Exp", "Floor", "Gelu", "Greater", "GreaterOrEqual", "HardSigmoid", "HardSwish", "Identity", "LRN", "LeakyRelu"}
    | {"Less", "LessOrEqual", "Log", "Max", "Mean", "Min", "Mish", "Mul", "Neg", "Not", "Or", "PRelu", "Pow"}
    | {"Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Softplus", "Softsign", "Sqrt", "Sub", "Sum"}
    | {"Swish", "Tanh", "ThresholdedRelu", "Where", "Xor"}
)
_RULES: Mapping[str, Rule] = {
    **dict.fromkeys(_ELEMENTWISE, _elementwise),
    **dict.fromkeys(("Conv", "MaxPool", "AveragePool", "LpPool"), _window),
    **dict.fromkeys(("Softmax", "LogSoftmax"), _along("axis", -1)),
    **dict.fromkeys(("Concat", "Split"), _along("axis", 0)),
    **dict.fromkeys(("LayerNormalization", "RMSNormalization"), _normalized),
    **dict.fromkeys(("ReduceL2", "ReduceMax", "ReduceMean", "ReduceSum"), _reduced),
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), _reshaped),
    "ConvTranspose": _transposed_window,
    "DepthToSpace": _depth_to_space,
    "MatMul": _multiplied,
    "Pad": _padded,
    "Resize": _resized,
    "Slice": _sliced,
    "SpaceToDepth": _space_to_depth,
    "Transpose": _turned,
}
"""By operator; one that is not here is taken to see everything."""
