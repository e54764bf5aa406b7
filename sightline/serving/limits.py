"""What a server takes: how large, how many, how long."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sightline.errors import ServingError

LARGEST_PIXELS = 89_478_485
"""Beyond which Pillow itself warns of a decompression bomb."""
HELD_BODIES = 16
"""Requests of the largest size whose bytes may be in memory at once."""
LIST_VALUES = 16
"""What a list counts for among the values of a body: a list of one number takes the room of so many numbers."""
HELD_ANSWERS = 16
"""Answers as large as the largest body that may be in memory at once; half of them in one answer."""
HELD_PICTURES = 8
"""Pictures of the largest size whose pixels may be in memory at once."""
READ_SECONDS = 30.0
"""In which a body has to arrive."""
DECOMPOSITIONS = 8
"""Decompositions of one model that may wait or be under way."""


@dataclass(frozen=True)
class Limits:
    """What one server takes.

    Raises:
        ServingError: a number is out of range.
    """

    queue: int = 64
    """Images of one model that may wait for their turn; also the most that one request may hold."""
    max_bytes: int = 16 * 2**20
    """Of a request's body."""
    max_pixels: int = 25_000_000
    """Of one image."""
    deadline: float | None = None
    """Seconds from a request's arrival: what it gets that names none, and the most that it may name."""

    def __post_init__(self) -> None:
        for name, most in (("queue", 4096), ("max_bytes", 2**30), ("max_pixels", LARGEST_PIXELS)):
            value = getattr(self, name)
            if not isinstance(value, int) or not 1 <= value <= most:
                raise ServingError(f"{name}={value!r} is out of range: choose a whole number from 1 to {most}.")
        if self.deadline is not None and not 0 < self.deadline < math.inf:
            raise ServingError(f"deadline={self.deadline!r} is out of range: choose seconds above 0, or None.")

    def within(self, deadline: float | None) -> float | None:
        """The deadline of a request that asks for this one."""
        given = [seconds for seconds in (deadline, self.deadline) if seconds is not None]
        return min(given, default=None)
