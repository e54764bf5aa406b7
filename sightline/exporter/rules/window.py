"""The geometry of a sliding window: what Conv and the pools share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sightline.exporter.builder import Shape
from sightline.exporter.gradient import Step


@dataclass(frozen=True)
class Window:
    """Kernel, strides, dilations and the padding as it really is, one entry per spatial axis."""

    kernel: Shape
    strides: Shape
    dilations: Shape
    begins: Shape
    ends: Shape
    """The explicit or automatic padding at the end of each axis."""
    inputs: Shape
    outputs: Shape

    @property
    def covered(self) -> Shape:
        """How many padded positions the windows reach over."""
        return tuple(
            (out - 1) * stride + (size - 1) * dilation + 1
            for out, stride, size, dilation in zip(self.outputs, self.strides, self.kernel, self.dilations, strict=True)
        )

    @property
    def overhang(self) -> Shape:
        """The padding with which a convolution of stride 1 leads from the outputs back to the inputs: begins, ends."""
        reaches = [(size - 1) * dilation for size, dilation in zip(self.kernel, self.dilations, strict=True)]
        begins = [reach - begin for reach, begin in zip(reaches, self.begins, strict=True)]
        ends = [
            size + reach - out - begin
            for size, reach, out, begin in zip(self.inputs, reaches, self.outputs, begins, strict=True)
        ]
        return (*begins, *ends)

    @property
    def transposed(self) -> dict[str, Any]:
        """The attributes of the ConvTranspose that spreads outputs back over exactly the inputs.

        The last positions may lie outside every window (a floor in the size) or the last window may hang over the
        padding (``ceil_mode``): the one is output padding, the other a longer pad.
        """
        surplus = [
            reach - begin - size for reach, begin, size in zip(self.covered, self.begins, self.inputs, strict=True)
        ]
        return {
            "strides": list(self.strides),
            "dilations": list(self.dilations),
            "pads": [*self.begins, *(max(extra, 0) for extra in surplus)],
            "output_padding": [max(-extra, 0) for extra in surplus],
        }


def window(s: Step, kernel: Shape, inputs: Shape, outputs: Shape) -> Window:
    """Read the window of a node from its attributes.

    Args:
        s: a node with ``strides``, ``dilations``, ``pads`` and ``auto_pad``.
        kernel: its spatial kernel size.
        inputs: spatial size of what the window slides over (for ConvTranspose, its output).
        outputs: spatial size of what it yields.
    """
    rank = len(kernel)
    strides = s.integers("strides", [1] * rank)
    dilations = s.integers("dilations", [1] * rank)
    pads = s.integers("pads", [0] * (2 * rank))
    begins, ends = pads[:rank], pads[rank:]
    automatic = s.string("auto_pad", "NOTSET")
    if automatic == "VALID":
        begins = ends = (0,) * rank
    elif automatic in ("SAME_UPPER", "SAME_LOWER"):
        totals = [
            max((out - 1) * stride + (size - 1) * dilation + 1 - length, 0)
            for out, stride, size, dilation, length in zip(outputs, strides, kernel, dilations, inputs, strict=True)
        ]
        smaller, larger = tuple(total // 2 for total in totals), tuple(total - total // 2 for total in totals)
        begins, ends = (smaller, larger) if automatic == "SAME_UPPER" else (larger, smaller)
    return Window(kernel, strides, dilations, begins, ends, inputs, outputs)
