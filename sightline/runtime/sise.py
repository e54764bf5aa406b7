"""SISE: Semantic Input Sampling for Explanation (Sattarzadeh et al., AAAI 2021, arXiv 2010.00672)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from sightline.errors import MethodError
from sightline.kernels import Kernels
from sightline.runtime.attributions import Attributions
from sightline.runtime.fusion import fuse_blocks
from sightline.runtime.masks import mask_set
from sightline.runtime.method import Output, Plan
from sightline.runtime.selection import Indices, above_share

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SISE:
    """Score the feature maps of every block as masks, and fuse the layer maps.

    Args:
        mu: μ in [0, 1): keep the maps whose mean gradient exceeds this share of the largest one of their block. 0 keeps
            every map with a positive gradient; 0.3 to 0.5 takes a third of the time for nearly the same map.

    Raises:
        MethodError: mu is out of range.
    """

    mu: float = 0.0
    name: ClassVar[str] = "sise"
    output: ClassVar[Output] = "probabilities"
    rivals: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not isinstance(self.mu, (int, float)) or not 0 <= self.mu < 1:
            raise MethodError(f"mu={self.mu!r} is out of range: choose 0 <= mu < 1, for example 0.3.")

    def plan(self, attributions: Attributions, kernels: Kernels) -> Plan:
        """The masks of the maps kept, by block, and the fusion of their layer maps."""
        return fused_plan(attributions, kernels, lambda alpha: above_share(alpha, self.mu))


def fused_plan(
    attributions: Attributions, kernels: Kernels, keep: Callable[[npt.NDArray[np.float32]], Indices]
) -> Plan:
    """The masks of the maps that ``keep`` chooses by their α; blocks that keep nothing are left out and logged."""
    chosen = {}
    for block in attributions.blocks:
        masks = mask_set(attributions, block, keep(block.alpha), kernels)
        if len(masks):
            chosen[block.block.name] = masks
        else:
            logger.info("block %s left out: no varied map with a positive gradient", block.block.name)
    return Plan(chosen, lambda scored: fuse_blocks(scored, attributions.size, kernels))
