"""What a measurement says: figures with their spread, and what makes them doubtful."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

UNSTABLE = 0.1
"""Quartiles further apart than this share of the median: the machine was busy with something else."""


@dataclass(frozen=True)
class Spread:
    """Repeated measurements of one quantity."""

    values: tuple[float, ...]
    unit: str

    @property
    def median(self) -> float:
        """The middle value."""
        return float(np.median(self.values))

    @property
    def unstable(self) -> bool:
        """Whether the quartiles lie more than 10 % of the median apart."""
        low, high = np.percentile(self.values, (25, 75))
        return bool(high - low > UNSTABLE * self.median)

    def facts(self, percentiles: Sequence[float] = ()) -> dict[str, Any]:
        """Median, quartiles and percentiles, for JSON."""
        low, high = np.percentile(self.values, (25, 75)).tolist()
        return {
            "median": self.median,
            "quartiles": [low, high],
            **{f"p{percent:g}": float(np.percentile(self.values, percent)) for percent in percentiles},
            "best": min(self.values),
            "repeats": len(self.values),
            "unit": self.unit,
        }


@dataclass(frozen=True)
class Report:
    """One scope, measured at one setting."""

    scope: str
    setting: Mapping[str, Any]
    figures: Mapping[str, Spread | float]
    warnings: tuple[str, ...] = field(default=())
    valid: bool = True
    """False where the maps made while timing do not agree."""

    def facts(self, percentiles: Sequence[float] = ()) -> dict[str, Any]:
        """For JSON."""
        return {
            "scope": self.scope,
            **self.setting,
            "figures": {
                name: value.facts(percentiles) if isinstance(value, Spread) else value
                for name, value in self.figures.items()
            },
            "warnings": list(self.warnings),
            "valid": self.valid,
        }


def doubts(spreads: Mapping[str, Spread]) -> list[str]:
    """A warning for every quantity that did not hold still."""
    return [
        f"{name} is unstable: its quartiles lie {_width(spread):.0%} apart; close other programs, or ask for more "
        "iterations"
        for name, spread in spreads.items()
        if spread.unstable
    ]


def _width(spread: Spread) -> float:
    low, high = np.percentile(spread.values, (25, 75))
    return float((high - low) / spread.median)
