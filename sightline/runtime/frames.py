"""What goes into a stream and what comes out of it: frames, and what became of each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from PIL import Image

from sightline.errors import SightlineError
from sightline.runtime.explanation import Explanation
from sightline.runtime.image import ImageLike
from sightline.runtime.prediction import Prediction

State = Literal["explained", "skipped", "failed"]


@dataclass(frozen=True, eq=False)
class Frame:
    """An image of a stream, with what its source knows about it."""

    image: ImageLike | SightlineError = field(repr=False)
    """Whatever an explainer takes; or why the source could not read it: it then comes out as failed."""
    name: str = ""
    """What to call it, e.g. its path; by default its number in the stream."""
    time: float | None = None
    """When it was taken, in seconds, on whatever clock the source has."""


class Source(Protocol):
    """Something to draw frames from that can be told that no more are wanted."""

    def __iter__(self) -> Iterator[Frame]: ...

    def stop(self) -> None:
        """End the iteration soon, even one that waits for a frame. Called from another thread, perhaps twice."""


@dataclass(frozen=True, eq=False)
class FrameResult:
    """What became of a frame."""

    number: int
    """Its place among the frames that arrived, from 0. Results come in this order; a number left out was dropped."""
    name: str
    time: float | None
    """As the source gave it."""
    prediction: Prediction | None
    """None where the frame failed before the network had seen it."""
    explanations: tuple[Explanation, ...]
    """One for every target; none where the frame was not explained."""
    error: SightlineError | None
    """Why it failed."""
    picture: Image.Image | None = field(repr=False)
    """The frame in RGB at its original size; None where it could not be read."""
    dropped: int
    """How many frames were dropped between the result before and this one."""
    waited: float
    """Seconds from its arrival until the explainer took it."""
    latency: float
    """Seconds from its arrival until its result was ready (in ``encode``: until then)."""
    overrun: float
    """Seconds past the deadline at which it was explained; 0 where it was in time, or there is none."""
    encoded: Any = field(default=None, repr=False)
    """What ``encode`` made of it; None where there is none, or the frame was not explained."""

    @property
    def state(self) -> State:
        """``explained``, ``skipped`` (``only_if`` said no) or ``failed``."""
        return "failed" if self.error is not None else "explained" if self.explanations else "skipped"

    @property
    def explanation(self) -> Explanation | None:
        """That of the first target; None where the frame was not explained."""
        return self.explanations[0] if self.explanations else None
