"""Files of what TensorRT built, and when they may be read back.

TensorRT runs a plan as it is: one from another GPU or version is refused late or runs wrong, a damaged one crashes. So
a file begins with a line of JSON that says what it was built from and for and the SHA-256 of what follows, and nothing
reaches TensorRT unless all of that is as expected. (A check against accidents. Whoever can write into the cache folder
can make this process run code.)
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path

from sightline import cache

logger = logging.getLogger(__name__)

Facts = Mapping[str, object]
"""What a file was built from and for: plain JSON values."""

_MAGIC = b"sightline-tensorrt-1 "
_LONGEST_HEADER = 1 << 20


def name(stem: str, facts: Facts, *parts: object) -> str:
    """A file name that a person can read, and that differs wherever the facts do."""
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    return "-".join(re.sub(r"[^A-Za-z0-9.]+", "_", str(part)) for part in (stem, *parts, digest[:16]))


def write(path: Path, facts: Facts, content: bytes) -> None:
    """Write a file that :func:`read` accepts, whole or not at all.

    Raises:
        EngineError: the folder cannot be written.
    """
    header = {**facts, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    cache.write(path, _MAGIC + json.dumps(header, sort_keys=True).encode() + b"\n" + content)


def read(path: Path, facts: Facts, *, warn: bool = True) -> bytes | None:
    """What a file holds; None where there is none, or where it is not what these facts promise.

    Args:
        path: the file.
        facts: what it must have been built from and for.
        warn: log why a file is not used. Not where the same file is about to be read again.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        reason, content = f"it cannot be read ({error.strerror or error})", b""
    else:
        reason, content = _verified(data, facts)
    if not reason:
        return content
    if warn:
        logger.warning("%s is not used, and built again: %s", path, reason)
    return None


def _verified(data: bytes, facts: Facts) -> tuple[str, bytes]:
    """(why not to use it, nothing), or (nothing, the content)."""
    end = data.find(b"\n", 0, _LONGEST_HEADER)
    if not data.startswith(_MAGIC) or end < 0:
        return "it is no file of Sightline, or of another version of it", b""
    try:
        header = json.loads(data[len(_MAGIC) : end])
        size, digest = header.pop("bytes"), header.pop("sha256")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return f"its header is damaged ({error!r})", b""
    expected = json.loads(json.dumps(facts))  # as JSON gives it back: tuples are lists there
    for fact in sorted({*header, *expected}):
        if header.get(fact) != expected.get(fact):
            return f"it was built for {fact} {header.get(fact)!r}, this is {expected.get(fact)!r}", b""
    content = data[end + 1 :]
    if len(content) != size:
        return f"it is truncated: {len(content)} bytes of {size}", b""
    if hashlib.sha256(content).hexdigest() != digest:
        return "it is damaged: its SHA-256 is not the one in its header", b""
    return "", content
