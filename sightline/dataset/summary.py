"""What a set of explanations says as a whole: its classes, their scores, their mean maps, and what is out of line."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from sightline.dataset.reading import Explained, ExplainedSet
from sightline.dataset.rows import Failure, arrow

CLASSES = 24
"""So many classes, the most frequent ones, have a mean map; images are compared with it only in these."""
SHOWN = 12
"""So many images are shown that are out of line, and so many with the lowest scores."""
BINS = 20
ENOUGH = 3
"""A class needs so many maps for one of them to differ from the others."""

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ClassSummary:
    """The explanations for one class."""

    target: int
    label: str
    count: int
    score: float
    """Mean."""
    lowest: float
    passes: float
    """Mean."""
    regions: float
    """Mean number."""
    histogram: Sequence[int]
    """Scores, by the bins of the summary."""
    mean_map: Doubles | None
    """H×W in [0, 1]; None beyond the most frequent classes, and where maps were not kept."""


@dataclass(frozen=True, eq=False)
class Notable:
    """One explanation to look at."""

    row: Explained
    likeness: float | None
    """Pearson's correlation of its map with the mean of the other maps of its class; 0 for a map that is flat."""


@dataclass(frozen=True, eq=False)
class Summary:
    """A set as a whole."""

    settings: Mapping[str, Any]
    rows: int
    classes: Sequence[ClassSummary]
    """By falling count."""
    edges: Doubles
    """Of the bins of scores: BINS + 1."""
    outliers: Sequence[Notable]
    """The maps least like their class, the least like it first."""
    lowest: Sequence[Notable]
    """The lowest scores first."""
    flat: int
    """Maps that are all zero, in the classes that have a mean map."""
    failures: Sequence[Failure]


@dataclass
class _Sums:
    count: int = 0
    sum: Doubles | None = field(default=None)


def summarise(found: ExplainedSet) -> Summary:
    """Look at every row of a set, and twice at its maps, a shard at a time.

    Raises:
        DatasetError: a file cannot be read.
    """
    table = found.table(["target", "label", "score", "passes", "regions"])
    scores, passes = (table[name].to_numpy() for name in ("score", "passes"))
    regions = arrow().compute.list_value_length(table["regions"]).to_numpy()
    edges = _edges(scores)
    places: dict[tuple[int, str], list[int]] = {}
    for place, key in enumerate(zip(table["target"].to_pylist(), table["label"].to_pylist(), strict=True)):
        places.setdefault(key, []).append(place)
    order = sorted(places, key=lambda key: (-len(places[key]), key))
    sums = {key: _Sums() for key in order[:CLASSES]}
    for row in found:
        mine = sums.get((row.target, row.label))
        if mine is not None and row.saliency is not None:
            mine.count += 1
            values = row.saliency.astype(np.float64)
            mine.sum = values if mine.sum is None else mine.sum + values
    strange, low, flat = _notables(found, sums)
    classes = [
        ClassSummary(
            target=key[0],
            label=key[1],
            count=len(places[key]),
            score=float(scores[places[key]].mean()),
            lowest=float(scores[places[key]].min()),
            passes=float(passes[places[key]].mean()),
            regions=float(regions[places[key]].mean()),
            histogram=np.histogram(scores[places[key]], edges)[0].tolist(),
            mean_map=None if key not in sums or (total := sums[key].sum) is None else total / sums[key].count,
        )
        for key in order
    ]
    return Summary(
        settings=found.settings,
        rows=len(scores),
        classes=classes,
        edges=edges,
        outliers=strange,
        lowest=low,
        flat=flat,
        failures=found.failures,
    )


def _notables(found: ExplainedSet, sums: Mapping[tuple[int, str], _Sums]) -> tuple[list[Notable], list[Notable], int]:
    """The rows least like their class, those with the lowest scores, and how many maps are all zero."""
    strange: list[_Ranked] = []
    low: list[_Ranked] = []
    flat = 0
    for number, row in enumerate(found):
        mine = sums.get((row.target, row.label))
        likeness = None
        if row.saliency is not None and mine is not None and mine.sum is not None:
            flat += not row.saliency.any()
            if mine.count >= ENOUGH:
                values = row.saliency.astype(np.float64)
                likeness = _pearson(values, mine.sum - values)
        notable = Notable(row, likeness)
        if likeness is not None:
            _keep(strange, (-likeness, -number, notable))
        _keep(low, (-row.score, -number, notable))
    return _ranked(strange), _ranked(low), flat


_Ranked: TypeAlias = tuple[float, int, Notable]


def _ranked(heap: list[_Ranked]) -> list[Notable]:
    return [notable for *_, notable in sorted(heap, reverse=True)]


def _keep(heap: list[_Ranked], entry: _Ranked) -> None:
    """The largest entries, of equal ones those of the first images."""
    if len(heap) < SHOWN:
        heapq.heappush(heap, entry)
    else:
        heapq.heappushpop(heap, entry)


def _pearson(first: Doubles, second: Doubles) -> float:
    first, second = first - first.mean(), second - second.mean()
    scale = float(np.sqrt((first * first).sum() * (second * second).sum()))
    return float((first * second).sum()) / scale if scale > 0 else 0.0


def _edges(scores: Doubles) -> Doubles:
    """Of the bins: from 0 to 1, or as far as scores go that are no probabilities."""
    low, high = (float(scores.min()), float(scores.max())) if len(scores) else (0.0, 1.0)
    if low < 0 or high > 1:
        return np.linspace(low, high if high > low else low + 1, BINS + 1)
    return np.linspace(0.0, 1.0, BINS + 1)
