"""How a stream is doing, in memory that does not grow with the frames."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import Lock
from typing import Any

from sightline.runtime.frames import FrameResult
from sightline.runtime.percentiles import Percentiles


@dataclass(frozen=True)
class Latency:
    """Seconds from the arrival of a frame, over all frames so far; percentiles to 0.5 %."""

    count: int
    p50: float
    p90: float
    p99: float
    largest: float

    @classmethod
    def of(cls, found: Percentiles) -> Latency:
        """Read off the buckets."""
        p50, p90, p99 = map(found.quantile, (0.5, 0.9, 0.99))
        return cls(found.count, p50, p90, p99, found.largest)


@dataclass(frozen=True)
class StreamStatistics:
    """A stream at one moment."""

    seconds: float
    """Since its first frame was asked for."""
    frames: int
    """That arrived: explained, skipped, failed, dropped, and those under way."""
    explained: int
    skipped: int
    """That ``only_if`` did not want explained."""
    failed: int
    dropped: int
    """For want of room, by ``when_full="drop-oldest"``."""
    waiting: Mapping[str, int]
    """How many frames are waiting for each stage: ``decode``, ``explain``, ``encode``, and ``results`` to be taken."""
    predicted: Latency
    """Until the network had classified a frame."""
    latency: Latency
    """Until the result of a frame that was explained was ready, ``encode`` included."""
    completeness: float | None
    """The mean over all explanations; None before the first one."""
    overruns: int
    """Frames explained only after their deadline: the batch under way is finished, and the first one always runs."""
    worst_overrun: float
    """Seconds past the deadline, the largest."""

    @property
    def under_way(self) -> int:
        """Frames that arrived and have no result yet."""
        return self.frames - self.explained - self.skipped - self.failed - self.dropped

    @property
    def rate(self) -> float:
        """Results per second, since the beginning."""
        return (self.explained + self.skipped + self.failed) / self.seconds if self.seconds > 0 else 0.0

    def facts(self) -> dict[str, Any]:
        """All of it in types that JSON knows."""
        return {
            **vars(self),
            "waiting": dict(self.waiting),
            "predicted": vars(self.predicted).copy(),
            "latency": vars(self.latency).copy(),
            "under_way": self.under_way,
            "rate": self.rate,
        }


class Tally:
    """Counts, from all threads of a stream."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = Lock()
        self._began: float | None = None
        self._ended: float | None = None
        self._counts = {"frames": 0, "dropped": 0, "explained": 0, "skipped": 0, "failed": 0}
        self._predicted, self._latency = Percentiles(), Percentiles()
        self._completeness, self._explanations = 0.0, 0
        self._overruns, self._worst = 0, 0.0

    def begin(self) -> None:
        """The first frame is asked for."""
        self._began = self._clock()

    def end(self) -> None:
        """Nothing more will happen."""
        self._ended = self._ended or self._clock()

    def arrived(self, count: int = 1) -> None:
        """A frame came from the source; or, below 0, did not count."""
        with self._lock:
            self._counts["frames"] += count

    def dropped(self) -> None:
        """A frame gave way to a later one."""
        with self._lock:
            self._counts["dropped"] += 1

    def predicted(self, seconds: float) -> None:
        """A frame was classified, so long after its arrival."""
        with self._lock:
            self._predicted.add(seconds)

    def finished(self, result: FrameResult) -> None:
        """A result is ready."""
        with self._lock:
            self._counts[result.state] += 1
            if result.state != "explained":
                return
            self._latency.add(result.latency)
            self._explanations += len(result.explanations)
            self._completeness += sum(explanation.completeness for explanation in result.explanations)
            self._overruns += result.overrun > 0
            self._worst = max(self._worst, result.overrun)

    def snapshot(self, waiting: Mapping[str, int]) -> StreamStatistics:
        """All of it at this moment."""
        with self._lock:
            began = self._began
            return StreamStatistics(
                **self._counts,
                seconds=0.0 if began is None else (self._ended or self._clock()) - began,
                waiting=waiting,
                predicted=Latency.of(self._predicted),
                latency=Latency.of(self._latency),
                completeness=self._completeness / self._explanations if self._explanations else None,
                overruns=self._overruns,
                worst_overrun=self._worst,
            )
