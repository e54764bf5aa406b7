"""The order of a map's pixels, and the parts of it that metrics take."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sightline.errors import MetricError

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


def checked(saliency: npt.ArrayLike) -> Doubles:
    """A map as H×W doubles.

    Raises:
        MetricError: it is empty, not H×W, or holds NaN or infinity.
    """
    map = np.asarray(saliency, np.float64)
    if map.ndim != 2 or map.size == 0:
        raise MetricError(f"a map of shape {map.shape} is not H×W: pass explanation.saliency.")
    if not np.isfinite(map).all():
        raise MetricError(f"{int(np.sum(~np.isfinite(map)))} of {map.size} values of the map are NaN or infinite.")
    return map


def ranked(saliency: npt.ArrayLike) -> npt.NDArray[np.intp]:
    """The pixels by falling saliency, as numbers in reading order (row · W + column).

    The rank is stable: of equal pixels the first in reading order comes first. So a flat map has a defined, if
    meaningless, rank: the reading order.

    Raises:
        MetricError: the map cannot be scored.
    """
    return np.argsort(-checked(saliency).ravel(), kind="stable")


def top(saliency: npt.ArrayLike, count: int) -> Mask:
    """H×W: the ``count`` pixels of the highest stable rank."""
    order = ranked(saliency)
    mask = np.zeros(np.shape(saliency), np.bool_)
    mask.flat[order[:count]] = True
    return mask


def pixels_of(percent: int, pixels: int) -> int:
    """How many pixels ``percent`` of them are: to the nearest whole number, halves upwards, at least one."""
    return max(1, (2 * percent * pixels + 100) // 200)
