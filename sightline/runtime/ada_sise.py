"""Ada-SISE: SISE with a threshold per block that adapts to its gradients (Sudhakar et al., ICASSP 2021, 2102.07799)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from sightline.kernels import Kernels
from sightline.runtime.attributions import Attributions
from sightline.runtime.batching import Scored
from sightline.runtime.fusion import fuse_blocks
from sightline.runtime.masks import MaskSet
from sightline.runtime.selection import above_otsu
from sightline.runtime.sise import select_masks


@dataclass(frozen=True)
class AdaSISE:
    """Score only the feature maps whose mean gradient reaches Otsu's threshold in their block. No parameters."""

    name: ClassVar[str] = "ada-sise"

    def masks(self, attributions: Attributions, kernels: Kernels) -> dict[str, MaskSet]:
        """The masks of the maps kept, by block."""
        return select_masks(attributions, kernels, lambda alpha: above_otsu(alpha, kernels))

    def explain(
        self, blocks: Mapping[str, Scored], size: tuple[int, int], kernels: Kernels
    ) -> tuple[npt.NDArray[np.float64], dict[str, npt.NDArray[np.float64]]]:
        """The fused map and the layer maps."""
        return fuse_blocks(blocks, size, kernels)
