"""Kriging: the scores of all masks from those of a few, for SISE under a budget of passes.

Masks that look alike score alike. The log-odds of the scores (of a target function, which may return anything, its
values) are taken for a Gaussian process over the masks, pooled to 13×13, whose covariance is exp(−d²/ℓ²), d the
distance of two masks, ℓ² the median of d². The mask whose score is least known is scored next (pivoted Cholesky), so
what was scored at any moment is spread over all that there is to see; the rest is predicted by the posterior mean
(Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, §2.2). The layer maps are then sums over all
masks, as they are without a budget. Where scores count unequally, the next mask is the one whose deviation, times what
its score counts, is largest. docs/quality.md has what that gains.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from sightline.kernels import Kernels
from sightline.kernels.sampling import samples
from sightline.runtime.masks import MaskSet
from sightline.runtime.selection import Indices

Doubles = npt.NDArray[np.float64]

SIDE = 13
"""Of the pooled masks."""
NOISE = 0.02
"""The variance, beside the 1 of the process, of what pooled masks cannot tell."""
_EDGE = 1e-3
"""Keeps the log-odds of 0 and 1 finite."""
_LEAST = 1e-6
"""No score counts less than this, beside the largest."""
_MEDIAN_OF = 512
"""Masks whose distances give the median."""


class Kriging:
    """Chooses masks one after the other, and predicts the scores of the others."""

    def __init__(self, features: Doubles, first: int = 0, counts: Doubles | None = None) -> None:
        """Begin with nothing known.

        Args:
            features: N×D, one row for every mask.
            first: the mask to score first among those that are equally unknown and count alike.
            counts: how much the score of each will count, N, over 0 and up to 1; None where all count alike.
        """
        self._features = features
        self._squares = (features**2).sum(axis=1)
        self._length = _median_square(features)
        self._variance = np.ones(len(features))
        self._variance[first] += 1e-9
        self._counts = np.ones(len(features)) if counts is None else np.maximum(counts, _LEAST) ** 2
        self._columns = np.zeros((len(features), 0))
        """Of the Cholesky factor, by place in the order; there may be room for more."""
        self._deviations: list[float] = []
        self._order: list[int] = []

    def next(self, count: int) -> Indices:
        """The next masks to score: fewer where fewer are left."""
        begin = len(self._order)
        count = min(count, len(self._features) - begin)
        if begin + count > self._columns.shape[1]:
            wider = np.zeros((len(self._features), max(begin + count, 2 * begin)))
            wider[:, :begin] = self._columns[:, :begin]
            self._columns = wider
        for place in range(begin, begin + count):
            mask = int((self._variance * self._counts).argmax())
            column = self._covariance(mask) - self._columns[:, :place] @ self._columns[mask, :place]
            deviation = float(np.sqrt(max(column[mask], 0) + NOISE))
            column /= deviation
            self._columns[:, place] = column
            self._deviations.append(deviation)
            self._variance -= column**2
            self._variance[mask] = -np.inf
            self._order.append(mask)
        return np.array(self._order[begin:], np.intp)

    def predicted(self, scores: Doubles, *, shares: bool) -> Doubles:
        """The scores of all masks: those known, and what they let expect of the others.

        Args:
            scores: N, those of the masks chosen so far known, the rest ignored.
            shares: the scores lie in [0, 1], and so do the predictions.
        """
        known = np.array(self._order, np.intp)
        if not known.size:
            return np.zeros(len(scores))
        values = np.log((scores[known] + _EDGE) / (1 + _EDGE - scores[known])) if shares else scores[known]
        found = np.full(len(scores), values.mean())
        for place, (mask, value, deviation) in enumerate(zip(known, values, self._deviations, strict=True)):
            # What is new in this score, and what it says of the others: covariance / variance.
            found += self._columns[:, place] * ((value - found[mask]) / deviation)
        if shares:
            odds = np.exp(np.clip(found, -50, 50))
            found = np.clip(((1 + _EDGE) * odds - _EDGE) / (1 + odds), 0, 1)
        found[known] = scores[known]
        return found

    def _covariance(self, mask: int) -> Doubles:
        squares = self._squares + self._squares[mask] - 2 * self._features @ self._features[mask]
        return np.asarray(np.exp(-np.maximum(squares, 0) / self._length))


def pooled(sets: Iterable[MaskSet], kernels: Kernels) -> Doubles:
    """All masks of several blocks, averaged over 13×13 cells: N×169, in [0, 1]."""
    rows = [np.zeros((0, SIDE * SIDE))]
    for masks in sets:
        maps = kernels.to_host(masks.maps).astype(np.float64)
        scale, shift = kernels.to_host(masks.affine).astype(np.float64).T
        down, across = (_pooling(source, size) for source, size in zip(maps.shape[1:], masks.size, strict=True))
        cells = down @ maps @ across.T
        rows.append((scale[:, None, None] * cells + shift[:, None, None]).reshape(len(maps), -1))
    return np.concatenate(rows)


def _pooling(source: int, size: int) -> Doubles:
    """The matrix, SIDE×source, that averages the upsampled values over SIDE equal cells."""
    first, second, weight = samples(source, size)
    upsampling = np.zeros((size, source))
    np.add.at(upsampling, (np.arange(size), first), 1 - weight)
    np.add.at(upsampling, (np.arange(size), second), weight)
    edges = np.linspace(0, size, SIDE + 1)
    pixels = np.arange(size)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return np.asarray(np.maximum(overlap, 0) @ upsampling / (size / SIDE))


def _median_square(features: Doubles) -> float:
    """Of the distances between masks, evenly picked where there are many; 1 where all masks are the same."""
    some = features[:: -(-len(features) // _MEDIAN_OF)] if len(features) else features
    above = np.triu_indices(len(some), 1)
    squares = (some**2).sum(axis=1)
    found = (squares[:, None] + squares - 2 * some @ some.T)[above]
    median = float(np.median(found)) if found.size else 0.0
    return median if median > 0 else 1.0
