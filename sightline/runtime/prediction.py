"""What a network says about a whole image: one result of the attribution pass, before any mask."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from sightline.bundle import Bundle
from sightline.runtime.attributions import Attributions


@dataclass(frozen=True, eq=False)
class Prediction:
    """The class that a network predicts, and how sure it is."""

    target: int
    """Index of the class."""
    label: str
    """Its label, or its number where the bundle has no labels."""
    score: float
    """Its probability."""
    probabilities: npt.NDArray[np.float64] = field(repr=False)
    """Of all classes: K. (Of a network whose activation is ``none`` they are its outputs as they are, flattened.)"""


def predicted(attributions: Attributions, bundle: Bundle) -> Prediction:
    """Read off the attribution pass; the logits decide, as probabilities of float32 tie at 1."""
    number = int(attributions.logits.argmax())
    probabilities = attributions.probabilities.astype(np.float64)
    return Prediction(number, bundle.label(number), float(probabilities[number]), probabilities)
