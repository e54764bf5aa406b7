"""Pools. Max pooling is differentiated without the ``Indices`` output, which TensorRT lacks."""

from __future__ import annotations

import itertools
import math

import numpy as np
import onnx_ir as ir

from sightline.exporter.builder import Shape, Term
from sightline.exporter.gradient import Step
from sightline.exporter.rules.rule import Rule
from sightline.exporter.rules.window import Window, window

LOWEST = float(np.finfo(np.float32).min)


def _pool_window(s: Step) -> Window:
    kernel = s.integers("kernel_shape", [])
    return window(s, kernel, inputs=s.shape()[2:], outputs=s.output_shape[2:])


def _planes(s: Step, term: Term, spatial: Shape) -> Term:
    """N×C×… as (N·C)×1×…: a pool treats every channel alike."""
    return s.builder("Reshape", term, s.builder.integers((-1, 1, *spatial)))


def _spread(s: Step, g: Term, kernels: np.ndarray, geometry: Window) -> Term:
    """Add the gradient of every window, (N·C)×M×…, to the positions that its kernel (M×1×…) selects."""
    spread = s.builder("ConvTranspose", g, s.builder.constant(kernels, like=g), **geometry.transposed)
    return s.builder.reshape(spread, s.shape())


def _max_pool(s: Step) -> Term:
    """Each window's positions side by side as channels; ArgMax finds the first maximum, a one-hot kernel puts its
    gradient back in place. The positions come from slices, not from a convolution: a comparison must stay exact in
    reduced precision."""
    geometry = _pool_window(s)
    rank = len(geometry.kernel)
    planes = _planes(s, s.x, geometry.inputs)
    hanging = [
        max(reach - begin - size, 0)
        for reach, begin, size in zip(geometry.covered, geometry.begins, geometry.inputs, strict=True)
    ]
    padded = s.builder.pad(planes, [0, 0, *geometry.begins], [0, 0, *hanging], LOWEST)
    axes = range(2, rank + 2)
    offsets = list(itertools.product(*(range(size) for size in geometry.kernel)))
    patches = []
    for offset in offsets:
        starts = [index * dilation for index, dilation in zip(offset, geometry.dilations, strict=True)]
        ends = [
            start + (out - 1) * stride + 1
            for start, out, stride in zip(starts, geometry.outputs, geometry.strides, strict=True)
        ]
        patches.append(s.builder.slice(padded, starts, ends, list(axes), geometry.strides))
    stacked = s.builder("Concat", *patches, axis=1)
    first = s.builder("ArgMax", stacked, axis=1, keepdims=1, dtype=ir.DataType.INT64)
    # Channels get an axis of their own again: there may be several gradients for the one image whose maxima these are.
    apart = s.builder.integers((-1, s.shape()[1], 1, *geometry.outputs))
    first, g = s.builder("Reshape", first, apart), s.builder("Reshape", s.g, apart)
    numbers = s.builder.array(np.arange(len(offsets), dtype=np.int64).reshape(1, 1, -1, *[1] * rank))
    routed = s.gated(first.equals(numbers), g)
    routed = s.builder("Reshape", routed, s.builder.integers((-1, len(offsets), *geometry.outputs)))
    one_hot = np.eye(len(offsets)).reshape(len(offsets), 1, *geometry.kernel)
    return _spread(s, routed, one_hot, geometry)


def _average_pool(s: Step) -> Term:
    geometry = _pool_window(s)
    counts = np.ones((1, 1, *(1 for _ in geometry.kernel)))
    for axis, (size, stride, dilation, begin, end, length, out) in enumerate(
        zip(
            geometry.kernel,
            geometry.strides,
            geometry.dilations,
            geometry.begins,
            geometry.ends,
            geometry.inputs,
            geometry.outputs,
            strict=True,
        )
    ):
        positions = np.arange(out)[:, None] * stride - begin + np.arange(size)[None] * dilation
        low, high = (-begin, length + end) if s.integer("count_include_pad", 0) else (0, length)
        inside = ((positions >= low) & (positions < high)).sum(axis=1)
        counts = counts * inside.reshape([-1 if axis + 2 == other else 1 for other in range(len(geometry.kernel) + 2)])
    g = _planes(s, s.g, geometry.outputs) / s.builder.constant(counts, like=s.g)
    return _spread(s, g, np.ones((1, 1, *geometry.kernel)), geometry)


def _global_average_pool(s: Step) -> Term:
    return s.builder.expand(s.g * (1 / math.prod(s.shape()[2:])), s.shape())


def _global_max_pool(s: Step) -> Term:
    """The first maximum of each plane takes it all."""
    shape = s.shape()
    length = math.prod(shape[2:])
    flat = s.builder("Reshape", s.x, s.builder.integers((-1, shape[1], length)))
    first = s.builder("ArgMax", flat, axis=2, keepdims=1, dtype=ir.DataType.INT64)
    hit = first.equals(s.builder.array(np.arange(length, dtype=np.int64)))
    g = s.builder("Reshape", s.g, s.builder.integers((-1, shape[1], 1)))
    return s.builder.reshape(s.gated(hit, g), shape)


POOLING: dict[str, Rule] = {
    "AveragePool": _average_pool,
    "GlobalAveragePool": _global_average_pool,
    "GlobalMaxPool": _global_max_pool,
    "MaxPool": _max_pool,
}
