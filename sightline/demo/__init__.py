"""The demo: a small network, its bundle, and six images of metal surfaces with their true defects.

``examples/surface/`` made all of it, by rule and by seed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

_HERE = Path(__file__).parent

BUNDLE = _HERE / "surface.sightline"


@dataclass(frozen=True)
class Sample:
    """One image and the truth about it.

    image: a picture in RGB.
    label: the class that it is of.
    truth: a picture of the same size, white where the defect is.
    """

    name: str
    image: Path
    label: str
    truth: Path


def samples() -> tuple[Sample, ...]:
    """The six images, in the order of their index."""
    folder = _HERE / "images"
    return tuple(
        Sample(Path(entry["file"]).stem, folder / entry["file"], entry["label"], folder / entry["mask"])
        for entry in json.loads((folder / "index.json").read_text(encoding="utf-8"))
    )
