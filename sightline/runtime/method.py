"""What an explanation method is to the explainer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import numpy.typing as npt

from sightline.kernels import Kernels
from sightline.runtime.attributions import Attributions
from sightline.runtime.masks import MaskSet, Scored
from sightline.runtime.selection import Choice, Indices

Doubles = npt.NDArray[np.float64]
Output = Literal["probabilities", "logits"]
Maps = tuple[Doubles, dict[str, Doubles]]
"""The saliency map and the layer maps, by block, on the host: H×W in [0, 1], finite."""


@dataclass(frozen=True, eq=False)
class Plan:
    """What a method does with one image, for one target."""

    choices: Mapping[str, Choice]
    """The masks to score, by block, from shallow to deep; blocks without any are absent."""
    explain: Callable[[Mapping[str, Scored]], Maps]
    """From the scored masks, by the same names, to the maps. Blocks and masks may be missing: they were constant, or
    a budget ended before them."""
    promised: bool = False
    """Whether a score counts by α_k·(max_k − min_k): under a budget, masks are then asked about in that light."""


class Method(Protocol):
    """A frozen dataclass of the method's parameters. Keeps no state between calls."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]
    name: ClassVar[str]
    output: ClassVar[Output]
    """The output of the classifier that scores a masked image."""
    rivals: ClassVar[bool]
    """Whether the gradients are those of the log-odds of p_c, or of the bare logit z_c."""
    gradients: ClassVar[bool]
    """Whether it looks at gradients at all: if not, a target function needs none."""

    @property
    def predict(self) -> bool:
        """Whether, under a budget, the scores of the masks left out are predicted from those of masks like them."""

    def plan(self, attributions: Attributions, kernels: Kernels) -> Plan:
        """Choose the masks for one image and target.

        The arrays of ``attributions`` are overwritten by the next pass, so what is kept of them is copied.
        """

    def masks(self, attributions: Attributions, chosen: Mapping[str, Indices], kernels: Kernels) -> dict[str, MaskSet]:
        """Make the chosen masks of an image, in the order chosen; whatever the target, a mask is the same.

        Args:
            attributions: of the image, for any target.
            chosen: numbers of masks, by block.
            kernels: of the device that the masked passes run on.
        """
