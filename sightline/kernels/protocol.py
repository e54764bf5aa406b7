"""The arithmetic on maps, the same functions on a CPU and on a GPU.

``up`` is bilinear interpolation with half-pixel centres and no antialiasing. Because it is linear, a mask is an affine
function of its upsampled map, M_k = scale_k·up(A_k) + shift_k, and a weighted sum of masks is formed at low resolution
and upsampled once (SISE, arXiv 2010.00672, §3; exact, not an approximation).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

# Arrays of the device that the kernels work on: NumPy arrays on a CPU, CuPy arrays (which mypy does not know) on a GPU.
Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]
Size = tuple[int, int]
Layout = Literal["NCHW", "NHWC"]


class Window(NamedTuple):
    """Masks that are cut out of larger ones (RISE): pixel (y, x) of mask k is pixel (y + dy_k, x + dx_k) of up(A_k).

    Unlike elsewhere, ``up`` mirrors the map at the centres of its outermost pixels, as RISE's authors do.
    """

    size: Size
    """(H', W') that the maps are upsampled to."""
    offsets: npt.NDArray[np.int32]
    """(dy_k, dx_k), not negative: K×2, on the device; dy_k + H <= H' and dx_k + W <= W'."""


class Kernels(Protocol):
    """Arrays stay where they are: each function reads and returns arrays of its own device, unless it says otherwise.

    On a GPU the functions enqueue their work on the stream of the engine whose buffers they fill and return at once;
    only ``to_host`` and the functions that return plain numbers wait for it.
    """

    def to_device(self, array: npt.NDArray[Any]) -> Array:
        """An array of the host, of any type, as one of the device (on a CPU the array itself)."""

    def to_host(self, array: Array) -> npt.NDArray[Any]:
        """An array of the device as one of the host, once the work that fills it is done (on a CPU itself)."""

    def fetch(self, array: Array) -> Callable[[], npt.NDArray[Any]]:
        """Begin to copy an array to the host. What is returned waits for that, not for work enqueued behind it."""

    def write(self, out: Array, value: npt.NDArray[Any] | float) -> None:
        """Copy an array of the host, or one number, into an array of the device, converted to its type."""

    def zeros(self, *shape: int) -> Doubles:
        """Zeros in float64."""

    def take(self, maps: Floats, indices: Indices) -> Floats:
        """A copy of the maps with these numbers: C×h×w and K numbers, on the host -> K×h×w."""

    def extrema(self, maps: Floats, size: Size) -> tuple[Floats, Floats]:
        """Minimum and maximum of every upsampled map, without keeping the upsampled maps.

        Args:
            maps: K×h×w.
            size: (H, W) to upsample to.

        Returns:
            Two arrays of length K.
        """

    def totals(self, maps: Floats, size: Size) -> Doubles:
        """The sum over all H·W pixels of every upsampled map: K×h×w -> K."""

    def mask_into(
        self,
        out: Array,
        image: Floats | None,
        maps: Floats,
        affine: Floats,
        layout: Layout = "NCHW",
        window: Window | None = None,
    ) -> None:
        """Write image ⊙ (scale_k·up(A_k) + shift_k) into ``out``, an engine's own input buffer.

        Args:
            out: K×C×H×W, or K×H×W×C where ``layout`` is NHWC. float32 or float16; bfloat16 as its bits in uint16.
            image: C×H×W or H×W×C, preprocessed; None to write the masks alone, for C = 1.
            maps: K×h×w.
            affine: K×2, scale and shift.
            layout: where the channels of ``out`` and ``image`` stand.
            window: what to cut out of the upsampled maps; by default they are upsampled to H×W.
        """

    def pick(self, out: Doubles, probabilities: Array, target: int) -> None:
        """The scores of one class: out[i] = probabilities[i, target], N×K -> N."""

    def aggregate(self, maps: Floats, weights: Doubles) -> Doubles:
        """Σ_k weights_k·A_k at low resolution: K×h×w and K -> h×w."""

    def accumulate(self, maps: Floats, weights: Doubles, size: Size, window: Window) -> Doubles:
        """Σ_k weights_k·(the window of up(A_k)): K×h×w and K -> H×W, for masks that share no grid."""

    def upsample(self, map: Array, size: Size) -> Array:
        """``up``: h×w -> H×W, in the precision of the map, float32 or float64."""

    def spread(self, map: Doubles) -> tuple[float, float]:
        """Minimum and maximum of a map."""

    def rescale(self, map: Doubles, low: float, high: float) -> Doubles:
        """(map − low) / (high − low), clipped to [0, 1]."""

    def otsu(self, map: Array) -> float | None:
        """Otsu's threshold of float64 values in [0, 1] (ALGORITHMS.md): 256 equal bins, the first split that maximises
        the between-class variance, the upper edge of the lower class's last bin.

        Returns:
            The threshold t, the upper class being the values >= t; None where the values cannot be split: they are all
            equal, or all in one bin.
        """

    def fuse(self, fused: Doubles, layer: Doubles, threshold: float, width: float = 0.0) -> Doubles:
        """(fused + layer) ⊙ [layer >= threshold], or, with a width over 0, ⊙ σ((layer − threshold) / width): H×W."""
