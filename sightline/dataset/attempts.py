"""What attempts at a shard have left: a line for every image begun and done, which outlives its writer.

Every attempt writes a file of its own, so that two of them, should a cluster ever run both, do not tear each other's
lines. A line counts once it is whole. An attempt whose last word is that it began an image died of it, unless
somebody noted that it was stopped.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from sightline.dataset.listing import Key
from sightline.dataset.rows import Row
from sightline.dataset.shards import WORK
from sightline.errors import SaveError

_SUFFIX = ".jsonl"


@dataclass
class Past:
    """What earlier attempts at a shard have come to."""

    rows: dict[Key, list[Row]] = field(default_factory=dict)
    failed: dict[Key, str] = field(default_factory=dict)
    deaths: Counter[Key] = field(default_factory=Counter)
    """How many attempts ended while they had an image in hand."""
    causes: dict[Key, str] = field(default_factory=dict)
    """How the last of them ended, where that is known."""

    @property
    def images(self) -> int:
        """How many images are explained, or have failed."""
        return len(self.rows) + len(self.failed)

    def of(self, key: Key) -> list[Row] | str | None:
        """The rows of an image, or why it has none; None where that is not known."""
        return self.rows.get(key, self.failed.get(key))


class Attempt:
    """The file of one attempt, being written."""

    def __init__(self, path: Path) -> None:
        """Begin the file, and its folder where need be.

        Raises:
            SaveError: it cannot be written; so do the other methods.
        """
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab", buffering=0)  # one write for each line: a kill tears none but the last
        except OSError as error:
            raise self._unwritten(error) from error
        self._begun = self._file.tell()

    def begin(self, key: Key) -> None:
        """An image is in hand from now on."""
        self._begun = self._file.tell()
        self._add({"begin": key})

    def explained(self, key: Key, rows: list[Row]) -> None:
        """Its rows."""
        self._add({"explained": key, "rows": [_plain(row) for row in rows]})

    def failed(self, key: Key, reason: str) -> None:
        """It has no row, and why."""
        self._add({"failed": key, "reason": reason})

    def _add(self, record: dict[str, Any]) -> None:
        line = json.dumps(record).encode() + b"\n"
        try:
            while line:  # a disk that fills up takes a part
                line = line[self._file.write(line) :]
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.truncate(self._begun)  # there may be no room to note that the image is not to blame
            raise self._unwritten(error) from error

    def _unwritten(self, error: OSError) -> SaveError:
        return SaveError(
            f"{self._path} could not be written: {error.strerror or error}. Make room, and run the same command again: "
            "what is done stays."
        )

    def __enter__(self) -> Attempt:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def folder_of(out: Path, shard: str) -> Path:
    """Where the attempts at a shard lie."""
    return out / WORK / shard


def fresh(out: Path, shard: str) -> Path:
    """The path of a new attempt."""
    return folder_of(out, shard) / f"{uuid.uuid4().hex}{_SUFFIX}"


def past(out: Path, shard: str) -> Past:
    """What all attempts at a shard have left."""
    found = Past()
    for path in sorted(folder_of(out, shard).glob(f"*{_SUFFIX}")):
        in_hand: Key | None = None
        cause = ""
        for record in _records(path):
            if "begin" in record:
                in_hand = _key(record["begin"])
            elif "explained" in record:
                found.rows[_key(record["explained"])] = [_restored(row) for row in record["rows"]]
                in_hand = None
            elif "failed" in record:
                found.failed[_key(record["failed"])] = record["reason"]
                in_hand = None
            elif "stopped" in record:
                in_hand = None
            elif "died" in record:
                cause = record["died"]
        if in_hand is not None:
            found.deaths[in_hand] += 1
            if cause:
                found.causes[in_hand] = cause
    return found


def died(attempt: Path, cause: str) -> None:
    """Note how the writer of an attempt ended."""
    _note(attempt, {"died": cause})


def stopped(attempt: Path) -> None:
    """Note that an attempt was ended on purpose: the image in hand is not to blame."""
    _note(attempt, {"stopped": True})


def all_of(out: Path) -> set[Path]:
    """The attempts at all shards."""
    return set((out / WORK).glob(f"*/*{_SUFFIX}"))


def forget(out: Path, shard: str) -> None:
    """Remove the attempts at a shard: it is done."""
    shutil.rmtree(folder_of(out, shard), ignore_errors=True)


def _note(attempt: Path, record: dict[str, Any]) -> None:
    # After a line that the kill has torn, this must begin a new one. The file may be gone, or the disk full.
    with contextlib.suppress(OSError), attempt.open("r+b", buffering=0) as file:
        file.seek(0, os.SEEK_END)
        file.write(b"\n" + json.dumps(record).encode() + b"\n")


def _records(path: Path) -> Iterator[dict[str, Any]]:
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        for line in file:
            with contextlib.suppress(ValueError):  # torn, or the blank line before a note
                record = json.loads(line)
                if isinstance(record, dict):
                    yield record


def _key(pair: list[str]) -> Key:
    path, digest = pair
    return path, digest


def _plain(row: Row) -> dict[str, Any]:
    return {**row, "map": base64.b64encode(row["map"]).decode()} if row.get("map") is not None else dict(row)


def _restored(row: dict[str, Any]) -> Row:
    return {**row, "map": base64.b64decode(row["map"])} if row.get("map") is not None else row
