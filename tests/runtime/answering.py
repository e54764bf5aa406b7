"""An explainer for tests of streams: it keeps to the contract of ``Explainer.answer``, and waits where a test says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from sightline.bundle import Bundle
from sightline.errors import SightlineError
from sightline.runtime.explanation import Explanation
from sightline.runtime.image import Prepared
from sightline.runtime.prediction import Prediction
from sightline.runtime.requests import Answer, Request
from tests.runtime import tiny


def nothing(*_: object) -> None:
    pass


class FakeExplainer:
    """Predicts class ``number % 5`` for a frame of the value ``number``, and explains ``batch`` frames at once."""

    def __init__(
        self,
        bundle: Bundle,
        batch: int = 1,
        *,
        begun: Callable[[Request], object] = nothing,
        before: Callable[[list[Request]], object] = nothing,
        completeness: Callable[[Request], float] = lambda request: 1.0,
    ) -> None:
        """Take what happens when a request was drawn, and before a batch is explained; both may raise and wait."""
        self.bundle, self._batch = bundle, batch
        self._begun, self._before, self._completeness = begun, before, completeness
        self.batches: list[list[Request]] = []
        self.progress: Callable[[int, int], None] = nothing

    def answer(
        self, requests: Iterable[Request | None], *, progress: Callable[[int, int], None] | None = None
    ) -> Iterator[Answer]:
        self.progress = progress or nothing
        hand: list[tuple[Request, Prediction, SightlineError | None, bool]] = []
        for request in requests:
            if request is not None:
                hand.append(self._begin(request))
            if request is None or len(hand) == self._batch:
                yield from self._explained(hand)
                hand = []
        yield from self._explained(hand)

    def _begin(self, request: Request) -> tuple[Request, Prediction, SightlineError | None, bool]:
        assert isinstance(request.image, Prepared), "decoded on a thread of its own"
        number = int(request.image.array.flat[0])
        probabilities = np.full(tiny.CLASSES, 0.1)
        probabilities[number % tiny.CLASSES] = 0.6
        prediction = Prediction(number % tiny.CLASSES, tiny.LABELS[number % tiny.CLASSES], 0.6, probabilities)
        try:
            self._begun(request)
        except SightlineError as error:
            return request, prediction, error, False
        if request.seen is not None:
            request.seen(prediction)
        return request, prediction, None, request.only_if is None or request.only_if(prediction)

    def _explained(self, hand: list[tuple[Request, Prediction, SightlineError | None, bool]]) -> Iterator[Answer]:
        if not hand:
            return
        self.batches.append([request for request, *_ in hand])
        self._before(self.batches[-1])
        for request, prediction, error, wanted in hand:
            found = [self._explanation(request, prediction)] if wanted and error is None else []
            yield Answer(request, found, error)

    def _explanation(self, request: Request, prediction: Prediction) -> Explanation:
        assert isinstance(request.image, Prepared)
        return Explanation(
            saliency=np.zeros((tiny.HEIGHT, tiny.WIDTH), np.float32),
            target=prediction.target,
            label=prediction.label,
            score=prediction.score,
            method="fake",
            parameters={},
            layer_maps={},
            passes=3,
            completeness=self._completeness(request),
            timings={"total": 0.0},
            bundle_hash="",
            engine="fake",
            precision="fp32",
            picture=request.image.picture,
        )
