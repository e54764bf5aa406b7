"""Results as they come: JSON lines that survive a killed process."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from types import TracebackType
from typing import Any

from sightline.errors import SaveError

KEY, MAP = "key", "map"
"""Fields of a line: what it is the result of, and the map, kept for some images only."""

logger = logging.getLogger(__name__)


class Results:
    """An append-only file with one JSON object per line, each under a key.

    A line counts once its newline is on the disk. What a killed process left of its last line is cut off when the file
    is opened again; a line that cannot be read is left out, with a warning. Only the keys are held in memory.
    """

    def __init__(self, path: Path, *, restart: bool = False) -> None:
        """Open the file, or begin it.

        Args:
            path: of the file; its folder must exist.
            restart: forget what it holds.

        Raises:
            SaveError: it cannot be read and written.
        """
        self.path = path
        self._offsets: dict[str, int] = {}
        self._with_map: set[str] = set()
        try:
            self._file = path.open("w+b" if restart or not path.exists() else "r+b")
            self._read()
        except OSError as error:
            raise SaveError(
                f"{path} cannot be read and written ({error.strerror or error}): name another file with -o."
            ) from error

    def __len__(self) -> int:
        return len(self._offsets)

    def has(self, key: str, *, map: bool = False) -> bool:
        """Whether there is a result under this key, and, where ``map``, one that holds the map."""
        return key in (self._with_map if map else self._offsets)

    def __getitem__(self, key: str) -> dict[str, Any]:
        """The latest result under this key."""
        self._file.seek(self._offsets[key])
        found: dict[str, Any] = json.loads(self._file.readline())
        return found

    def add(self, key: str, result: dict[str, Any]) -> None:
        """Append a result.

        Raises:
            SaveError: the disk is full, or the file is gone.
        """
        line = json.dumps({KEY: key, **result}, allow_nan=False).encode() + b"\n"  # ASCII: a name may be no UTF-8
        try:
            offset = self._file.seek(0, os.SEEK_END)
            self._file.write(line)
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise SaveError(f"{self.path} could not be written: {error.strerror or error}.") from error
        self._index(key, offset, with_map=MAP in result)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Results:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read(self) -> None:
        end = 0
        for number, line in enumerate(self._file, 1):
            if not line.endswith(b"\n"):
                break
            try:
                result = json.loads(line)
                self._index(result[KEY], end, with_map=MAP in result)
            except (ValueError, KeyError, TypeError):
                logger.warning("%s: line %d cannot be read; its result is made again", self.path, number)
            end += len(line)
        self._file.truncate(end)

    def _index(self, key: str, offset: int, *, with_map: bool) -> None:
        self._offsets[key] = offset
        (self._with_map.add if with_map else self._with_map.discard)(key)
