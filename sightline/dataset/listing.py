"""The images of a set: their paths, sizes and hashes, in an order that depends on nothing else."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeAlias

from sightline.dataset import files
from sightline.errors import DatasetError
from sightline.runtime import pictures

UNREADABLE = ""
"""The hash of a file that could not be read."""
_GRACE = 2 * 10**9
"""Nanoseconds: a file changed so shortly before it was hashed may change once more under the same time stamp."""
_BLOCK = 1 << 20
_AT_ONCE = 256

Key: TypeAlias = tuple[str, str]
"""Path and hash of an image: what a result belongs to."""


@dataclass(frozen=True)
class Entry:
    """One image of a set."""

    path: str
    """Relative to the folder of the set, with ``/`` between its parts."""
    size: int
    """Bytes."""
    sha256: str
    """Of the file, in hexadecimal; ``UNREADABLE`` where it cannot be read."""

    @property
    def key(self) -> Key:
        """What its result belongs to."""
        return (self.path, self.sha256)


def listed(
    folder: Path,
    known: Path,
    leave_out: Path,
    limit: int | None = None,
    hashed: Callable[[int, int], None] = lambda done, total: None,
) -> list[Entry]:
    """Every file below a folder that looks like a picture, sorted by path.

    Hidden files and folders are left out, links to folders are not followed. A file whose size and time of change are
    those of the last listing is not read again.

    Args:
        folder: of the images.
        known: where the last listing is kept, and this one will be.
        leave_out: a folder that is not looked into: that of the results.
        limit: only so many, the first ones.
        hashed: called with how many files have been looked at, and how many there are.

    Raises:
        DatasetError: there is no such folder, or no picture in it.
        SaveError: the listing cannot be kept.
    """
    if not folder.is_dir():
        raise DatasetError(f"there is no folder {folder}: name the folder of the images.")
    names = sorted(_names(folder, leave_out.resolve()))
    if not names:
        raise DatasetError(f"the folder {folder} holds no pictures, nor do the folders in it.")
    names = names[:limit]
    before = _recalled(known)
    stamps = {name: _stamp(folder / name) for name in names}
    found = {name: before[name] for name in names if _same(before.get(name), stamps[name])}
    due = [name for name in names if name not in found]
    try:
        hashed(len(found), len(names))
        for name, digest in _hashes(folder, due):
            size, changed = stamps[name]
            found[name] = (size, changed, digest, time.time_ns())
            hashed(len(found), len(names))
    finally:
        if due:
            kept = {name: entry for name, entry in found.items() if entry[2] != UNREADABLE}
            files.write(known, json.dumps(kept).encode())
    return [Entry(name, found[name][0], found[name][2]) for name in names]


def _names(folder: Path, leave_out: Path) -> Iterator[str]:
    suffixes = pictures.suffixes()
    for place, inside, names in os.walk(folder):
        inside[:] = [name for name in inside if not name.startswith(".") and Path(place, name).resolve() != leave_out]
        for name in names:
            path = Path(place, name)
            # Reading a pipe or a device may never end. A link to nowhere is told as a failure.
            if pictures.named_like_one(path, suffixes) and (path.is_file() or not path.exists()):
                yield path.relative_to(folder).as_posix()


_Known: TypeAlias = tuple[int, int, str, int]
"""Size, time of change, hash, when it was hashed."""


def _recalled(known: Path) -> Mapping[str, _Known]:
    try:
        return {name: (int(s), int(c), str(h), int(w)) for name, (s, c, h, w) in json.loads(known.read_bytes()).items()}
    except (OSError, ValueError, TypeError, AttributeError):  # none, or not whole: every file is read
        return {}


def _same(before: _Known | None, stamp: tuple[int, int]) -> bool:
    return before is not None and before[:2] == stamp and before[1] < before[3] - _GRACE


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
        return status.st_size, status.st_mtime_ns
    except OSError:
        return 0, 0


def _hashes(folder: Path, names: Sequence[str]) -> Iterator[tuple[str, str]]:
    rest = iter(names)
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as threads:
        while some := list(islice(rest, _AT_ONCE)):  # in portions, so that an interruption need not wait for all
            yield from zip(some, threads.map(lambda name: _hash(folder / name), some), strict=True)


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    except OSError:
        return UNREADABLE
    return digest.hexdigest()
