"""The metrics as their formulas read: loops over pixels and steps, in Python's own numbers."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Score = Callable[[Array], float]
"""From one image, C×H×W, to p_c."""


def by_rank(saliency: Array) -> list[tuple[int, int]]:
    """Pixels by falling saliency; of equal ones the first in reading order."""
    height, width = saliency.shape
    pixels = [(row, column) for row in range(height) for column in range(width)]
    return sorted(pixels, key=lambda pixel: (-saliency[pixel], pixel))


def ebpg(saliency: Array, region: Array) -> float:
    """Σ(S⊙G) / ΣS."""
    inside = total = 0.0
    for row in range(saliency.shape[0]):
        for column in range(saliency.shape[1]):
            total += saliency[row, column]
            if region[row, column]:
                inside += saliency[row, column]
    return inside / total


def iou(saliency: Array, region: Array) -> float:
    """The top 20 % of the pixels, at least one, against G."""
    count = max(1, math.floor(0.2 * saliency.size + 0.5))
    chosen = set(by_rank(saliency)[:count])
    true = {pixel for pixel in by_rank(saliency) if region[pixel]}
    return len(chosen & true) / len(chosen | true)


def bbox(saliency: Array, region: Array) -> float:
    """The top |G| pixels, the fraction of them inside G."""
    count = int(region.sum())
    return sum(bool(region[pixel]) for pixel in by_rank(saliency)[:count]) / count


def kept_score(image: Array, saliency: Array, score: Score) -> float:
    """p_c(I⊙T), T the top 15 % of the pixels."""
    kept = np.zeros_like(image)
    for row, column in by_rank(saliency)[: math.floor(0.15 * saliency.size + 0.5)]:
        kept[:, row, column] = image[:, row, column]
    return score(kept)


def deletion(image: Array, saliency: Array, score: Score, steps: int) -> tuple[list[float], float]:
    """The scores while pixels become zero, and their mean by trapezoids."""
    return _curve(image, np.zeros_like(image), saliency, score, steps)


def insertion(image: Array, saliency: Array, score: Score, steps: int) -> tuple[list[float], float]:
    """The scores while pixels of the blurred image become those of the image."""
    return _curve(blurred(image), image, saliency, score, steps)


def _curve(start: Array, end: Array, saliency: Array, score: Score, steps: int) -> tuple[list[float], float]:
    order = by_rank(saliency)
    current = start.copy()
    done, scores, shares = 0, [score(current)], [0.0]
    for step in range(1, steps + 1):
        due = math.floor(step * len(order) / steps + 1e-9)
        for row, column in order[done:due]:
            current[:, row, column] = end[:, row, column]
        done = due
        scores.append(score(current))
        shares.append(done / len(order))
    area = 0.0
    for i in range(steps):
        area += (shares[i + 1] - shares[i]) * (scores[i] + scores[i + 1]) / 2
    return scores, area


def blurred(image: Array) -> Array:
    """Convolution with the official kernel, zeros beyond the edges."""
    kernel = official_kernel()
    height, width = image.shape[1:]
    result = np.zeros_like(image)
    for channel in range(len(image)):
        for row in range(height):
            for column in range(width):
                for i in range(11):
                    for j in range(11):
                        y, x = row + i - 5, column + j - 5
                        if 0 <= y < height and 0 <= x < width:
                            result[channel, row, column] += kernel[i, j] * image[channel, y, x]
    return result


def official_kernel() -> Array:
    """``gkern(11, 5)``: SciPy's gaussian_filter (truncate 4, mode "reflect") of a one in an 11×11 field."""
    field = np.zeros((11, 11))
    field[5, 5] = 1
    weights = [math.exp(-(d**2) / (2 * 5**2)) for d in range(-20, 21)]
    weights = [weight / sum(weights) for weight in weights]
    for axis in (0, 1):
        padded = np.pad(field, [(20, 20) if axis == a else (0, 0) for a in (0, 1)], mode="symmetric")
        field = sum(
            (weight * np.take(padded, range(d, d + 11), axis) for d, weight in enumerate(weights)),
            start=np.zeros((11, 11)),
        )
    return field
