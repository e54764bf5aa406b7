"""Where built engines are kept between runs, and how several processes share that folder.

Files appear whole or not at all (:func:`write`), one process builds while the others wait (:func:`locked`), and what
cannot be read back is built again (:func:`read_json`). Standard library only.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sightline.errors import EngineError

VARIABLE = "SIGHTLINE_CACHE"

logger = logging.getLogger(__name__)


def folder() -> Path:
    """The user's cache folder, which need not exist yet.

    ``SIGHTLINE_CACHE`` where it is set; otherwise where the platform keeps caches: ``$XDG_CACHE_HOME`` or ``~/.cache``,
    ``~/Library/Caches`` on macOS, ``%LOCALAPPDATA%`` on Windows, each with ``sightline`` in it.
    """
    if chosen := os.environ.get(VARIABLE):
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "sightline"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "sightline"
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification: a relative path there is invalid and is to be ignored.
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "sightline"


def key(files: Sequence[Path], *facts: object) -> str:
    """A name for what is built of these files under these circumstances: it changes with any byte or fact.

    Raises:
        EngineError: a file cannot be read.
    """
    digest = hashlib.sha256(repr(facts).encode())
    for path in files:
        try:
            digest.update(f"{path.name} {path.stat().st_size} ".encode())
            with path.open("rb") as file:
                while chunk := file.read(1 << 20):
                    digest.update(chunk)
        except OSError as error:
            raise EngineError(f"{path} cannot be read ({error.strerror}): export the bundle again.") from error
    return digest.hexdigest()[:24]


def write(path: Path, content: bytes) -> None:
    """Write a file that another process, or a later run after a power cut, sees whole or not at all.

    Raises:
        EngineError: the folder cannot be written.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        temporary = Path(name)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)  # there only if the rename was not reached
    _sync(path.parent)


def read_json(path: Path) -> Any:
    """What a JSON file holds, or None where there is none or where it cannot be read, which is logged."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        logger.warning("%s is damaged or foreign (%s): ignored, it will be written anew", path, error)
        return None


@contextlib.contextmanager
def locked(where: Path, name: str) -> Iterator[None]:
    """Hold the lock ``name`` of a folder; another process that wants it waits. Not to be nested in one process.

    The operating system holds the lock and releases it when its process ends, however it ends. The lock file stays:
    removing it could leave two processes with a lock each.

    Raises:
        EngineError: the folder cannot be written.
    """
    path = where / f"{name}.lock"
    try:
        where.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        if not _acquire(handle, wait=False):
            logger.info("waiting for another process that builds what %s guards", path)
            _acquire(handle, wait=True)
        try:
            yield
        finally:
            _release(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Hold a lock file if nobody else does: yields whether it is held, and never waits. Otherwise as :func:`locked`.

    Raises:
        OSError: the file cannot be opened.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        held = _acquire(handle, wait=False)
        try:
            yield held
        finally:
            if held:
                _release(handle)
    finally:
        os.close(handle)


if sys.platform == "win32":
    import msvcrt

    def _acquire(handle: int, *, wait: bool) -> bool:
        while True:
            os.lseek(handle, 0, os.SEEK_SET)
            try:
                msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
                return True
            except OSError:
                if not wait:
                    return False
                time.sleep(0.1)  # LK_LOCK gives up after ten seconds, an engine takes minutes to build

    def _release(handle: int) -> None:
        os.lseek(handle, 0, os.SEEK_SET)
        msvcrt.locking(handle, msvcrt.LK_UNLCK, 1)

    def _sync(where: Path) -> None:
        """A folder cannot be flushed here: the file system does it by itself."""

else:
    import fcntl

    def _acquire(handle: int, *, wait: bool) -> bool:
        try:
            # flock belongs to the open file, so two threads of one process exclude each other as well.
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            return False
        return True

    def _release(handle: int) -> None:
        fcntl.flock(handle, fcntl.LOCK_UN)

    def _sync(where: Path) -> None:
        """The new name survives a power cut once the folder is on disk as well."""
        handle = os.open(where, os.O_RDONLY)
        try:
            with contextlib.suppress(OSError):  # some network file systems cannot
                os.fsync(handle)
        finally:
            os.close(handle)


def _unwritable(path: Path, error: OSError) -> EngineError:
    return EngineError(
        f"{path} cannot be written ({error.strerror or error}): "
        f"set the environment variable {VARIABLE} to a folder that has room and is yours."
    )
