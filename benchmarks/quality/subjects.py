"""What is evaluated: real steel surfaces with boxes, and the demo's drawn defects with masks."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from sightline import demo
from sightline.metrics.annotations import Annotation, annotation_of, read_annotations
from sightline.metrics.evaluation import Case

FIRST_SEED = 7_000_000
"""Of the drawn pictures: away from the seeds of training, test and demo pictures."""


@dataclass(frozen=True)
class Subject:
    """A network and images that it was not fitted on."""

    title: str
    bundle: Path
    cases: list[Case]


def neu_det(data: Path, bundle: Path, limit: int | None, *, part: str = "eval", last: int | None = None) -> Subject:
    """The pictures of a part with their boxes, the classes in turn; the first ``limit`` of them.

    Args:
        data: the folder of the set.
        bundle: the network.
        limit: None for all.
        part: ``eval`` or ``train``.
        last: only the last so many of every class: of ``train``, those that train.py leaves out.
    """
    known = read_annotations(data / f"{part}.json")
    paths = sorted((data / part).iterdir())
    by_class: dict[str | None, list[Case]] = {}
    for path in paths:
        annotation = annotation_of(known, path) or Annotation()
        by_class.setdefault(annotation.label, []).append(Case(path, path.name, annotation))
    chosen = [cases if last is None else cases[-last:] for cases in by_class.values()]
    return Subject("NEU-DET", bundle, _in_turn(chosen)[:limit])


def surface(folder: Path, per_class: int, limit: int | None) -> Subject:
    """Drawn pictures of the demo's kind with their masks, written to a folder; the first ``limit`` of them."""
    sys.path.append(str(Path(__file__).resolve().parents[2] / "examples" / "surface"))
    from render import LABELS, render

    folder.mkdir(parents=True, exist_ok=True)
    by_class = []
    for label in LABELS[1:]:
        cases = []
        for number in range(per_class):
            path = folder / f"{label}-{number:03d}.png"
            mask = path.with_suffix(".mask.png")
            if not mask.exists():  # it is written last
                sample = render(label, FIRST_SEED + number)
                Image.fromarray(sample.image).save(path)
                Image.fromarray(sample.mask.astype(np.uint8) * 255).save(mask)
            cases.append(Case(path, path.name, Annotation(label, mask=mask)))
        by_class.append(cases)
    return Subject("drawn surface defects", demo.BUNDLE, _in_turn(by_class)[:limit])


def at(subject: Subject, places: str) -> Subject:
    """Only the images at these places: ``"0:48,96:144"``, ends excluded, as slices are."""
    chosen: list[Case] = []
    for part in places.split(","):
        first, last = (int(end) if end else None for end in part.split(":"))
        chosen += subject.cases[first:last]
    return replace(subject, cases=chosen)


def _in_turn(by_class: list[list[Case]]) -> list[Case]:
    longest = max(map(len, by_class), default=0)
    return [cases[number] for number in range(longest) for cases in by_class if number < len(cases)]
