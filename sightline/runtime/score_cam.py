"""Score-CAM (Wang et al., CVPR workshops 2020, arXiv 1910.01279)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sightline.kernels import Kernels
from sightline.runtime.attributions import Attributions
from sightline.runtime.batching import Scored
from sightline.runtime.cam import chosen_block, drawn
from sightline.runtime.masks import mask_set
from sightline.runtime.method import Maps, Output, Plan


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

    def plan(self, attributions: Attributions, kernels: Kernels) -> Plan:
        """A mask of every varied map of the block, and ReLU(Σ_k w_k·A_k)."""
        block = chosen_block(attributions, self.block)
        masks = mask_set(attributions, block, np.arange(block.block.channels), kernels)

        def explain(scored: Mapping[str, Scored]) -> Maps:
            if not scored:
                return drawn(np.zeros((block.block.height, block.block.width)), attributions.size, kernels)
            logits = scored[block.block.name].scores
            weights = np.exp(logits - logits.max())
            blended = kernels.aggregate(masks.maps, kernels.to_device(weights / weights.sum()))
            return drawn(kernels.to_host(blended), attributions.size, kernels)

        return Plan({block.block.name: masks} if len(masks) else {}, explain)
