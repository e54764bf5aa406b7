"""The stage of a stream that has the explainer: frames in order in, masks of neighbours in shared batches."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from threading import Event
from typing import Any, Literal, Protocol

from PIL import Image

from sightline.bundle import Bundle
from sightline.errors import SightlineError
from sightline.runtime.channel import Channel, End, Stopped, WhenFull
from sightline.runtime.explanation import Explanation
from sightline.runtime.frames import FrameResult
from sightline.runtime.image import ImageLike, Prepared
from sightline.runtime.prediction import Prediction
from sightline.runtime.requests import Answer, Request
from sightline.runtime.stream_statistics import Tally
from sightline.runtime.targets import Target, Targets

IN_HAND = 32
"""Frames drawn before the batch in which the first of them has masks must run, full or not: only frames with few or no
masks come to so many."""

CountsFrom = Literal["arrival", "turn"]
Encode = Callable[[FrameResult], Any]
OnlyIf = Callable[[Prediction], bool]


class Answering(Protocol):
    """What a stream needs of an explainer."""

    @property
    def bundle(self) -> Bundle: ...

    def answer(
        self, requests: Iterable[Request | None], *, progress: Callable[[int, int], None] | None = None
    ) -> Iterator[Answer]: ...


@dataclass(frozen=True, eq=False)
class Settings:
    """What a stream is asked for; as in ``Explainer.stream``."""

    deadline: float | None = None
    only_if: OnlyIf | None = None
    target: Target | Targets | None = None
    max_passes: int | None = None
    queue: int = 4
    when_full: WhenFull = "wait"
    encode: Encode | None = None
    counts_from: CountsFrom = "arrival"


@dataclass(eq=False)
class Item:
    """A frame under way."""

    number: int
    name: str
    time: float | None
    arrived: float
    image: ImageLike | SightlineError | None
    """As it was read; let go of once it is decoded."""
    prepared: Prepared | None = None
    """Let go of once it is explained."""
    taken: float = 0.0
    began: float = 0.0
    """When its deadline began to count."""
    answered: float = 0.0
    picture: Image.Image | None = None
    prediction: Prediction | None = None
    explanations: tuple[Explanation, ...] = ()
    error: SightlineError | None = None
    done: bool = False


class Explaining:
    """The stage that has the explainer."""

    def __init__(
        self,
        explainer: Answering,
        settings: Settings,
        decoded: Channel[Item],
        explained: Channel[Item],
        tally: Tally,
        clock: Callable[[], float],
        stopped: Event,
    ) -> None:
        self._explainer, self._settings = explainer, settings
        self._decoded, self._explained = decoded, explained
        self._tally, self._clock, self._stopped = tally, clock, stopped
        self._hand: deque[Item] = deque()
        """What was taken and not passed on, in order."""
        self._end = End()
        self._broken: tuple[Item, BaseException] | None = None
        """What ``only_if`` raised, and about which frame."""

    def run(self) -> BaseException | None:
        """Explain until the frames end.

        Returns:
            why they ended early; None where there were no more to come.

        Raises:
            Stopped: nobody takes the results any more.
            EngineError: a pass failed.
        """
        for answer in self._explainer.answer(self._requests(), progress=self._advanced):
            item: Item = answer.request.token
            if self._broken is not None and item is self._broken[0]:
                return self._broken[1]  # the frames before it have been passed on
            item.explanations, item.error = tuple(answer.explanations), answer.error
            item.answered = self._clock()
            item.prepared = None
            item.done = True
            self._pass_on()
        return self._end.error

    def _requests(self) -> Iterator[Request | None]:
        settings = self._settings
        while self._broken is None:
            if len(self._hand) >= IN_HAND:
                yield None
            item = self._decoded.poll() if self._hand else self._decoded.get()
            if item is None:
                yield None
                continue
            if isinstance(item, End):
                self._end = item
                return
            item.taken = self._clock()
            item.began = item.arrived if settings.counts_from == "arrival" else item.taken
            self._hand.append(item)
            if item.error is not None:
                item.answered, item.done = item.taken, True
                self._pass_on()
                continue
            assert item.prepared is not None  # it was decoded
            yield Request(
                item.prepared,
                settings.target,
                max_passes=settings.max_passes,
                deadline=settings.deadline,
                began=item.began,
                token=item,
                seen=partial(self._seen, item),
                only_if=None if settings.only_if is None else partial(self._wanted, item, settings.only_if),
            )

    def _seen(self, item: Item, prediction: Prediction) -> None:
        item.prediction = prediction
        self._tally.predicted(self._clock() - item.arrived)

    def _wanted(self, item: Item, only_if: OnlyIf, prediction: Prediction) -> bool:
        try:
            return bool(only_if(prediction))
        except BaseException as error:
            self._broken = item, error
            return False

    def _pass_on(self) -> None:
        while self._hand and self._hand[0].done:
            self._explained.put(self._hand.popleft())

    def _advanced(self, done: int, total: int) -> None:
        """Between batches: whoever closes the stream does not wait for the rest of an explanation."""
        if self._stopped.is_set():
            raise Stopped
