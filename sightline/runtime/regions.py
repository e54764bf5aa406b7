"""Regions: the connected parts of a saliency map that stand out, as boxes a production line can act on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Region:
    """One connected part of the map above Otsu's threshold."""

    box: tuple[int, int, int, int]
    """(x0, y0, x1, y1) in pixels of the original image; x1 and y1 are exclusive."""
    area: float
    """In pixels of the original image."""
    mean: float
    """Mean saliency, in [0, 1]."""
    peak: float
    """Highest saliency, in [0, 1]."""
    mass: float
    """Share of the whole map's saliency that lies in this region, in [0, 1]."""


def find_regions(saliency: npt.NDArray[np.float32], threshold: float, size: tuple[int, int]) -> list[Region]:
    """The connected parts (8 neighbours) where the saliency is at or above a threshold, by falling mass.

    They are found on the network's grid, whose cost does not depend on the camera, and scaled to the original image:
    upsampling the map first would add pixels but no information.

    Args:
        saliency: H×W in [0, 1].
        threshold: of the saliency.
        size: (width, height) of the original image in pixels.
    """
    labels, count = label_components(saliency >= threshold)
    inside = labels >= 0
    of_pixel = labels[inside]
    values = saliency[inside].astype(np.float64)
    rows, columns = np.nonzero(inside)
    pixels = np.bincount(of_pixel, minlength=count)
    sums = np.bincount(of_pixel, values, count)
    peaks = np.zeros(count)
    np.maximum.at(peaks, of_pixel, values)
    # Whole numbers: a quotient that is rounded first may lie beyond the image.
    (left, right), (top, bottom) = (
        [ends.tolist() for ends in _bounds(of_pixel, places, count)] for places in (columns, rows)
    )
    height, width = saliency.shape
    total = float(saliency.sum(dtype=np.float64))
    found = [
        Region(
            box=(
                left[i] * size[0] // width,
                top[i] * size[1] // height,
                -(-(right[i] + 1) * size[0] // width),
                -(-(bottom[i] + 1) * size[1] // height),
            ),
            area=float(pixels[i] * (size[0] / width) * (size[1] / height)),
            mean=float(sums[i] / pixels[i]),
            peak=float(peaks[i]),
            mass=float(sums[i] / total),
        )
        for i in range(count)
    ]
    return sorted(found, key=lambda region: (-region.mass, region.box))


def label_components(mask: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.intp], int]:
    """Number the 8-connected components of a mask, in the order of their first pixels.

    Horizontal runs are found and matched with those of the row above in array operations; only the runs that touch,
    a few hundred in a saliency map, are joined one by one (union–find).

    Returns:
        H×W component numbers, −1 outside, and how many components there are.
    """
    height, width = mask.shape
    padded = np.zeros((height, width + 2), np.int8)
    padded[:, 1:-1] = mask
    steps = np.diff(padded, axis=1)
    row, start = np.nonzero(steps == 1)
    end = np.nonzero(steps == -1)[1]  # exclusive; runs come in the same order
    # As one number line where every row has its own stretch, the runs above that touch run i are those with
    # end >= start_i and start <= end_i (diagonals included): neighbours in sorted order.
    stride = width + 2
    first = np.searchsorted(row * stride + end, (row - 1) * stride + start, side="left")
    last = np.searchsorted(row * stride + start, (row - 1) * stride + end, side="right")
    parent = list(range(len(row)))

    def root(run: int) -> int:
        while parent[run] != run:
            parent[run] = parent[parent[run]]
            run = parent[run]
        return run

    for run, (low, high) in enumerate(zip(first.tolist(), last.tolist(), strict=True)):
        for above in range(low, high):
            a, b = root(above), root(run)
            parent[max(a, b)] = min(a, b)
    roots, numbers = np.unique([root(run) for run in range(len(row))], return_inverse=True)
    labels = np.full(mask.shape, -1, np.intp)
    labels[mask] = np.repeat(numbers, end - start)
    return labels, len(roots)


def _bounds(
    of_pixel: npt.NDArray[np.intp], positions: npt.NDArray[np.intp], count: int
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    low = np.full(count, np.iinfo(np.intp).max)
    high = np.full(count, -1)
    np.minimum.at(low, of_pixel, positions)
    np.maximum.at(high, of_pixel, positions)
    return low, high
