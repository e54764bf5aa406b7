"""SISE: Semantic Input Sampling for Explanation (Sattarzadeh et al., AAAI 2021, arXiv 2010.00672)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from sightline.errors import MethodError
from sightline.kernels import Kernels
from sightline.runtime.attributions import Attributions
from sightline.runtime.fusion import fuse_blocks
from sightline.runtime.masks import MaskSet, feature_masks
from sightline.runtime.method import Output, Plan
from sightline.runtime.selection import Choice, Indices, above_share, checked_share

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "quality": {"mu": 0.0},
    "balance": {"mu": 0.3},
    "speed": {"mu": 0.5},
}
"""What the presets of SISE mean: every map, about half of the passes, about a quarter (docs/quality.md)."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SISE:
    """Score the feature maps of every block as masks, and fuse the layer maps.

    Args:
        mu: μ in [0, 1): keep the maps whose mean gradient exceeds this share of the largest one of their block. 0 keeps
            every map with a positive gradient; 0.3 to 0.5 takes a third of the time for nearly the same map.
        predict: where a budget does not reach all masks, score those that tell most and predict the others' scores
            (:mod:`~sightline.runtime.kriging`); if False, score them in order of α and leave the others out.

    Raises:
        MethodError: mu is out of range.
    """

    mu: float = 0.0
    predict: bool = True
    name: ClassVar[str] = "sise"
    output: ClassVar[Output] = "probabilities"
    rivals: ClassVar[bool] = True
    gradients: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "mu", checked_share(self.mu))

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> SISE:
        """The parameters of one of the ``PRESETS`` (``"speed"``, ``"balance"``, ``"quality"``), each of which can be
        overridden: ``SISE.preset("speed", mu=0.4)``.

        Raises:
            MethodError: there is no such preset, or a parameter is out of range.
        """
        if name not in PRESETS:
            raise MethodError(f"there is no preset {name!r} of SISE: choose {', '.join(PRESETS)}.")
        return cls(**{**PRESETS[name], **overrides})

    def plan(self, attributions: Attributions, kernels: Kernels) -> Plan:
        """The maps kept of every block, and the fusion of the layer maps."""
        return fused_plan(attributions, kernels, lambda alpha: above_share(alpha, self.mu))

    def masks(self, attributions: Attributions, chosen: Mapping[str, Indices], kernels: Kernels) -> dict[str, MaskSet]:
        """The maps themselves, normalised."""
        return feature_masks(attributions, chosen, kernels)


def fused_plan(attributions: Attributions, kernels: Kernels, keep: Callable[[npt.NDArray[np.float32]], Choice]) -> Plan:
    """The maps that ``keep`` chooses by their α; blocks that keep nothing are left out and logged."""
    choices = {}
    for block in attributions.blocks:
        choice = keep(block.alpha)
        if len(choice.numbers):
            choices[block.block.name] = choice
        else:
            logger.info("block %s left out: no map with a positive gradient", block.block.name)
    size = attributions.size
    return Plan(choices, lambda scored: fuse_blocks(scored, size, kernels))
