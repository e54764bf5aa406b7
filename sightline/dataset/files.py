"""Files of the output folder: whole or not there, whenever a process or the power goes."""

from __future__ import annotations

import contextlib
import os
import uuid
from pathlib import Path

from sightline.errors import SaveError

PARTIAL = ".part"
"""Suffix of a file that is being written. A kill may leave one behind; :func:`sweep` removes it."""


def write(path: Path, content: bytes) -> None:
    """Write a file under a temporary name beside its place, force it to the disk, and rename it.

    Raises:
        SaveError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}{PARTIAL}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync(path.parent)
    except OSError as error:
        raise SaveError(
            f"{path} could not be written: {error.strerror or error}. Make room or choose another folder, and run the "
            "same command again: what is done stays."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)  # there only if the rename was not reached


def sweep(folder: Path) -> None:
    """Remove what writers that were killed left half written."""
    for path in folder.glob(f".*{PARTIAL}"):
        path.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    """The new name survives a power cut once the folder is on disk as well."""
    if os.name == "nt":
        return  # a folder cannot be flushed there: the file system does it by itself
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems cannot
            os.fsync(handle)
    finally:
        os.close(handle)
