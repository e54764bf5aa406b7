"""A budget of passes: in which order it is spent, and how much of the evidence it covers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Protocol

import numpy as np
import numpy.typing as npt

from sightline.errors import MethodError
from sightline.numeric import real, whole_or_none
from sightline.runtime.selection import Choice, Indices

Doubles = npt.NDArray[np.float64]


def check(max_passes: int | None, deadline: float | None) -> None:
    """Refuse budgets that are none.

    Raises:
        MethodError: a number is out of range.
    """
    whole_or_none("max_passes", max_passes, MethodError)
    if deadline is not None and not 0 < real(deadline) < math.inf:
        raise MethodError(f"deadline={deadline!r} is out of range: choose seconds above 0, or None.")


class Order(Protocol):
    """Which masks come first when not all can be scored."""

    def next(self, count: int) -> Indices:
        """The next masks, by their numbers among those of all blocks: fewer where fewer are left."""


class Worthiest:
    """By falling worth; equal ones as they stand."""

    def __init__(self, worth: Doubles) -> None:
        self._order = np.argsort(-worth, kind="stable")
        self._done = 0

    def next(self, count: int) -> Indices:
        """The next masks."""
        begin, self._done = self._done, self._done + count
        return self._order[begin : self._done]


def united(choices: Iterable[Mapping[str, Choice]]) -> dict[str, Choice]:
    """What several targets choose together, by block; a mask is worth what it is to any of them."""
    found: dict[str, dict[int, float]] = {}
    for choice in choices:
        for name, masks in choice.items():
            worths = found.setdefault(name, {})
            for number, worth in zip(masks.numbers.tolist(), masks.worth.tolist(), strict=True):
                worths[number] = max(worth, worths.get(number, 0.0))
    return {
        name: Choice(np.array(sorted(worths), np.intp), np.array([worths[number] for number in sorted(worths)]))
        for name, worths in found.items()
    }


def completeness(choices: Mapping[str, Choice], covered: Mapping[str, Indices]) -> float:
    """The share of the positive α that the scored masks cover, in [0, 1]; 1 where there was none to score.

    Args:
        choices: what the target chose.
        covered: numbers of the masks that were scored, or need not be, by block.
    """
    total = sum(float(choice.worth.sum()) for choice in choices.values())
    done = sum(
        float(choice.worth[np.isin(choice.numbers, covered.get(name, ()))].sum()) for name, choice in choices.items()
    )
    return min(1.0, done / total) if total else 1.0
