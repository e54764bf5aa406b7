"""Operators written as their specification reads, in float64, where ONNX's reference evaluator cannot serve.

It fails on some pads, dilations and output shapes, disagrees with the specification in LRN, and computes erf and group
normalisation in float32.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

Array: TypeAlias = npt.NDArray[Any]
Oracle: TypeAlias = Callable[..., Array]
"""The node's inputs, None for one left out, to its output."""

erf = np.vectorize(math.erf, otypes=[np.float64])


def gelu(x: Array) -> Array:
    return np.asarray(0.5 * x * (1 + erf(x / math.sqrt(2))))


def group_normalization(x: Array, scale: Array, bias: Array, *, num_groups: int, epsilon: float) -> Array:
    groups = x.reshape(x.shape[0], num_groups, -1)
    mean, variance = groups.mean(-1, keepdims=True), groups.var(-1, keepdims=True)
    standard = ((groups - mean) / np.sqrt(variance + epsilon)).reshape(x.shape)
    wide = (-1, *[1] * (x.ndim - 2))
    return np.asarray(standard * scale.reshape(wide) + bias.reshape(wide))


def lrn(x: Array, *, attributes: Mapping[str, Any]) -> Array:
    size, alpha, beta, bias = (attributes[name] for name in ("size", "alpha", "beta", "bias"))
    channels = x.shape[1]
    y = np.empty_like(x)
    for c in range(channels):
        low, high = max(0, c - (size - 1) // 2), min(channels - 1, c + math.ceil((size - 1) / 2))
        total = (x[:, low : high + 1] ** 2).sum(axis=1)
        y[:, c] = x[:, c] / (bias + alpha / size * total) ** beta
    return y


def resize(
    x: Array,
    _roi: None = None,
    scales: Array | None = None,
    sizes: Array | None = None,
    *,
    attributes: Mapping[str, Any],
) -> Array:
    """Nearest or linear, one axis after the other; coordinates beyond the ends are those of the ends."""
    which = attributes.get("axes", range(x.ndim))
    for i, axis in enumerate(which):
        length = x.shape[axis]
        if sizes is not None:
            resized = int(sizes[i])
            scale = resized / length
        else:
            assert scales is not None
            scale = float(scales[i])
            resized = math.floor(length * scale)
        places = np.arange(resized, dtype=np.float64)
        mode = attributes.get("coordinate_transformation_mode", "half_pixel")
        if mode == "asymmetric":
            original = places / scale
        elif mode == "align_corners":
            original = places * (length - 1) / max(resized - 1, 1)
        elif mode == "pytorch_half_pixel" and resized == 1:
            original = places * 0
        else:
            original = (places + 0.5) / scale - 0.5
        if attributes.get("mode", "nearest") == "nearest":
            rounded = {
                "round_prefer_floor": np.ceil(original - 0.5),
                "floor": np.floor(original),
                "ceil": np.ceil(original),
            }[attributes["nearest_mode"]]
            x = np.take(x, rounded.clip(0, length - 1).astype(int), axis)
            continue
        below = np.floor(original)
        share = (original - below).reshape([-1 if other == axis else 1 for other in range(x.ndim)])
        lower, upper = (np.take(x, (below + k).clip(0, length - 1).astype(int), axis) for k in (0, 1))
        x = lower * (1 - share) + upper * share
    return x


def pad(x: Array, pads: Array, value: Array | None = None, axes: Array | None = None, *, mode: str) -> Array:
    """Negative amounts crop."""
    which = range(x.ndim) if axes is None else [int(axis) % x.ndim for axis in axes]
    for axis, begin, end in zip(which, pads[: len(pads) // 2], pads[len(pads) // 2 :], strict=True):
        widths = [(0, 0)] * x.ndim
        widths[axis] = (max(begin, 0), max(end, 0))
        constant = {"constant_values": 0.0 if value is None else float(value)} if mode == "constant" else {}
        x = np.pad(x, widths, mode, **constant)  # type: ignore[call-overload]
        x = np.take(x, range(max(-begin, 0), x.shape[axis] - max(-end, 0)), axis)
    return x


def conv_transpose(x: Array, weights: Array, *, attributes: Mapping[str, Any]) -> Array:
    """All that the windows reach, then cropped by the pads."""
    rank = x.ndim - 2
    strides = attributes["strides"]
    dilations = attributes.get("dilations", [1] * rank)
    extra = attributes.get("output_padding", [0] * rank)
    automatic = attributes.get("auto_pad", "NOTSET")
    transposed = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[rank - 1]
    full = transposed(
        torch.from_numpy(x), torch.from_numpy(weights), None, strides, 0, 0, attributes["group"], dilations
    ).numpy()
    full = np.pad(full, [(0, 0), (0, 0), *((0, more) for more in extra)])
    for axis in range(rank):
        begin = attributes.get("pads", [0] * (2 * rank))[axis]
        size = full.shape[axis + 2] - begin - attributes.get("pads", [0] * (2 * rank))[axis + rank]
        if "output_shape" in attributes or automatic.startswith("SAME"):
            size = (
                attributes["output_shape"][axis] if "output_shape" in attributes else x.shape[axis + 2] * strides[axis]
            )
            total = full.shape[axis + 2] - size
            begin = total // 2 if automatic == "SAME_UPPER" else total - total // 2
        full = np.take(full, range(begin, begin + size), axis + 2)
    return full


def pool(x: Array, *, attributes: Mapping[str, Any], average: bool) -> Array:
    """Window by window: the maximum or the mean of what lies inside."""
    kernel, strides = attributes["kernel_shape"], attributes["strides"]
    rank = len(kernel)
    dilations = attributes.get("dilations", [1] * rank)
    lengths = x.shape[2:]
    begins, ends, sizes = [], [], []
    for axis in range(rank):
        begin, end, size = _extent(attributes, axis, lengths[axis], (kernel[axis] - 1) * dilations[axis] + 1)
        begins.append(begin)
        ends.append(end)
        sizes.append(size)
    y: Array = np.empty((*x.shape[:2], *sizes))
    for place in itertools.product(*map(range, sizes)):
        positions = [
            [index * strides[axis] - begins[axis] + offset * dilations[axis] for offset in range(kernel[axis])]
            for axis, index in enumerate(place)
        ]
        inside = [[p for p in row if 0 <= p < lengths[axis]] for axis, row in enumerate(positions)]
        window = x[np.ix_(range(x.shape[0]), range(x.shape[1]), *inside)].reshape(*x.shape[:2], -1)
        index: tuple[Any, ...] = (slice(None), slice(None), *place)
        if average and attributes.get("count_include_pad", 0):
            padded = [[p for p in row if p < lengths[axis] + ends[axis]] for axis, row in enumerate(positions)]
            y[index] = window.sum(axis=-1) / math.prod(map(len, padded))
        else:
            y[index] = window.mean(axis=-1) if average else window.max(axis=-1)
    return y


def _extent(attributes: Mapping[str, Any], axis: int, length: int, reach: int) -> tuple[int, int, int]:
    """Padding before and behind one axis, and how many windows there are."""
    stride = attributes["strides"][axis]
    automatic = attributes.get("auto_pad", "NOTSET")
    if automatic.startswith("SAME"):
        size = -(-length // stride)
        total = max((size - 1) * stride + reach - length, 0)
        begin = total // 2 if automatic == "SAME_UPPER" else total - total // 2
        return begin, total - begin, size
    pads: Sequence[int] = attributes.get("pads", [0] * (2 * len(attributes["kernel_shape"])))
    begin, end = pads[axis], pads[axis + len(pads) // 2]
    room = length + begin + end - reach
    if not attributes.get("ceil_mode", 0):
        return begin, end, room // stride + 1
    size = -(-room // stride) + 1
    # A window that would start behind the image, in the padding, does not count.
    return begin, end, size - 1 if (size - 1) * stride >= length + begin else size
