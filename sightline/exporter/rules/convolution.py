"""Conv and ConvTranspose: each is the other's gradient, with the same weights."""

from __future__ import annotations

import numpy as np

from sightline.exporter.builder import Term
from sightline.exporter.gradient import Step
from sightline.exporter.rules.rule import Rule
from sightline.exporter.rules.window import Window, window


def _constant_weights(s: Step) -> None:
    if s.needs(1) or s.needs(2):
        raise s.unsupported("has weights that depend on the image")


def _conv(s: Step) -> Term:
    _constant_weights(s)
    geometry = window(s, s.shape(1)[2:], inputs=s.shape()[2:], outputs=s.output_shape[2:])
    groups = s.integer("group", 1)
    if set(geometry.strides) == {1} and min(geometry.overhang) >= 0:
        return _mirrored(s, geometry, groups)
    return s.builder("ConvTranspose", s.g, s.input(1), group=groups, **geometry.transposed)


def _mirrored(s: Step, geometry: Window, groups: int) -> Term:
    """With strides of 1 the gradient is a convolution with the mirrored kernel, inputs and outputs exchanged in every
    group, which engines run faster than ConvTranspose. They rearrange the constant weights once, when they load the
    graph; the file holds them once."""
    axes = range(2, 2 + len(geometry.kernel))
    outputs, inputs, *kernel = s.shape(1)
    weights = s.input(1)
    if groups == 1:
        weights = s.builder.transpose(weights, [1, 0, *axes])
    elif (inputs, outputs) != (1, groups):  # in a depthwise convolution there is nothing to exchange
        grouped = s.builder.reshape_exactly(weights, (groups, outputs // groups, inputs, *kernel))
        exchanged = s.builder.transpose(grouped, [0, 2, 1, *(axis + 1 for axis in axes)])
        weights = s.builder.reshape_exactly(exchanged, (groups * inputs, outputs // groups, *kernel))
    if set(geometry.kernel) != {1}:
        past = np.iinfo(np.int64).min
        weights = s.builder.slice(weights, [-1] * len(axes), [past] * len(axes), list(axes), [-1] * len(axes))
    return s.builder(
        "Conv",
        s.g,
        weights,
        dilations=list(geometry.dilations),
        pads=list(geometry.overhang),
        group=groups,
    )


def _conv_transpose(s: Step) -> Term:
    _constant_weights(s)
    small, large, kernel = s.shape()[2:], s.output_shape[2:], s.shape(1)[2:]
    rank = len(kernel)
    strides, dilations = s.integers("strides", [1] * rank), s.integers("dilations", [1] * rank)
    pads = s.integers("pads", [0] * (2 * rank))
    begins = pads[:rank]
    if "output_shape" in s.node.attributes or s.string("auto_pad", "NOTSET") in ("SAME_UPPER", "SAME_LOWER"):
        extra = s.integers("output_padding", [0] * rank)
        totals = [
            max(stride * (size - 1) + more + (width - 1) * dilation + 1 - out, 0)
            for stride, size, more, width, dilation, out in zip(
                strides, small, extra, kernel, dilations, large, strict=True
            )
        ]
        upper = s.string("auto_pad", "NOTSET") == "SAME_UPPER"
        begins = tuple(total // 2 if upper else total - total // 2 for total in totals)
    # The end is padded to what the windows need: Conv then yields exactly the input's size.
    needed = [
        (size - 1) * stride + (width - 1) * dilation + 1
        for size, stride, width, dilation in zip(small, strides, kernel, dilations, strict=True)
    ]
    ends = [reach - begin - out for reach, begin, out in zip(needed, begins, large, strict=True)]
    g = s.builder.pad(s.g, [0] * (rank + 2), [0, 0, *(min(end, 0) for end in ends)])
    return s.builder(
        "Conv",
        g,
        s.input(1),
        strides=list(strides),
        dilations=list(dilations),
        pads=[*begins, *(max(end, 0) for end in ends)],
        group=s.integer("group", 1),
    )


CONVOLUTION: dict[str, Rule] = {"Conv": _conv, "ConvTranspose": _conv_transpose}
