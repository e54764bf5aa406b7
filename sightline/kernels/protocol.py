"""The arithmetic on maps, the same functions on a CPU and on a GPU.

``up`` is bilinear interpolation with half-pixel centres and no antialiasing. Because it is linear, a mask is an affine
function of its upsampled map, M_k = scale_k·up(A_k) + shift_k, and a weighted sum of masks is formed at low resolution
and upsampled once (SISE, arXiv 2010.00672, §3; exact, not an approximation).
"""

from __future__ import annotations

from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Size = tuple[int, int]
Layout = Literal["NCHW", "NHWC"]


class Kernels(Protocol):
    """Arrays stay where they are: each function reads and returns arrays of its own device."""

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

    def mask_into(self, out: Floats, image: Floats, maps: Floats, affine: Floats, layout: Layout = "NCHW") -> None:
        """Write image ⊙ (scale_k·up(A_k) + shift_k) into ``out``, an engine's own input buffer.

        Args:
            out: K×C×H×W, or K×H×W×C where ``layout`` is NHWC.
            image: C×H×W or H×W×C, preprocessed.
            maps: K×h×w.
            affine: K×2, scale and shift.
            layout: where the channels of ``out`` and ``image`` stand.
        """

    def aggregate(self, maps: Floats, weights: Doubles) -> Doubles:
        """Σ_k weights_k·A_k at low resolution: K×h×w and K -> h×w."""

    def upsample(self, map: npt.NDArray[np.floating[Any]], size: Size) -> npt.NDArray[np.floating[Any]]:
        """``up``: h×w -> H×W, in the precision of the map."""

    def otsu(self, map: npt.NDArray[np.floating[Any]]) -> float | None:
        """Otsu's threshold of values in [0, 1] (ALGORITHMS.md): 256 equal bins, the first split that maximises the
        between-class variance, the upper edge of the lower class's last bin.

        Returns:
            The threshold t, the upper class being the values >= t; None where the values cannot be split: they are all
            equal, or all in one bin.
        """
