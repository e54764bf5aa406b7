"""What an explanation method is to the explainer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import Field
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from sightline.kernels import Kernels
from sightline.runtime.attributions import Attributions
from sightline.runtime.batching import Scored
from sightline.runtime.masks import MaskSet

Doubles = npt.NDArray[np.float64]


class Method(Protocol):
    """A frozen dataclass of the method's parameters. Keeps no state between calls."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]
    name: ClassVar[str]

    def masks(self, attributions: Attributions, kernels: Kernels) -> dict[str, MaskSet]:
        """The masks to score, by block, from shallow to deep; blocks without any are absent.

        The arrays of ``attributions`` are overwritten by the next pass, so what is kept of them is copied.
        """

    def explain(
        self, blocks: Mapping[str, Scored], size: tuple[int, int], kernels: Kernels
    ) -> tuple[Doubles, dict[str, Doubles]]:
        """The saliency map and the layer maps, by block: H×W in [0, 1], finite."""
