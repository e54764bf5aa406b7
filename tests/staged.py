"""The demo's bundle with the stages that hierarchies and feature cards need."""

from __future__ import annotations

import shutil
from pathlib import Path

import sightline
from sightline import demo


def staged(folder: Path) -> Path:
    """A copy in a folder."""
    path = folder / "staged.sightline"
    shutil.copytree(demo.BUNDLE, path)
    if not sightline.load(path).manifest.stages:
        sightline.add_stages(path)
    return path
