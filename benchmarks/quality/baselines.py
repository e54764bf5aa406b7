"""Maps that look at nothing: whatever a method earns beyond them, it earned on the image."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from sightline.kernels import Kernels
from sightline.runtime.attributions import Attributions
from sightline.runtime.masks import MaskSet
from sightline.runtime.method import Output, Plan
from sightline.runtime.selection import Indices


class _Blind(ABC):
    """A method without masks."""

    output: ClassVar[Output] = "probabilities"
    rivals: ClassVar[bool] = True
    gradients: ClassVar[bool] = False
    predict: ClassVar[bool] = False

    def masks(self, attributions: Attributions, chosen: Mapping[str, Indices], kernels: Kernels) -> dict[str, MaskSet]:
        return {}

    def plan(self, attributions: Attributions, kernels: Kernels) -> Plan:
        drawn = self.drawn(attributions.size)
        return Plan({}, lambda scored: (drawn, {}))

    @abstractmethod
    def drawn(self, size: tuple[int, int]) -> npt.NDArray[np.float64]:
        """The map: H×W."""


@dataclass(frozen=True)
class CentreBlob(_Blind):
    """A Gaussian in the centre, of a quarter of the image's height."""

    name: ClassVar[str] = "centre blob"

    def drawn(self, size: tuple[int, int]) -> npt.NDArray[np.float64]:
        rows, columns = (np.arange(side) - (side - 1) / 2 for side in size)
        return np.asarray(np.exp(-(rows[:, None] ** 2 + columns[None] ** 2) / (2 * (size[0] / 4) ** 2)))


@dataclass(frozen=True)
class Chance(_Blind):
    """Noise, the same for every image: EBPG is the share of the image that the region has."""

    seed: int = 0
    name: ClassVar[str] = "chance"

    def drawn(self, size: tuple[int, int]) -> npt.NDArray[np.float64]:
        return np.random.default_rng(self.seed).random(size)
