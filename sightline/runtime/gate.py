"""The gate: a lower precision is accepted by how well its maps agree with those of float32, not by faith."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sightline.errors import PrecisionError

THRESHOLD = 0.98
"""Pearson's correlation that every image's map must reach by default."""


@dataclass(frozen=True)
class Gate:
    """How well the maps of one precision agree with those of float32."""

    precision: str
    engine: str
    reference: str
    """The engine that made the maps in float32."""
    correlations: tuple[float, ...]
    """Pearson's correlation of the two maps, by image."""
    threshold: float

    @property
    def accepted(self) -> bool:
        """Whether the map of every image agrees."""
        return min(self.correlations) >= self.threshold

    def __str__(self) -> str:
        verdict = "accepted" if self.accepted else "refused"
        return (
            f"{self.precision} on {self.engine} {verdict}: Pearson with float32 on {self.reference} is "
            f"{min(self.correlations):.4f} at worst, {statistics.median(self.correlations):.4f} in the median, over "
            f"{len(self.correlations)} images (threshold {self.threshold})"
        )

    def require(self) -> Gate:
        """This gate, where it is accepted.

        Raises:
            PrecisionError: it is not.
        """
        if not self.accepted:
            raise PrecisionError(
                f"{self}. Use precision='fp32', another engine, for int8 more calibration images, or lower the "
                "threshold knowingly."
            )
        return self

    def facts(self) -> dict[str, Any]:
        """For JSON; :meth:`from_facts` reads it."""
        return asdict(self)

    @classmethod
    def from_facts(cls, facts: dict[str, Any]) -> Gate:
        """Made again from :meth:`facts`."""
        return cls(**{**facts, "correlations": tuple(facts["correlations"])})


def pearson(first: npt.ArrayLike, second: npt.ArrayLike) -> float:
    """Pearson's correlation of two maps; 1 where both are flat, 0 where one is."""
    one, two = (np.asarray(map, np.float64).ravel() for map in (first, second))
    one, two = one - one.mean(), two - two.mean()
    norms: Sequence[float] = [float(np.linalg.norm(map)) for map in (one, two)]
    if not all(norms):
        return 0.0 if any(norms) else 1.0
    return float(one @ two / (norms[0] * norms[1]))
