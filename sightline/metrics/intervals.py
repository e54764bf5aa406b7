"""How sure is a mean over images? Seeded bootstrap intervals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sightline.errors import MetricError

REPEATS = 4000
_CHUNK = 1 << 20  # numbers drawn at a time, so that memory does not grow with the images


@dataclass(frozen=True)
class Estimate:
    """A mean over images with its interval."""

    mean: float
    low: float
    high: float
    """The ends of the 95 % interval."""
    count: int
    """Of images."""

    @property
    def sign(self) -> int:
        """1 where the whole interval lies above 0, -1 where it lies below, else 0."""
        return int(self.low > 0) - int(self.high < 0) if self.count > 1 else 0  # one image has no interval


def bootstrap(values: npt.ArrayLike, *, seed: int = 0, repeats: int = REPEATS) -> Estimate:
    """The mean and its 95 % percentile interval (Efron & Tibshirani 1993, ch. 13), from ``repeats`` resamples.

    The same number of images and the same seed give the same resamples. To compare two methods pass the differences of
    their values image by image: pairing removes what makes images differ from one another.

    Args:
        values: one per image.

    Raises:
        MetricError: there are no values, NaN among them, or the seed is below 0.
    """
    if seed < 0:
        raise MetricError(f"seed={seed} is out of range: choose a whole number from 0.")
    data = np.asarray(values, np.float64).ravel()
    if data.size == 0:
        raise MetricError("there are no values to average: not one image has this metric.")
    if not np.isfinite(data).all():
        raise MetricError(f"{int(np.sum(~np.isfinite(data)))} of {data.size} values are NaN or infinite.")
    random = np.random.default_rng(seed)
    means = np.empty(repeats)
    rows = max(1, _CHUNK // data.size)
    for start in range(0, repeats, rows):
        part = means[start : start + rows]
        part[:] = data[random.integers(0, data.size, (len(part), data.size))].mean(axis=1)
    low, high = np.percentile(means, (2.5, 97.5)).tolist()
    return Estimate(float(data.mean()), low, high, data.size)
