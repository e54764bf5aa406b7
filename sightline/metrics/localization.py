"""Does the map lie where the object is? Three shares of a map and the true region, each in [0, 1], more is better.

A map is H×W, a region H×W of booleans on the same grid (:func:`sightline.metrics.region_on_grid` makes it of boxes or a
mask). Definitions: Sattarzadeh et al., AAAI 2021 (SISE), §4; the energy-based pointing game is from Wang et al.,
Score-CAM, CVPR workshops 2020.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sightline.errors import MetricError
from sightline.metrics.ranking import Doubles, Mask, checked, pixels_of, top

TOP_PERCENT = 20
"""The share of the pixels that mIoU compares with the region."""


def energy_pointing_game(saliency: npt.ArrayLike, region: npt.ArrayLike) -> float:
    """EBPG: the share of the map's sum that lies in the region, Σ(S⊙G) / ΣS.

    A map that is zero everywhere points nowhere: 0. A map that is flat above zero gives the region's share of the
    image.

    Raises:
        MetricError: map and region do not fit, the region is empty, or the map holds NaN or values below 0.
    """
    map, inside = _pair(saliency, region)
    if (least := float(map.min())) < 0:
        raise MetricError(f"EBPG needs a map without negative values (the least is {least:.3g}): normalise it first.")
    peak = float(map.max())
    if peak == 0:
        return 0.0
    map = map / peak  # so that no map is too faint, or too bright, for its sum
    return float(map[inside].sum() / map.sum())


def intersection_over_union(saliency: npt.ArrayLike, region: npt.ArrayLike) -> float:
    """IoU of the region and the top 20 % of the pixels; its mean over images is mIoU.

    The number of pixels is rounded to the nearest, halves upwards, at least one. Of equal pixels the first in reading
    order count.

    Raises:
        MetricError: map and region do not fit, the region is empty, or the map holds NaN.
    """
    map, inside = _pair(saliency, region)
    chosen = top(map, pixels_of(TOP_PERCENT, map.size))
    return float(np.sum(chosen & inside) / np.sum(chosen | inside))


def bounding_box_score(saliency: npt.ArrayLike, region: npt.ArrayLike) -> float:
    """Bbox: of the top |G| pixels, as many as the region G has, the share that lies in it.

    Of equal pixels the first in reading order count.

    Raises:
        MetricError: map and region do not fit, the region is empty, or the map holds NaN.
    """
    map, inside = _pair(saliency, region)
    count = int(inside.sum())
    return float(np.sum(top(map, count) & inside) / count)


def _pair(saliency: npt.ArrayLike, region: npt.ArrayLike) -> tuple[Doubles, Mask]:
    map, inside = checked(saliency), np.asarray(region)
    if inside.dtype != np.bool_:
        raise MetricError(f"a region of {inside.dtype} is ambiguous: pass booleans, for example region > 0.")
    if inside.shape != map.shape:
        raise MetricError(
            f"the region has the shape {inside.shape}, the map {map.shape}: bring the region onto the map's grid with "
            "sightline.metrics.region_on_grid."
        )
    if not inside.any():
        raise MetricError("the region is empty, so nothing can lie in it: leave this image out.")
    return map, inside
