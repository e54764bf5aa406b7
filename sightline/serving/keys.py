"""API keys: who may ask."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Mapping
from pathlib import Path

from sightline.errors import ServingError

VARIABLE = "SIGHTLINE_API_KEY"
_SHORTEST = 8


class Keys:
    """The keys that a server knows; with none of them it is open to everyone."""

    def __init__(self, keys: tuple[str, ...] = ()) -> None:
        """Take keys.

        Raises:
            ServingError: a key is too short to be one, or cannot stand in a header.
        """
        for key in keys:
            if len(key) < _SHORTEST or not key.isascii() or not key.isprintable() or " " in key:
                raise ServingError(
                    f"an API key of {len(key)} characters is refused: use at least {_SHORTEST} printable ASCII "
                    "characters, without spaces."
                )
        self._digests = tuple(_digest(key) for key in keys)

    def __bool__(self) -> bool:
        return bool(self._digests)

    def admit(self, headers: Mapping[str, str]) -> bool:
        """Whether a request with these headers may be answered. Takes as long for a wrong key as for a right one."""
        if not self._digests:
            return True
        scheme, _, token = headers.get("authorization", "").partition(" ")
        given = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        digest = _digest(given)
        matches = [hmac.compare_digest(digest, known) for known in self._digests]  # all of them, always
        return any(matches)


def from_file(path: Path | None, environment: Mapping[str, str] = os.environ) -> Keys:
    """The keys in a file, one in a line (# begins a comment), or else the one in the environment.

    Raises:
        ServingError: the file cannot be read or holds none, or a key is refused.
    """
    if path is None:
        key = environment.get(VARIABLE)
        return Keys((key,) if key else ())
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ServingError(f"the API keys in {path} cannot be read ({error}): check the path.") from error
    keys = tuple(line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#"))
    if not keys:
        raise ServingError(f"{path} holds no API key: write one in a line, or leave --api-key-file out.")
    return Keys(keys)


def _digest(key: str) -> bytes:
    """Of a fixed length, so that comparing does not tell that of the key."""
    return hashlib.sha256(key.encode()).digest()
