"""Attribution masks of a block: kept at low resolution, they become pixels only in the engine's input buffer."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sightline.bundle import Layout
from sightline.errors import EngineError
from sightline.kernels import Kernels, Window
from sightline.runtime.attributions import Attributions, BlockAttributions, Floats
from sightline.runtime.selection import Indices

logger = logging.getLogger(__name__)

_FLAT = 4 * float(np.finfo(np.float32).eps)
"""Below this spread, relative to its values, an upsampled map holds nothing but rounding."""


@dataclass(frozen=True, eq=False)
class MaskSet:
    """The masks M_k = scale_k·up(A_k) + shift_k of one block, for one image and one class.

    ``image``, ``maps`` and ``affine`` are arrays of the device that the kernels work on.
    """

    image: Floats
    """C×H×W or H×W×C, preprocessed."""
    layout: Layout
    size: tuple[int, int]
    """(H, W)."""
    target: int
    maps: Floats
    """A_k: K×h×w."""
    affine: Floats
    """scale_k, shift_k: K×2."""
    sums: npt.NDArray[np.float64]
    """Σ_λ M_k(λ) over all pixels, times max_k − min_k: K, on the host."""
    window: Window | None = None

    def __len__(self) -> int:
        return len(self.maps)


def mask_set(attributions: Attributions, block: BlockAttributions, kept: Indices, kernels: Kernels) -> MaskSet:
    """Normalise the kept maps of a block to masks in [0, 1] (SISE, §3.2).

    Constant maps would give masks of zeros and are left out: that loses nothing.

    Raises:
        EngineError: the feature maps hold NaN or infinity.
    """
    maps = kernels.take(kernels.to_device(block.features), kept)
    size = attributions.size
    minima, maxima = (kernels.to_host(values).astype(np.float64) for values in kernels.extrema(maps, size))
    totals = kernels.to_host(kernels.totals(maps, size))
    if not np.isfinite(totals).all():  # a sum that anything infinite or undefined spoils
        raise EngineError(
            f"the network's features at block {block.block.name} are NaN or infinite: check that the image is "
            "preprocessed as the network expects (sightline inspect) and that its weights are finite."
        )
    spread = maxima - minima
    varied = np.flatnonzero(spread > _FLAT * np.maximum(abs(minima), abs(maxima)))
    if len(varied) < len(spread):
        logger.debug("block %s: %d constant maps skipped", block.block.name, len(spread) - len(varied))
        maps, minima, spread, totals = kernels.take(maps, varied), minima[varied], spread[varied], totals[varied]
    height, width = size
    return MaskSet(
        image=kernels.to_device(attributions.image),
        layout=attributions.layout,
        size=size,
        target=attributions.target,
        maps=maps,
        affine=kernels.to_device(np.stack([1 / spread, -minima / spread], axis=1).astype(np.float32)),
        # No less than the one pixel where M_k = 1: rounding must not take it to zero.
        sums=np.maximum(totals - height * width * minima, spread),
    )
