"""Pictures of metal with several defects and their boxes, from the rules and brushes of ``examples/surface``.

``scene(seed=7)`` always gives the same picture and the same boxes.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

# Behind everything else: both folders are run as scripts, and their modules import each other by bare names.
sys.path.append(str(Path(__file__).resolve().parents[1] / "surface"))

from defects import DEFECTS, Mark, harmless
from metal import Rng, clean_scene
from render import photographed, shaded

SIZE = 192
LABELS = tuple(DEFECTS)
_GAP = 8
"""Pixels that stay free between two boxes, so that it is clear what a map lies on."""
_TRIES = 12


@dataclass(frozen=True)
class Picture:
    """One picture and the truth about it."""

    image: npt.NDArray[np.uint8]
    """H×W×3, sRGB."""
    boxes: npt.NDArray[np.float64]
    """M×4: x0, y0, x1, y1 in pixels, the far edges outside."""
    labels: tuple[int, ...]
    """M indices into ``LABELS``."""
    masks: npt.NDArray[np.bool_]
    """M×H×W: where each defect is."""


def scene(seed: int, size: int = SIZE, most: int = 3) -> Picture:
    """The picture number ``seed``: up to ``most`` defects, of any class, whose boxes lie apart."""
    rng = np.random.default_rng([seed, 7])
    part = clean_scene(rng, size)
    reflectance = part.surface[..., None] * part.tint * harmless(rng, size, part)
    light = part.light
    boxes: list[tuple[int, int, int, int]] = []
    labels: list[int] = []
    masks = []
    for _ in range(int(rng.integers(0 if rng.random() < 0.15 else 1, most + 1))):
        label = int(rng.integers(len(LABELS)))
        # Drawn on a canvas of its own, smaller than the picture, and set down where there is room.
        tile = int(rng.integers(round(0.55 * size), round(0.85 * size)))
        mark = DEFECTS[LABELS[label]](rng, tile, part)
        placed = _placed(rng, mark.mask, boxes, size)
        if placed is None:
            continue
        left, top, box = placed
        mark = _moved(mark, left, top, size)
        reflectance = reflectance * mark.colour
        light = light * shaded(mark, part)
        boxes.append(box)
        labels.append(label)
        masks.append(mark.mask)
    return Picture(
        image=photographed(rng, reflectance * light[..., None]),
        boxes=np.array(boxes, np.float64).reshape(-1, 4),
        labels=tuple(labels),
        masks=np.array(masks, np.bool_).reshape(-1, size, size),
    )


def _placed(
    rng: Rng, mask: npt.NDArray[np.bool_], taken: list[tuple[int, int, int, int]], size: int
) -> tuple[int, int, tuple[int, int, int, int]] | None:
    """Where the canvas of a mark goes (left, top), and the mark's box there; None if there is no room."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    y0, y1, x0, x1 = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    for _ in range(_TRIES):
        x, y = int(rng.integers(2, size - 2 - (x1 - x0))), int(rng.integers(2, size - 2 - (y1 - y0)))
        box = (x, y, int(x + x1 - x0), int(y + y1 - y0))
        if all(
            box[0] > other[2] + _GAP or other[0] > box[2] + _GAP or box[1] > other[3] + _GAP or other[1] > box[3] + _GAP
            for other in taken
        ):
            return int(x - x0), int(y - y0), box
    return None


def _moved(mark: Mark, left: int, top: int, size: int) -> Mark:
    """The mark on a canvas of the picture's size; what falls off its edges is lost."""
    tile = len(mark.mask)
    there = (
        slice(max(top, 0), min(top + tile, size)),
        slice(max(left, 0), min(left + tile, size)),
    )
    here = (
        slice(there[0].start - top, there[0].stop - top),
        slice(there[1].start - left, there[1].stop - left),
    )
    colour, relief = np.ones((size, size, 3), np.float32), np.zeros((size, size), np.float32)
    mask = np.zeros((size, size), np.bool_)
    colour[there], relief[there], mask[there] = mark.colour[here], mark.relief[here], mark.mask[here]
    return Mark(colour, relief, mask)
