"""Score-CAM (Wang et al., CVPR workshops 2020, arXiv 1910.01279)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sightline.kernels import Kernels
from sightline.runtime.attributions import Attributions
from sightline.runtime.cam import chosen_block, drawn
from sightline.runtime.masks import MaskSet, Scored, feature_masks
from sightline.runtime.method import Maps, Output, Plan
from sightline.runtime.selection import Choice, Indices


@dataclass(frozen=True)
class ScoreCAM:
    """Weigh every feature map of one block by the score that it leaves when it masks the image (§3.2).

    The weights are softmax_k(z_c(I ⊙ M_k)), as in the paper; the authors' code takes p_c(I ⊙ M_k) and no softmax.
    Constant maps are left out.

    Args:
        block: name of the block, the last one by default.
    """

    block: str | None = None
    name: ClassVar[str] = "score-cam"
    output: ClassVar[Output] = "logits"
    rivals: ClassVar[bool] = False
    gradients: ClassVar[bool] = True
    predict: ClassVar[bool] = False

    def plan(self, attributions: Attributions, kernels: Kernels) -> Plan:
        """Every map of the block, and ReLU(Σ_k w_k·A_k)."""
        block, alpha, size = (found := chosen_block(attributions, self.block)).block, found.alpha, attributions.size
        # Under a budget: those that raise the class first, but none is left out for its gradient.
        rank = np.argsort(np.argsort(alpha, kind="stable"), kind="stable")
        choice = Choice(np.arange(block.channels), (rank + 1) / block.channels)

        def explain(scored: Mapping[str, Scored]) -> Maps:
            if not scored:
                return drawn(np.zeros((block.height, block.width)), size, kernels)
            logits = scored[block.name].scores
            weights = np.exp(logits - logits.max())
            blended = kernels.aggregate(scored[block.name].masks.maps, kernels.to_device(weights / weights.sum()))
            return drawn(kernels.to_host(blended), size, kernels)

        return Plan({block.name: choice}, explain)

    def masks(self, attributions: Attributions, chosen: Mapping[str, Indices], kernels: Kernels) -> dict[str, MaskSet]:
        """The maps themselves, normalised."""
        return feature_masks(attributions, chosen, kernels)
