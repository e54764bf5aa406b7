"""Files of the user's: whole, or not there at all."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

from sightline.errors import SaveError


def save(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Write a file under a temporary name beside its place, and rename it. Text is UTF-8.

    Raises:
        SaveError: it cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        temporary.replace(path)
    except OSError as error:
        raise SaveError(f"{path} could not be written: {error.strerror or error}. Choose another place.") from error
    finally:
        temporary.unlink(missing_ok=True)
