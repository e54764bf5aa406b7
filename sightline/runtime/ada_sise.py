"""Ada-SISE: SISE with a threshold per block that adapts to its gradients (Sudhakar et al., ICASSP 2021, 2102.07799)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from sightline.kernels import Kernels
from sightline.runtime.attributions import Attributions
from sightline.runtime.masks import MaskSet, feature_masks
from sightline.runtime.method import Output, Plan
from sightline.runtime.selection import Indices, above_otsu
from sightline.runtime.sise import fused_plan


@dataclass(frozen=True)
class AdaSISE:
    """Score only the feature maps whose mean gradient reaches Otsu's threshold in their block.

    Args:
        predict: under a budget, as for :class:`~sightline.runtime.sise.SISE`.
    """

    predict: bool = True
    name: ClassVar[str] = "ada-sise"
    output: ClassVar[Output] = "probabilities"
    rivals: ClassVar[bool] = True
    gradients: ClassVar[bool] = True

    def plan(self, attributions: Attributions, kernels: Kernels) -> Plan:
        """The maps kept of every block, and the fusion of the layer maps."""
        return fused_plan(attributions, kernels, lambda alpha: above_otsu(alpha, kernels))

    def masks(self, attributions: Attributions, chosen: Mapping[str, Indices], kernels: Kernels) -> dict[str, MaskSet]:
        """The maps themselves, normalised."""
        return feature_masks(attributions, chosen, kernels)
