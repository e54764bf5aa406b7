"""What is answered instead of a result: a status of HTTP, and why."""

from __future__ import annotations

import math
from collections.abc import Mapping

from sightline.errors import EngineError, OutOfMemoryError, SightlineError

LONGEST_RETRY = 300
"""Seconds that a client is sent away for at most."""
LONGEST_MESSAGE = 500


class RefusedError(SightlineError):
    """A request is not answered as asked."""

    def __init__(self, status: int, message: str, *, retry: float | None = None) -> None:
        """Say why.

        Args:
            status: of HTTP.
            message: what was wrong, with which value, and what to do.
            retry: seconds after which it may go better; rounded up, within 1 and ``LONGEST_RETRY``.
        """
        super().__init__(message)
        self.status = status
        self.headers: Mapping[str, str] = {} if retry is None else {"Retry-After": str(_seconds(retry))}


def refusal(error: SightlineError, place: str = "") -> RefusedError:
    """What a request gets whose answer is this error.

    Args:
        error: of the library: what is wrong with the request is 422, what is wrong with the machine 500 or 503.
        place: what of the request it is about, e.g. ``"instances[2]"``.
    """
    if isinstance(error, RefusedError):
        return error
    message = shortened(f"{place}: {error}" if place else str(error))
    if isinstance(error, OutOfMemoryError):
        return RefusedError(503, message, retry=1)
    return RefusedError(500 if isinstance(error, EngineError) else 422, message)


def stopping() -> RefusedError:
    """What is answered once the server is told to stop."""
    return RefusedError(503, "the server is stopping: send the request again.", retry=1)


def shortened(message: str) -> str:
    """A message that may echo what a client sent, at a length that can be read."""
    return message if len(message) <= LONGEST_MESSAGE else message[: LONGEST_MESSAGE - 1] + "…"


def _seconds(retry: float) -> int:
    return min(max(1, math.ceil(retry)), LONGEST_RETRY)
