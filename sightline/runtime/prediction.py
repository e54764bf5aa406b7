"""What a network says about a whole image, before any mask."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from sightline.bundle import Bundle

Floats = npt.NDArray[np.float32]


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


def predicted(logits: Floats, probabilities: Floats, bundle: Bundle) -> Prediction:
    """Of the outputs of a pass, K each; the logits decide, as probabilities of float32 tie at 1."""
    number = int(logits.argmax())
    return Prediction(number, bundle.label(number), float(probabilities[number]), probabilities.astype(np.float64))
