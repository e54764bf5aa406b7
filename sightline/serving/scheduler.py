"""Dynamic batching: one thread that owns one explainer answers the images of all requests, in order of arrival."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from threading import Condition, Thread

import numpy as np
import numpy.typing as npt

from sightline.errors import SightlineError
from sightline.runtime.explainer import Explainer
from sightline.runtime.explanation import Explanation
from sightline.runtime.method import Method
from sightline.runtime.requests import Request
from sightline.serving.metrics import Metrics
from sightline.serving.refusal import RefusedError, stopping

Doubles = npt.NDArray[np.float64]
Progress = Callable[[int, int], None]
Opening = Callable[[Progress], Explainer]

_MEMORY = 0.9
"""Of the measured seconds per image: how much of the former value stays when one more is known."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of one image."""

    probabilities: Doubles
    """K."""
    explanations: list[Explanation]
    """One for every target; none where the image was only classified."""
    queued: float
    """Seconds from the arrival of the request to the image's turn."""


@dataclass(eq=False)
class Ticket:
    """One image in the queue."""

    image: npt.NDArray[np.float32]
    """C×H×W, preprocessed."""
    targets: tuple[int | None, ...]
    """None for the predicted class. Without any, the image is only classified."""
    method: Method
    arrived: float
    """By ``time.perf_counter``."""
    max_passes: int | None = None
    deadline: float | None = None
    """Seconds after ``arrived``."""
    future: Future[Outcome] = field(default_factory=Future)
    """Cancelled by whoever waits no longer; then the image is not computed, unless its turn has come."""
    turn: float = 0.0
    left: bool = False
    """Whether nobody waits for it any more: then what has begun is not gone on with."""

    @property
    def expired(self) -> bool:
        """Whether its deadline has passed."""
        return self.deadline is not None and time.perf_counter() >= self.arrived + self.deadline


class _UnwantedError(Exception):
    """Nobody waits for what is in hand."""


