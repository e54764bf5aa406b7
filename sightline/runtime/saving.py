"""Files of the user's: whole, or not there at all."""

from __future__ import annotations

import contextlib
import os
import uuid
from pathlib import Path

from sightline.errors import SaveError


def check(path: Path) -> None:
    """Find out before the work whether a file can be written there.

    Raises:
        SaveError: there is no such folder, or a folder has that name.
    """
    if not path.parent.is_dir():
        raise SaveError(f"there is no folder {path.parent} for {path.name}: make it first.")
    if path.is_dir():
        raise SaveError(f"{path} is a folder: name the file to write.")


def make(folder: Path) -> None:
    """Make a folder, unless it is there.

    Raises:
        SaveError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SaveError(f"{folder} cannot be written ({error.strerror or error}): name another folder.") from error


def save(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Write a file under a temporary name beside its place, and rename it. Text is UTF-8.

    Raises:
        SaveError: it cannot be written.
    """
    path = Path(path)
    if not path.name:
        raise SaveError(f"{os.fspath(path)!r} names no file: give a path that ends in a name.")
    temporary = path.with_name(f".{uuid.uuid4().hex[:16]}")  # short: the name itself may be as long as names can be
    try:
        # Names of files that are no text, which a page or a report may hold, become question marks.
        temporary.write_bytes(content.encode(errors="replace") if isinstance(content, str) else content)
        temporary.replace(path)
    except OSError as error:
        raise SaveError(f"{path} could not be written: {error.strerror or error}. Choose another place.") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
