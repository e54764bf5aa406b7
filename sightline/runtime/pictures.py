"""Which files of a folder are pictures, by their names."""

from __future__ import annotations

from pathlib import PurePath

from PIL import Image

_ONLY_TOLD = {"BUFR", "GRIB", "HDF5", "MPEG"}
"""Formats that Pillow can tell and not decode."""


def suffixes() -> set[str]:
    """Those of the formats that Pillow reads; it registers some, PDF for one, only to write them."""
    known = Image.registered_extensions()
    return {suffix for suffix, kind in known.items() if kind in Image.OPEN and kind not in _ONLY_TOLD}


def named_like_one(path: PurePath, suffixes: set[str]) -> bool:
    """Whether a file has one of the suffixes and is not hidden, as the ``._part.jpg`` that macOS writes are."""
    return not path.name.startswith(".") and path.suffix.lower() in suffixes