class Scheduler:
    """The queue of one model, and the thread that works it off."""

    def __init__(self, name: str, opening: Opening, limit: int, metrics: Metrics) -> None:
        """Start the thread, which opens the explainer: engines may insist on the thread that opened them.

        Args:
            name: of the model, for metrics and messages.
            opening: opens the explainer; is given what counts the passes.
            limit: images that may wait.
            metrics: of the server.
        """
        self._name, self._opening, self._limit, self._metrics = name, opening, limit, metrics
        self._queue: deque[Ticket] = deque()
        self._hand: deque[Ticket] = deque()
        self._changed = Condition()
        self._closing = self._abandoned = False
        self._per_image: float | None = None
        self._since = 0.0
        self._scored = 0
        self._explainer: Explainer | None = None
        self._broken: Exception | None = None
        self.opened: Future[Explainer] = Future()
        """The explainer, for its facts only: nobody but the thread may call it. Or why there is none."""
        self._thread = Thread(target=self._run, name=f"explain-{name}", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Images in the queue that somebody still waits for."""
        with self._changed:
            return sum(not ticket.future.cancelled() for ticket in self._queue)

    @property
    def in_hand(self) -> int:
        """Images whose turn has come."""
        return len(self._hand)

    @property
    def broken(self) -> bool:
        """Whether the engine failed and could not be opened again."""
        return self._broken is not None

    def admits(self, count: int) -> None:
        """Refuse now what :meth:`submit` would refuse now, before any work is put into it.

        Raises:
            RefusedError: as there.
        """
        with self._changed:
            self._check(count)

    def submit(self, tickets: Sequence[Ticket]) -> None:
        """Put images into the queue: all of them, or none.

        Raises:
            RefusedError: 429 where the queue has no room for them, 503 where the model does not serve any more.
        """
        with self._changed:
            self._check(len(tickets))
            self._queue.extend(tickets)
            self._changed.notify()

    def close(self) -> None:
        """Take nothing more, work the queue off, free the engines. Returns when that is done."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def abandon(self) -> None:
        """Let everything go, with 503: what waits now, what is in hand after the batch under way."""
        with self._changed:
            self._abandoned = True
            tickets, self._queue = list(self._queue), deque()
        for ticket in tickets:
            _fail(ticket, stopping())

    def _check(self, count: int) -> None:
        if self._broken is not None:
            raise RefusedError(
                503, f"the engine of model {self._name!r} failed ({self._broken}): see the log.", retry=10
            )
        if self._closing or self._abandoned:
            raise stopping()
        if len(self._queue) + count > self._limit:
            for ticket in [ticket for ticket in self._queue if ticket.future.cancelled()]:
                self._queue.remove(ticket)
                self._dropped(ticket)
        if (length := len(self._queue)) + count > self._limit:
            self._metrics.drops.labels(self._name, "full").inc(count)
            raise RefusedError(
                429,
                f"{length} images wait for model {self._name!r}, at most {self._limit} may, and this request has "
                f"{count}: send it again later.",
                retry=length / 2 * (self._per_image or 0.0),
            )

    def _run(self) -> None:
        while True:
            try:
                self._explainer = explainer = self._opening(self._advanced)
            except Exception as error:
                self._lost(error)
                return
            if not self.opened.done():
                self.opened.set_result(explainer)
            try:
                while not self._answered(explainer):
                    pass
                return
            except Exception as error:  # a pass failed: what was in hand is lost, the next images need not be
                logger.exception("model %s: the engine failed and is opened again", self._name)
                while self._hand:
                    _fail(self._hand.popleft(), RefusedError(500, f"the engine failed: {error}"))
            finally:
                self._explainer = None
                explainer.close()

    def _answered(self, explainer: Explainer) -> bool:
        """Work the queue off, until it is closed or nobody waits for what is in hand; whether it is closed."""
        self._scored, self._since = 0, time.perf_counter()
        try:
            for answer in explainer.answer(self._drawn(explainer)):
                probabilities = None if answer.prediction is None else answer.prediction.probabilities
                self._deliver(answer.request.token, probabilities, answer.explanations, answer.error)
            return True
        except _UnwantedError:
            while self._hand:
                ticket = self._hand.popleft()
                self._dropped(ticket)
                _fail(ticket, stopping())
            return False

    def _lost(self, error: Exception) -> None:
        with self._changed:
            self._broken = error
            tickets, self._queue = list(self._queue), deque()
        for ticket in tickets:
            _fail(
                ticket,
                RefusedError(503, f"the engine of model {self._name!r} failed ({error}): see the log.", retry=10),
            )
        if not self.opened.done():
            self.opened.set_exception(error)
        else:
            logger.error("model %s: the engine cannot be opened again: %s", self._name, error)

    def _drawn(self, explainer: Explainer) -> Iterator[Request | None]:
        """The queue as the explainer wants it: None where it is empty, nothing new before all in hand is answered."""
        while True:
            with self._changed:
                while not (self._queue or self._hand or self._closing):
                    self._changed.wait()
                    self._since = time.perf_counter()
                ticket = self._queue.popleft() if self._queue else None
            if ticket is None:
                if not self._hand:
                    return
                yield None
            elif not ticket.future.set_running_or_notify_cancel():
                self._dropped(ticket)
            elif ticket.expired:
                self._dropped(ticket)
                ticket.future.set_exception(expired(ticket))
            else:
                ticket.turn = time.perf_counter()
                self._hand.append(ticket)
                if ticket.targets:
                    yield _request(ticket)
                else:
                    self._classify(explainer, ticket)

    def _dropped(self, ticket: Ticket) -> None:
        self._metrics.drops.labels(self._name, "expired" if ticket.expired else "gone").inc()

    def _classify(self, explainer: Explainer, ticket: Ticket) -> None:
        """One attribution pass, between those of the others: nothing of theirs is overwritten."""
        try:
            found = Outcome(explainer.probabilities(ticket.image), [], ticket.turn - ticket.arrived)
        except SightlineError as error:
            self._hand.remove(ticket)  # what is no error of ours goes on, and takes with it all that is in hand
            ticket.future.set_exception(error)
        else:
            self._hand.remove(ticket)
            self._measured()
            self._metrics.images.labels(self._name, "predict").inc()
            ticket.future.set_result(found)

    def _deliver(
        self,
        ticket: Ticket,
        probabilities: Doubles | None,
        explanations: list[Explanation],
        error: SightlineError | None,
    ) -> None:
        self._measured()
        first = self._hand.popleft()
        assert first is ticket  # answers come in order
        if error is not None or probabilities is None:
            ticket.future.set_exception(error or RefusedError(500, "the image has no answer"))
            return
        self._metrics.images.labels(self._name, ticket.method.name).inc()
        ticket.future.set_result(Outcome(probabilities, explanations, ticket.turn - ticket.arrived))

    def _measured(self) -> None:
        """One more image is done, since the last one or since the queue was empty."""
        now = time.perf_counter()
        seconds, self._since = now - self._since, now
        former = seconds if self._per_image is None else self._per_image
        self._per_image = _MEMORY * former + (1 - _MEMORY) * seconds

    def _advanced(self, done: int, total: int) -> None:
        """The explainer's progress: called once for every batch.

        Raises:
            _UnwantedError: there is no need for another one.
        """
        if self._explainer is None:
            return  # it is being opened, and compares a precision with float32
        self._metrics.passes.labels(self._name).inc(done - self._scored)
        self._metrics.slots.labels(self._name).inc(self._explainer.batch_size)
        self._scored = done
        if self._abandoned or (self._hand and all(ticket.left for ticket in self._hand)):
            raise _UnwantedError


def expired(ticket: Ticket) -> RefusedError:
    """What an image gets whose deadline passed before its turn."""
    return RefusedError(
        504, f"the deadline of {ticket.deadline:g} s passed while the image waited: nothing was computed."
    )


def _request(ticket: Ticket) -> Request:
    return Request(
        ticket.image,
        ticket.targets,
        ticket.method,
        ticket.max_passes,
        ticket.deadline,
        began=ticket.arrived,
        token=ticket,
    )


def _fail(ticket: Ticket, error: SightlineError) -> None:
    """Whether its turn had come or not."""
    if not ticket.future.cancelled() and (ticket.future.running() or ticket.future.set_running_or_notify_cancel()):
        ticket.future.set_exception(error)
