"""Where the object truly is, brought onto the network's grid exactly as the image was."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from sightline.errors import AnnotationError
from sightline.metrics.ranking import Mask


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels of the upright original image; pixel 0 reaches from 0 to 1: the far edges lie outside."""

    left: float
    top: float
    right: float
    bottom: float
    label: str | None = None
    """The class inside; None where it is not known."""

    def __post_init__(self) -> None:
        edges = (self.left, self.top, self.right, self.bottom)
        if not all(map(math.isfinite, edges)) or self.left >= self.right or self.top >= self.bottom:
            raise AnnotationError(f"a box from ({self.left}, {self.top}) to ({self.right}, {self.bottom}) has no area.")


def boxes_mask(boxes: Iterable[Box], size: tuple[int, int]) -> Mask:
    """The union of boxes: H×W, a pixel belongs to a box if its centre does.

    Args:
        boxes: what reaches beyond the image is cut off.
        size: (width, height) of the original image.

    Raises:
        AnnotationError: a box holds no pixel of the image.
    """
    width, height = size
    mask = np.zeros((height, width), np.bool_)
    for box in boxes:
        rows = slice(*(min(max(math.ceil(edge - 0.5), 0), height) for edge in (box.top, box.bottom)))
        columns = slice(*(min(max(math.ceil(edge - 0.5), 0), width) for edge in (box.left, box.right)))
        if mask[rows, columns].size == 0:
            raise AnnotationError(
                f"the box from ({box.left:g}, {box.top:g}) to ({box.right:g}, {box.bottom:g}) holds no pixel of the "
                f"{width}×{height} image: are the boxes in pixels of this image?"
            )
        mask[rows, columns] = True
    return mask


def region_on_grid(mask: npt.ArrayLike, size: tuple[int, int]) -> Mask:
    """A region of the original image on the network's grid.

    It is stretched as the image is (bilinear, antialiased), which gives every pixel of the grid the share of it that
    the region covers. A pixel belongs to the region if that share is at least half of the largest share: 0.5 for any
    region that fills one pixel of the grid, and less for one that is thinner everywhere, so that no region vanishes.

    Args:
        mask: H×W booleans at the original image's size, True inside.
        size: (width, height) of the grid.

    Raises:
        AnnotationError: the mask is not H×W, or nothing is True in it.
    """
    inside = np.asarray(mask)
    if inside.ndim != 2 or inside.dtype != np.bool_:
        raise AnnotationError(f"a mask of shape {inside.shape} and type {inside.dtype} is not H×W booleans.")
    if not inside.any():
        raise AnnotationError("the mask is empty: an image without a region has none to be scored against.")
    picture = Image.fromarray(inside.astype(np.float32))
    if picture.size != size:
        picture = picture.resize(size, Image.Resampling.BILINEAR)
    share = np.asarray(picture)
    return np.asarray(share >= share.max() / 2)
