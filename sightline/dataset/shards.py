"""A set cut into shards: which of them are done, and which rows of earlier shards can be kept."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sightline.dataset import rows
from sightline.dataset.listing import Entry, Key
from sightline.errors import DatasetError

WORK = ".work"
"""Folder of what a run needs until it is over: attempts, and shards that no longer fit."""
OLD = "old"
"""Folder in it of shards whose images have changed, until their rows have been taken over."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shard:
    """Neighbours in the list of images: one file of the results."""

    number: int
    entries: tuple[Entry, ...]
    earlier: tuple[str, ...] = ()
    """Names of files in ``OLD`` that tell of some of the images."""
    taken: int = 0
    """Of how many."""

    @property
    def name(self) -> str:
        """Of its file."""
        return f"part-{self.number:05d}.parquet"


def cut(entries: Sequence[Entry], size: int) -> list[Shard]:
    """Consecutive images, ``size`` to a shard, the last one with what is left."""
    return [
        Shard(number, tuple(entries[begin : begin + size])) for number, begin in enumerate(range(0, len(entries), size))
    ]


def due(out: Path, shards: Sequence[Shard], *, retry: bool = False) -> list[Shard]:
    """The shards that are not done, each with the earlier files that know something of its images.

    A finished shard whose images are no longer the listed ones, bytes included, is moved to ``OLD``; so is one that
    cannot be read, with a warning, and, where ``retry``, one with failures.

    Raises:
        DatasetError: a file cannot be moved.
    """
    wanted = {shard.name: shard for shard in shards}
    old = out / WORK / OLD
    done = set()
    for path in sorted(out.glob("part-*.parquet")):
        contents = _contents(path)
        shard = wanted.get(path.name)
        if (
            contents is not None
            and shard is not None
            and contents.images == [entry.key for entry in shard.entries]
            and not (retry and contents.failures)
        ):
            done.add(path.name)
            continue
        try:
            old.mkdir(parents=True, exist_ok=True)
            path.replace(_free(old, path.name))
        except OSError as error:
            raise DatasetError(f"{path} cannot be moved to {old} ({error.strerror or error}).") from error
    where = _where(sorted(old.glob("*.parquet")), retry=retry)
    left = []
    for shard in shards:
        if shard.name not in done:
            told = [where[entry.key] for entry in shard.entries if entry.key in where]
            left.append(Shard(shard.number, shard.entries, tuple(sorted(set(told))), len(told)))
    return left


def _contents(path: Path) -> rows.Contents | None:
    try:
        return rows.contents(path)
    except DatasetError as error:
        logger.warning("%s", error)
        return None


def _where(paths: Iterable[Path], *, retry: bool) -> dict[Key, str]:
    """Which file tells of an image; where ``retry``, only of one that has rows."""
    found: dict[Key, str] = {}
    for path in paths:
        if (contents := _contents(path)) is not None:
            failed = {(failure.path, failure.sha256) for failure in contents.failures} if retry else ()
            found |= {key: path.name for key in contents.images if key not in failed}
    return found


def _free(folder: Path, name: str) -> Path:
    """A name not taken in a folder: an earlier run may have been killed before it took all rows over."""
    path, number = folder / name, 1
    while path.exists():
        number += 1
        path = folder / f"{number}-{name}"
    return path
