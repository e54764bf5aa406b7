"""NEU-DET as it lies on the disk: pictures of hot-rolled steel, a class and boxes drawn by people for each."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

VARIABLE = "SIGHTLINE_NEU_DET"
LABELS = ("crazing", "inclusion", "patches", "pitted_surface", "rolled-in_scale", "scratches")
SIZE = 200
"""Height and width of every picture."""


@dataclass(frozen=True)
class Picture:
    """One picture of the set."""

    name: str
    pixels: npt.NDArray[np.uint8]
    """H×W, grey."""
    label: int
    """Index into ``LABELS``."""
    mask: npt.NDArray[np.bool_]
    """H×W: the union of the boxes of its own class."""


def folder(path: Path | None = None) -> Path:
    """The folder that holds ``train/``, ``train.json``, ``eval/`` and ``eval.json``.

    Raises:
        SystemExit: there is none; the message says how to name one.
    """
    named = path or (Path(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None)
    if named is None:
        raise SystemExit(f"NEU-DET is not part of this project: pass --data FOLDER or set {VARIABLE}.")
    missing = [name for name in ("train", "train.json", "eval", "eval.json") if not (named / name).exists()]
    if missing:
        raise SystemExit(f"{named} is not NEU-DET as this benchmark reads it: it lacks {', '.join(missing)}.")
    return named


def read(data: Path, part: str) -> list[Picture]:
    """The pictures of ``train`` or ``eval``, by name."""
    described = json.loads((data / f"{part}.json").read_text(encoding="utf-8"))
    return [_picture(data / part / name, facts) for name, facts in sorted(described.items())]


def held_out(pictures: Sequence[Picture], per_class: int) -> tuple[list[Picture], list[Picture]]:
    """Those to fit on, and the last ``per_class`` of every class: whatever is tuned is tuned on these."""
    kept, left = [], []
    for label in range(len(LABELS)):
        of_class = [picture for picture in pictures if picture.label == label]
        kept += of_class[: len(of_class) - per_class]
        left += of_class[len(of_class) - per_class :]
    return kept, left


def boxes_mask(boxes: Sequence[Sequence[int]], size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """The union of boxes (x0, y0, x1, y1), the far edge included: H×W."""
    mask = np.zeros(size, np.bool_)
    for x0, y0, x1, y1 in boxes:
        mask[y0 : y1 + 1, x0 : x1 + 1] = True
    return mask


def _picture(path: Path, facts: dict[str, object]) -> Picture:
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("L"))
    name = str(facts["class"])
    boxes = [box["xyxy"] for box in facts["boxes"] if box["class"] == name]  # type: ignore[attr-defined]
    mask = boxes_mask(boxes, (pixels.shape[0], pixels.shape[1]))
    return Picture(path.name, pixels, LABELS.index(name), mask)
