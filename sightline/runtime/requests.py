"""Requests from many sides: what is asked of an explainer, image by image, and what becomes of it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sightline.errors import SightlineError
from sightline.numeric import real
from sightline.runtime.explanation import Explanation
from sightline.runtime.image import ImageLike
from sightline.runtime.method import Method
from sightline.runtime.prediction import Prediction
from sightline.runtime.targets import Target, Targets


@dataclass(frozen=True, eq=False)
class Request:
    """One image to explain, with what is asked about it."""

    image: ImageLike
    target: Target | Targets | None = None
    """As for a call of the explainer."""
    method: str | Method | None = None
    """None for the explainer's own."""
    max_passes: int | None = None
    deadline: float | None = None
    """Seconds after ``began``, from which on no batch of masks is begun; the first one always is."""
    began: float = field(default_factory=lambda: time.perf_counter())  # looked up when called
    """By ``time.perf_counter``: by default when the request was made, so that its time in a queue counts."""
    token: Any = None
    """The caller's own: comes back untouched."""
    seen: Callable[[Prediction], None] | None = None
    """Told what the network predicts, once it has seen the whole image."""
    only_if: Callable[[Prediction], bool] | None = None
    """Asked once the network has seen the whole image, before any mask is made: only if it says yes is the image
    explained. What it raises is raised by whoever answers, unless it is a ``SightlineError``: that is the answer's."""

    @property
    def ends(self) -> float:
        """When its deadline is, by ``time.perf_counter``; infinity where it has none."""
        return math.inf if self.deadline is None else self.began + real(self.deadline)


@dataclass(frozen=True, eq=False)
class Answer:
    """What became of a request."""

    request: Request
    explanations: list[Explanation]
    """One for every target; none where there is an error, or ``only_if`` said no."""
    error: SightlineError | None = None
    """Why this image cannot be explained."""
    prediction: Prediction | None = None
    """What the network says about the whole image; None where it did not come to that."""
