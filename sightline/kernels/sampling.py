"""Where bilinear samples lie, and how histograms are split: what the kernels of every device share.

All of it is computed on the host, in float64 and whole numbers, so that a CPU and a GPU blend the same pixels with the
same weights and choose the same thresholds.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sightline.kernels.protocol import Doubles

BINS = 256


class Samples(NamedTuple):
    """Where samples along one axis lie: between source pixels ``first`` and ``second``, ``weight`` of the way."""

    first: npt.NDArray[np.intp]
    second: npt.NDArray[np.intp]
    weight: Doubles

    def cut(self, start: int, length: int) -> Samples:
        """Only these samples."""
        part = slice(start, start + length)
        return Samples(self.first[part], self.second[part], self.weight[part])


@lru_cache(maxsize=256)
def samples(source: int, size: int, mirrored: bool = False) -> Samples:
    """The samples that make ``size`` pixels of ``source``: half-pixel centres, no antialiasing.

    Beyond the centres of the first and the last pixel these are held, or the pixels are ``mirrored`` there.
    """
    position = (np.arange(size) + 0.5) * source / size - 0.5
    if mirrored:
        position = source - 1 - abs(source - 1 - abs(position))
    position = np.clip(position, 0, source - 1)
    first = position.astype(np.intp)
    return Samples(first, np.minimum(first + 1, source - 1), position - first)


@lru_cache(maxsize=256)
def patch_weights(source: int, size: int) -> npt.NDArray[np.float32] | None:
    """Of :func:`samples`, the weights between two neighbouring source pixels, where all neighbours have the same.

    So it is where ``size`` is a multiple s of ``source``: s // 2 samples are the first pixel, then s lie between every
    two neighbours, and the rest is the last pixel. None anywhere else.
    """
    every = samples(source, size)
    step = size // source
    inner = slice(step // 2, step // 2 + (source - 1) * step)
    if size % source or source == 1:
        return None
    weights = every.weight[inner].astype(np.float32).reshape(source - 1, step)
    first, outer = every.first[inner].reshape(source - 1, step), np.delete(every.weight, np.r_[inner])
    regular = (weights == weights[0]).all() and (first == np.arange(source - 1)[:, None]).all() and not outer.any()
    return weights[0] if regular else None


@lru_cache(maxsize=256)
def patch_corners(source: int, size: int) -> Samples:
    """Of :func:`samples`, the first and the last one between every two source pixels."""
    every = samples(source, size)
    step = np.flatnonzero(np.diff(every.first))
    keep = np.unique(np.concatenate([[0], step, step + 1, [size - 1]]))
    return Samples(every.first[keep], every.second[keep], every.weight[keep])


@lru_cache(maxsize=256)
def shares(source: int, size: int) -> Doubles:
    """How much every source pixel counts in the sum over all samples: the column sums of the interpolation matrix."""
    first, second, weight = samples(source, size)
    counted = np.zeros(source)
    np.add.at(counted, first, 1.0 - weight)
    np.add.at(counted, second, weight)
    return counted


def threshold(counts: npt.NDArray[np.int64]) -> float | None:
    """Otsu's threshold of a histogram over [0, 1] with 256 equal bins; None where nothing separates the values.

    The first split that maximises the between-class variance, as the upper edge of the lower class's last bin.
    """
    # Bins stand for their numbers, and w₀·w₁·(m₀ − m₁)² is (S·n₀ − N·s₀)²/(n₀·n₁) but for a constant: whole numbers as
    # far as possible, so that splits that tie (on either side of an empty bin, say) tie exactly.
    number, moment = np.cumsum(counts), np.cumsum(counts * np.arange(BINS))
    total = number[-1]
    products = number * (total - number)
    splits = np.flatnonzero(products)
    if not splits.size:
        return None
    spread = moment[-1] * number[splits] - total * moment[splits]
    return float((splits[(spread.astype(np.float64) ** 2 / products[splits]).argmax()] + 1) / BINS)
