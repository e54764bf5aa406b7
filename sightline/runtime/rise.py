"""RISE: Randomized Input Sampling for Explanation (Petsiuk et al., BMVC 2018, arXiv 1806.07421)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sightline.errors import MethodError
from sightline.kernels import Kernels, Window
from sightline.numeric import real, whole
from sightline.runtime.attributions import Attributions
from sightline.runtime.fusion import normalised
from sightline.runtime.masks import MaskSet, Scored
from sightline.runtime.method import Maps, Output, Plan
from sightline.runtime.selection import Choice, Indices

_MASKS = "masks"
"""The name of the one set, which belongs to no block."""


@dataclass(frozen=True)
class RISE:
    """Score random masks: smooth s×s grids of on and off, each shifted by a random part of a cell (§3.2).

    Args:
        passes: N, how many masks.
        cells: s, the side of the grid.
        share: p in (0, 1), how much of the image a mask keeps on average.
        seed: of the random numbers; the same seed gives the same masks on every device.

    Raises:
        MethodError: a parameter is out of range.
    """

    passes: int = 4000
    cells: int = 7
    share: float = 0.5
    seed: int = 0
    name: ClassVar[str] = "rise"
    output: ClassVar[Output] = "probabilities"
    rivals: ClassVar[bool] = True
    gradients: ClassVar[bool] = False
    predict: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for name, least in (("passes", 1), ("cells", 1), ("seed", 0)):
            object.__setattr__(self, name, whole(name, getattr(self, name), MethodError, least))
        share = real(self.share)
        if not 0 < share < 1:
            raise MethodError(f"share={self.share!r} is out of range: choose 0 < share < 1, for example 0.5.")
        object.__setattr__(self, "share", share)

    def plan(self, attributions: Attributions, kernels: Kernels) -> Plan:
        """N masks, whatever the network's features, and the mean of the masks weighted by their scores."""
        size = attributions.size

        def explain(scored: Mapping[str, Scored]) -> Maps:
            masks, scores = scored[_MASKS].masks, scored[_MASKS].scores
            assert masks.window is not None
            weights = kernels.to_device(scores / (len(masks) * self.share))
            map = normalised(kernels.accumulate(masks.maps, weights, size, masks.window), kernels)
            return kernels.to_host(kernels.zeros(*size) if map is None else map), {}

        return Plan({_MASKS: Choice(np.arange(self.passes), np.ones(self.passes))}, explain)

    def masks(self, attributions: Attributions, chosen: Mapping[str, Indices], kernels: Kernels) -> dict[str, MaskSet]:
        """The grids, and where in them the image lies. All are drawn, so that mask i is the same in any choice."""
        random = np.random.default_rng(self.seed)
        grids = (random.random((self.passes, self.cells, self.cells)) < self.share).astype(np.float32)
        cell = [-(-side // self.cells) for side in attributions.size]
        offsets = random.integers(0, cell, (self.passes, 2))
        height, width = ((self.cells + 1) * side for side in cell)
        numbers = chosen[_MASKS]
        masks = MaskSet(
            numbers=numbers,
            image=kernels.to_device(attributions.image),
            layout=attributions.layout,
            size=attributions.size,
            maps=kernels.to_device(grids[numbers]),
            affine=kernels.to_device(np.tile(np.array([1, 0], np.float32), (len(numbers), 1))),
            sums=np.ones(len(numbers)),
            window=Window((height, width), kernels.to_device(offsets[numbers].astype(np.int32))),
        )
        return {_MASKS: masks}
