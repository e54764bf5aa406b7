"""Masks of one image: kept at low resolution, they become pixels only in the engine's input buffer."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

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
_FAINT = float(np.finfo(np.float32).tiny)
"""Below this spread it does whatever its values, and 1 / spread is more than float32 holds."""


@dataclass(frozen=True, eq=False)
class MaskSet:
    """The masks M_k = scale_k·up(A_k) + shift_k of one block, for one image.

    ``image``, ``maps`` and ``affine`` are arrays of the device that the kernels work on.
    """

    numbers: Indices
    """Which of the block's maps these are: K, on the host."""

    image: Floats
    """C×H×W or H×W×C, preprocessed."""
    layout: Layout
    size: tuple[int, int]
    """(H, W)."""
    maps: Floats
    """A_k: K×h×w."""
    affine: Floats
    """scale_k, shift_k: K×2."""
    sums: npt.NDArray[np.float64]
    """Σ_λ M_k(λ) over all pixels, times max_k − min_k: K, on the host."""
    window: Window | None = None

    def __len__(self) -> int:
        return len(self.maps)

    def stretch(self, begin: int, end: int) -> MaskSet:
        """The masks from ``begin`` up to ``end``, without a copy."""
        if (begin, end) == (0, len(self)):
            return self
        part = slice(begin, end)
        window = self.window and self.window._replace(offsets=self.window.offsets[part])
        return replace(
            self,
            numbers=self.numbers[part],
            maps=self.maps[part],
            affine=self.affine[part],
            sums=self.sums[part],
            window=window,
        )

    def subset(self, places: Indices, kernels: Kernels) -> MaskSet:
        """Copies of the masks at these places, in that order."""

        def picked(few: npt.NDArray[Any]) -> npt.NDArray[Any]:
            return kernels.to_device(kernels.to_host(few)[places])

        window = self.window and self.window._replace(offsets=picked(self.window.offsets))
        return replace(
            self,
            numbers=self.numbers[places],
            maps=kernels.take(self.maps, places),
            affine=picked(self.affine),
            sums=self.sums[places],
            window=window,
        )


@dataclass(frozen=True, eq=False)
class Scored:
    """Masks of one block and what one target makes of the image behind each: p_c, or z_c, or a function of them."""

    masks: MaskSet
    scores: npt.NDArray[np.float64]
    """K, on the host; 0 for a mask that this target did not choose. Under a budget some are predictions."""
    whole: float = 0.0
    """What the target makes of the whole image."""


def feature_masks(attributions: Attributions, chosen: Mapping[str, Indices], kernels: Kernels) -> dict[str, MaskSet]:
    """The chosen maps of every block as masks; a block whose maps are all constant is left out and logged."""
    # The maps of all blocks are looked at before the host waits for any: on a GPU it waits once, not for every block.
    begun = {
        block.block.name: mask_set(attributions, block, chosen[block.block.name], kernels)
        for block in attributions.blocks
        if block.block.name in chosen
    }
    sets = {}
    for name, finish in begun.items():
        masks = finish()
        if len(masks):
            sets[name] = masks
        else:
            logger.info("block %s left out: its maps are constant", name)
    return sets


def mask_set(
    attributions: Attributions, block: BlockAttributions, kept: Indices, kernels: Kernels
) -> Callable[[], MaskSet]:
    """Normalise maps of a block to masks in [0, 1], in the order given (SISE, §3.2).

    Constant maps would give masks of zeros and are left out: that loses nothing.

    Returns:
        what waits for the device and gives the masks; it raises EngineError where feature maps hold NaN or infinity.
    """
    features = block.features
    if type(kernels) is not type(attributions.kernels):  # an engine of the caller's own, on another device
        features = kernels.to_device(attributions.kernels.to_host(features))
    maps = kernels.take(features, kept)
    size = attributions.size
    waits = [kernels.fetch(values) for values in (*kernels.extrema(maps, size), kernels.totals(maps, size))]
    return lambda: _finished(attributions, block.block.name, kept, kernels, maps, waits)


def _finished(
    attributions: Attributions,
    name: str,
    kept: Indices,
    kernels: Kernels,
    maps: Floats,
    waits: Sequence[Callable[[], npt.NDArray[Any]]],
) -> MaskSet:
    minima, maxima, totals = (wait().astype(np.float64) for wait in waits)
    if not np.isfinite(totals).all():  # a sum that anything infinite or undefined spoils
        raise EngineError(
            f"the network's features at block {name} are NaN or infinite: check that the image is "
            "preprocessed as the network expects (sightline inspect) and that its weights are finite."
        )
    spread = maxima - minima
    varied = np.flatnonzero(spread > np.maximum(_FLAT * np.maximum(abs(minima), abs(maxima)), _FAINT))
    if len(varied) < len(spread):
        logger.debug("block %s: %d constant maps skipped", name, len(spread) - len(varied))
        maps, kept = kernels.take(maps, varied), kept[varied]
        minima, spread, totals = minima[varied], spread[varied], totals[varied]
    height, width = attributions.size
    return MaskSet(
        numbers=kept,
        image=kernels.to_device(attributions.image),
        layout=attributions.layout,
        size=attributions.size,
        maps=maps,
        affine=kernels.to_device(np.stack([1 / spread, -minima / spread], axis=1).astype(np.float32)),
        # No less than the one pixel where M_k = 1: rounding must not take it to zero.
        sums=np.maximum(totals - height * width * minima, spread),
    )
