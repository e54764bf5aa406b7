"""Which axes of a tensor are the rows and columns of the image, followed through a graph."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import onnx_ir as ir

from sightline.bundle import Layout

CHANNELS_FIRST = (-2, -1)
"""The pixels of N×C×H×W. Axes are counted from the last one, as when shapes are broadcast."""
CHANNELS_LAST = (-3, -2)
"""The pixels of N×H×W×C."""
_RESHAPING = {"Flatten", "Reshape", "Squeeze", "Unsqueeze"}
_PRODUCTS = {"Einsum", "Gemm", "MatMul"}


@dataclass(frozen=True)
class Grid:
    """Where a tensor has its pixels."""

    axes: tuple[int, int] | None
    """Rows and columns; None where they are mixed with something else, as tokens or with one another."""
    height: int
    width: int
    """Of the last tensor before it that had them, of the image at first."""

    def behind(self, node: ir.Node, output: ir.Value) -> Grid:
        """The same of a node's output."""
        shape = tuple(size if isinstance(size, int) else 0 for size in output.shape or ())
        axes = self._axes_behind(node, shape)
        if axes is None or len(shape) != 4:
            return replace(self, axes=axes)
        return Grid(axes, shape[axes[0]], shape[axes[1]])

    def _axes_behind(self, node: ir.Node, shape: tuple[int, ...]) -> tuple[int, int] | None:
        if len(shape) < 4:
            return None
        if node.op_type == "Transpose" and self.axes is not None:
            order = list(node.attributes.get_ints("perm", range(len(shape))[::-1]))
            rows, columns = (order.index(axis + len(shape)) - len(shape) for axis in self.axes)
            return (rows, columns) if columns == rows + 1 else None
        if node.op_type in _RESHAPING or node.op_type == "Transpose":  # pixels again: tokens put back
            places = (CHANNELS_FIRST, CHANNELS_LAST)
            return next((axes for axes in places if self._in_proportion(*(shape[axis] for axis in axes))), None)
        if self.axes is None or node.op_type in _PRODUCTS:
            return self.axes if _is_linear(node) and self.axes != CHANNELS_FIRST else None
        return self.axes

    def _in_proportion(self, height: int, width: int) -> bool:
        """Whether every so many pixels, in both directions, make so many."""
        factor = max(1, round(self.height / max(height, 1)))
        return all(
            size in (whole // factor, math.ceil(whole / factor))
            for size, whole in ((height, self.height), (width, self.width))
        )


def _is_linear(node: ir.Node) -> bool:
    """Whether it is a linear layer, which mixes the last axis; any other product mixes pixels."""
    weights = node.inputs[1] if node.op_type == "MatMul" else None
    return weights is not None and weights.const_value is not None and len(weights.const_value.shape) == 2


def grids(nodes: Iterable[ir.Node], image: ir.Value, layout: Layout) -> Mapping[ir.Value, Grid]:
    """Of the image and whatever is computed from it.

    Args:
        nodes: of a graph with static shapes, sorted.
        image: its input.
        layout: of the image.
    """
    axes = CHANNELS_FIRST if layout == "NCHW" else CHANNELS_LAST
    sizes = [size if isinstance(size, int) else 0 for size in image.shape or ()]
    found = {image: Grid(axes, *(sizes[axis] for axis in axes))}
    for node in nodes:
        sources = [found[value] for value in node.inputs if value is not None and value in found]
        if sources:
            found.update((value, sources[0].behind(node, value)) for value in node.outputs)
    return found
