"""Requests of any kind, packed: their masks share batches, their answers come in order, and what fails fails alone."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from sightline.errors import SightlineError
from sightline.runtime.batching import MaskedPasses, Result, Task
from sightline.runtime.job import Job
from sightline.runtime.requests import Answer, Request

Progress = Callable[[int, int], None]


@dataclass
class Pace:
    """What an explainer has learned of its own speed."""

    ending: float = 0.0
    """Seconds that the last image explained under a deadline took from its last score to its explanations: predicting
    the scores that it has not, and fusion."""


def answers(
    requests: Iterable[Request | None],
    begin: Callable[[Request], Job],
    passes: MaskedPasses,
    progress: Progress | None = None,
    pace: Pace | None = None,
) -> Iterator[Answer]:
    """Answer requests in order, their masks packed into the engine's batches.

    Args:
        requests: drawn only when the batch has room; None to have everything in hand finished, the batch padded, before
            more is drawn.
        begin: makes a request a job, or raises a ``SightlineError``.
        passes: scores the masks.
        progress: called as ``progress(done, total)`` with the number of masks scored, once per batch.
        pace: what was learned before; what is learned now is noted there.

    Raises:
        EngineError: a pass failed: nothing can be answered any more.
    """
    return _Packing(begin, passes, progress, pace or Pace()).run(requests)


class _Entry:
    """A request under way."""

    def __init__(self, request: Request, begin: Callable[[Request], Job]) -> None:
        self.request = request
        self.job: Job | None = None
        self.error: SightlineError | None = None
        try:
            self.job = begin(request)
        except SightlineError as error:
            self.error = error
        self.unscored = 0
        self.closed = False
        """Whether no more masks of it will come."""

    @property
    def done(self) -> bool:
        return self.closed and not self.unscored

    def take(self, result: Result) -> None:
        assert self.job is not None  # it made the task
        self.unscored -= 1
        self.job.add(result)
        self.error = self.error or result.error

    def answer(self, engine: str, precision: str) -> Answer:
        prediction = None if self.job is None else self.job.prediction
        if self.job is None or self.error is not None:
            return Answer(self.request, [], self.error, prediction)
        try:
            return Answer(self.request, self.job.explanations(engine, precision), prediction=prediction)
        except SightlineError as error:
            return Answer(self.request, [], error, prediction)


class _Packing:
    def __init__(
        self, begin: Callable[[Request], Job], passes: MaskedPasses, progress: Progress | None, pace: Pace
    ) -> None:
        self._begin, self._passes, self._progress, self._pace = begin, passes, progress, pace
        self._waiting: deque[_Entry] = deque()
        self._scored = self._total = 0
        self._away = 0.0
        """Seconds spent by whoever takes the answers: no part of what a batch takes."""
        self._drawn = 0.0
        """When the last image was drawn."""
        self._beginning = self._batch = 0.0
        """Seconds that the last image took before its first mask, and the last batch under a deadline."""

    def run(self, requests: Iterable[Request | None]) -> Iterator[Answer]:
        for result in self._passes.score(self._tasks(requests), self._advanced):
            if result is not None:
                next(entry for entry in self._waiting if entry.unscored).take(result)
            yield from self._done()
        for entry in self._waiting:
            entry.closed = True
        yield from self._done()

    def _done(self) -> Iterator[Answer]:
        while self._waiting and self._waiting[0].done:
            entry = self._waiting.popleft()
            began = time.perf_counter()
            answer = entry.answer(self._passes.engine.name, self._passes.engine.precision)
            left = time.perf_counter()
            if entry.request.deadline is not None and answer.explanations:
                self._pace.ending = left - began
            yield answer
            self._away += time.perf_counter() - left

    def _advanced(self, count: int) -> None:
        self._scored += count
        if self._progress is not None:
            self._progress(self._scored, self._total)

    def _tasks(self, requests: Iterable[Request | None]) -> Iterator[Task | None]:
        for request in requests:
            if request is None:
                yield None
                continue
            self._drawn = time.perf_counter()
            entry = _Entry(request, self._begin)
            self._beginning = time.perf_counter() - self._drawn
            self._waiting.append(entry)
            if entry.job is not None:
                self._total += len(entry.job)
                tasks = entry.job.tasks() if request.deadline is None else self._in_time(entry, entry.job)
                for task in tasks:
                    entry.unscored += task is not None
                    yield task
            entry.closed = True
            if all(entry.done for entry in self._waiting) or self._pressed():
                # Nothing of theirs is in the batch, so that their answers need not wait for a next request. Or they
                # must not: images without masks, which fill no batch, may follow each other for long.
                yield None

    def _pressed(self) -> bool:
        """Whether masks of an image wait in the batch that has no time for yet another image."""
        latest = time.perf_counter() + 2 * (self._beginning + self._batch)
        return any(entry.unscored and latest > entry.request.ends for entry in self._waiting)

    def _in_time(self, entry: _Entry, job: Job) -> Iterator[Task | None]:
        """The worthiest masks first, batch by batch, until the time is up."""
        end = entry.request.ends - self._pace.ending
        longest = 0.0
        while (left := len(job) - job.asked) > 0:
            if longest and time.perf_counter() + longest > end:
                break
            room = self._passes.room
            tasks = job.next(min(room, left))
            began, away = time.perf_counter(), self._away
            if not longest:
                self._beginning = began - self._drawn  # the order of the masks, found only now, is part of it
            yield from tasks
            if left < room and self._batch and began + 2 * (self._beginning + self._batch) <= end:
                break  # there is time for the next image's attribution pass: its masks may fill the batch
            yield None
            self._batch = time.perf_counter() - began - (self._away - away)
            longest = max(longest, self._batch)
