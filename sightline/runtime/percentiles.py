"""Percentiles of a number of durations that never ends, in memory that does not grow."""

from __future__ import annotations

import math

LEAST = 1e-6
"""Seconds: what is shorter counts as this."""
_STEP = 1.01
"""Ratio of the edges of a bucket: what is said is off by at most half of that, 0.5 %."""
_BUCKETS = 2800
"""Up to 1.27e6 seconds, two weeks: what is longer counts as this."""


class Percentiles:
    """Counts durations in buckets whose edges grow geometrically."""

    def __init__(self) -> None:
        self._counts = [0] * _BUCKETS
        self.count = 0
        self.largest = 0.0
        """Seconds, exactly; 0 where there is none."""

    def add(self, seconds: float) -> None:
        """Count a duration; one below 0, as of a clock that was set back, counts as the least."""
        place = int(math.log(max(seconds, LEAST) / LEAST) / math.log(_STEP))
        self._counts[min(place, _BUCKETS - 1)] += 1
        self.count += 1
        self.largest = max(self.largest, seconds)

    def quantile(self, share: float) -> float:
        """The duration, in seconds, that at least this share of all, in (0, 1], does not exceed, to 0.5 %.

        0 where there is none.
        """
        wanted, seen = math.ceil(share * self.count), 0
        for place, count in enumerate(self._counts):
            seen += count
            if count and seen >= wanted:
                return min(LEAST * float(_STEP ** (place + 0.5)), self.largest)
        return 0.0
