"""The gate: a lower precision is accepted by how well its maps agree with those of float32, not by faith."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from sightline.errors import PrecisionError, UngatedError
from sightline.runtime.memo import Memo
from sightline.runtime.method import Method

THRESHOLD = 0.98
"""Pearson's correlation that every image's map must reach by default."""
_PASSED = Memo("gate")


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


class Gates:
    """The gates that a precision on an engine has passed, by method: kept in the user's cache folder."""

    def __init__(self, facts: Mapping[str, Any] | None, precision: str, engine: str) -> None:
        """``facts`` is what a gate depends on, beside the method; None where nobody can tell: nothing is kept then."""
        self._facts, self._precision, self._engine = facts, precision, engine

    def remembered(self, method: Method, threshold: float) -> Gate:
        """The gate that was passed with this method before.

        Raises:
            UngatedError: there is none.
            PrecisionError: it does not reach this threshold.
        """
        if self._facts is None:
            raise UngatedError(
                f"{self._precision} on an engine of your own ({self._engine}) is compared with float32 each time it is "
                f"opened, for one method: open an Explainer with {method.name} and gate=[images]."
            )
        if (kept := _PASSED.recall(self._of(method, self._facts))) is None:
            raise UngatedError(
                f"{self._precision} on {self._engine} has not been compared with float32 for this bundle and "
                f"{method.name} on this machine: pass gate=[images] once (sightline build BUNDLE --precision … "
                "--images …)."
            )
        return replace(Gate.from_facts(kept), threshold=threshold).require()

    def keep(self, method: Method, gate: Gate) -> None:
        """Remember a gate that was passed."""
        if self._facts is not None:
            _PASSED.keep(self._of(method, self._facts), gate.facts())

    @staticmethod
    def _of(method: Method, facts: Mapping[str, Any]) -> dict[str, Any]:
        return {**facts, "method": method.name, "parameters": asdict(method)}


def pearson(first: npt.ArrayLike, second: npt.ArrayLike) -> float:
    """Pearson's correlation of two maps; 1 where both are flat, 0 where one is."""
    one, two = (np.asarray(map, np.float64).ravel() for map in (first, second))
    one, two = one - one.mean(), two - two.mean()
    norms: Sequence[float] = [float(np.linalg.norm(map)) for map in (one, two)]
    if not all(norms):
        return 0.0 if any(norms) else 1.0
    return float(one @ two / (norms[0] * norms[1]))
