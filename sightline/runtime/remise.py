"""REMISE, removal-based SISE: what the class loses without the region of a mask. Ours, from no paper.

SISE (arXiv 2010.00672) scores an image of which only the region of a mask is left, far from anything that the network
has seen. Here, with as many passes, every mask is scored by what the class loses when its region is *removed*. The
weight of a mask is that loss times α_k·(max_k − min_k), what the gradient promises of it, so that a mask that covers
much but holds no evidence counts little; and a block gates the map by a sigmoid around Otsu's threshold instead of
cutting it off, so that the pixels outside keep their rank. docs/quality.md has what it gains and where it does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from sightline.errors import MethodError
from sightline.kernels import Kernels
from sightline.numeric import real
from sightline.runtime.attributions import Attributions
from sightline.runtime.fusion import fuse_blocks
from sightline.runtime.masks import MaskSet, Scored, feature_masks
from sightline.runtime.method import Doubles, Maps, Output, Plan
from sightline.runtime.selection import Indices, above_share, checked_share
from sightline.runtime.sise import fused_plan


@dataclass(frozen=True)
class REMISE:
    """Score what the class loses without the region of every mask, and fuse the layer maps by soft gates.

    Args:
        mu: as for :class:`~sightline.runtime.sise.SISE`.
        width: of the gates, in units of a layer map: σ((V_b − t_b)/width) of the sum passes V_b's.
        predict: under a budget, as for :class:`~sightline.runtime.sise.SISE`, but masks that the gradient promises much
            of come first.

    Raises:
        MethodError: a parameter is out of range.
    """

    mu: float = 0.0
    width: float = 0.05
    predict: bool = True
    name: ClassVar[str] = "remise"
    output: ClassVar[Output] = "probabilities"
    rivals: ClassVar[bool] = True
    gradients: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "mu", checked_share(self.mu))
        width = real(self.width)
        if not 0 < width <= 1:
            raise MethodError(f"width={self.width!r} is out of range: choose 0 < width <= 1, for example 0.05.")
        object.__setattr__(self, "width", width)

    def plan(self, attributions: Attributions, kernels: Kernels) -> Plan:
        """The maps with a positive gradient, and the gated fusion of the layer maps."""
        choices = fused_plan(attributions, kernels, lambda alpha: above_share(alpha, self.mu)).choices
        # A mask that only another target chose has no α for this one, hence no weight.
        alphas = {
            block.block.name: _only(block.alpha.astype(np.float64), choices[block.block.name].numbers)
            for block in attributions.blocks
            if block.block.name in choices
        }
        size = attributions.size

        def explain(scored: Mapping[str, Scored]) -> Maps:
            weighed = {name: _weighed(found, alphas[name], kernels) for name, found in scored.items()}
            return fuse_blocks(weighed, size, kernels, self.width)

        return Plan(choices, explain, promised=True)

    def masks(self, attributions: Attributions, chosen: Mapping[str, Indices], kernels: Kernels) -> dict[str, MaskSet]:
        """What is left without the maps: 1 − M_k."""
        sets = feature_masks(attributions, chosen, kernels)
        return {name: _complement(masks, kernels) for name, masks in sets.items()}


def _only(alpha: Doubles, numbers: Indices) -> Doubles:
    """These α alone, 0 for the others."""
    kept = np.zeros_like(alpha)
    kept[numbers] = alpha[numbers]
    return kept


def _complement(masks: MaskSet, kernels: Kernels) -> MaskSet:
    """1 − M_k, with the sums of M_k."""
    scale, shift = kernels.to_host(masks.affine).T
    return replace(masks, affine=kernels.to_device(np.stack([-scale, 1 - shift], axis=1)))


def _weighed(found: Scored, alpha: Doubles, kernels: Kernels) -> Scored:
    """max(0, p_c(I) − p_c(I ⊙ (1 − M_k))) · α_k · (max_k − min_k) in place of the scores."""
    spread = -1 / kernels.to_host(found.masks.affine)[:, 0].astype(np.float64)
    promised = alpha[found.masks.numbers] * spread
    return replace(found, scores=np.maximum(found.whole - found.scores, 0) * promised)
