"""Operators that move elements without changing them."""

from __future__ import annotations

import itertools

from sightline.exporter.builder import Term
from sightline.exporter.gradient import Step
from sightline.exporter.rules.rule import Gradients, Rule


def _reshaped(s: Step) -> Term:
    return s.builder.reshape(s.g, s.shape()) if s.shape() else s.builder.reshape_exactly(s.g, ())


def _cast(s: Step) -> Gradients:
    dtype = s.x.value.dtype
    if dtype is None or not dtype.is_floating_point() or s.g.value.dtype == dtype:
        return s.g
    return s.builder.cast(s.g, dtype)


def _concat(s: Step) -> Gradients:
    axis = s.integer("axis", 0) % len(s.output_shape)
    sizes = [s.shape(position)[axis] for position in range(len(s.node.inputs))]
    ends = list(itertools.accumulate(sizes))
    return {
        position: s.builder.slice(s.g, [end - size], [end], [axis], [1])
        for position, (size, end) in enumerate(zip(sizes, ends, strict=True))
        if s.needs(position)
    }


def _split(s: Step) -> Term:
    """Every part padded to the whole, and summed: parts that nothing uses cost nothing."""
    axis = s.integer("axis", 0) % len(s.shape())
    whole = s.shape()[axis]
    rank = len(s.shape())
    if s.has(1):
        sizes = [int(size) for size in s.constant(1)]
    else:
        # The last part is the smaller one where the parts are not equal (opset 18).
        part = -(-whole // len(s.node.outputs))
        sizes = [min(part, whole - part * index) for index in range(len(s.node.outputs))]
    total: Term | None = None
    for size, end, gradient in zip(sizes, itertools.accumulate(sizes), s.gradients, strict=True):
        if gradient is None:
            continue
        begins, ends = [0] * rank, [0] * rank
        begins[axis], ends[axis] = end - size, whole - end
        padded = s.builder.pad(gradient, begins, ends)
        total = padded if total is None else total + padded
    if total is None:
        raise s.unsupported("yields nothing that is used")
    return total


def _transpose(s: Step) -> Term:
    permutation = s.integers("perm", range(len(s.shape()))[::-1])
    return s.builder.transpose(s.g, [permutation.index(axis) for axis in range(len(permutation))])


def _depth_to_space(s: Step) -> Term:
    batch, depth, height, width = s.shape()
    size = s.integer("blocksize", 1)
    channels = depth // size**2
    split = s.builder.reshape(s.g, (batch, channels, height, size, width, size))
    order = (0, 3, 5, 1, 2, 4) if s.string("mode", "DCR") == "DCR" else (0, 1, 3, 5, 2, 4)
    return s.builder.reshape(s.builder.transpose(split, order), s.shape())


def _space_to_depth(s: Step) -> Term:
    batch, channels, height, width = s.shape()
    size = s.integer("blocksize", 1)
    split = s.builder.reshape(s.g, (batch, size, size, channels, height // size, width // size))
    return s.builder.reshape(s.builder.transpose(split, (0, 3, 4, 1, 5, 2)), s.shape())


def _first_output(s: Step) -> Term:
    if any(gradient is not None for gradient in s.gradients[1:]):
        raise s.unsupported("is used through another output than its first")
    return s.g


STRUCTURE: dict[str, Rule] = {
    "Cast": _cast,
    "Concat": _concat,
    "DepthToSpace": _depth_to_space,
    "Dropout": _first_output,
    "Expand": lambda s: s.unbroadcast(s.g, 0),
    "Flatten": _reshaped,
    "Identity": lambda s: s.g,
    "Reshape": _reshaped,
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Squeeze": _reshaped,
    "Transpose": _transpose,
    "Unsqueeze": _reshaped,
}
