"""Ada-SISE: SISE with a threshold per block that adapts to its gradients (Sudhakar et al., ICASSP 2021, 2102.07799)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sightline.kernels import Kernels
from sightline.runtime.attributions import Attributions
from sightline.runtime.method import Output, Plan
from sightline.runtime.selection import above_otsu
from sightline.runtime.sise import fused_plan


@dataclass(frozen=True)
class AdaSISE:
    """Score only the feature maps whose mean gradient reaches Otsu's threshold in their block. No parameters."""

    name: ClassVar[str] = "ada-sise"
    output: ClassVar[Output] = "probabilities"
    rivals: ClassVar[bool] = True

    def plan(self, attributions: Attributions, kernels: Kernels) -> Plan:
        """The masks of the maps kept, by block, and the fusion of their layer maps."""
        return fused_plan(attributions, kernels, lambda alpha: above_otsu(alpha, kernels))
