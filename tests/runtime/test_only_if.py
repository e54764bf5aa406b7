"""Images that are only classified: what the attribution pass says, and no mask."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from sightline import Explainer, Request
from sightline.bundle import Bundle
from sightline.errors import TargetError
from sightline.runtime.explainer import METHODS
from sightline.runtime.prediction import Prediction
from tests.runtime import tiny
from tests.runtime.clock import timed


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "target", [None, 3, ["pit", 0], lambda p: p[:, 1]], ids=["predicted", "class", "two", "function"]
)
def test_the_prediction_is_that_of_the_classifier_whatever_is_explained(
    bundle: Bundle, method: str, target: Any
) -> None:
    asked: list[Prediction] = []
    scored: list[int] = []

    def only_if(prediction: Prediction) -> bool:
        asked.append(prediction)
        return len(asked) % 2 == 0

    with Explainer(bundle, method, batch_size=4, threads=1, progress=lambda done, _: scored.append(done)) as explainer:
        images = [tiny.image(number) for number in range(4)]
        (expected,) = explainer.classify(images)
        requests = (Request(image, target, only_if=only_if, max_passes=5) for image in images)
        answers = list(explainer.answer(requests))
        alone = explainer(images[1], target, max_passes=5)
    count = len(target) if isinstance(target, list) else 1
    assert [len(answer.explanations) for answer in answers] == [0, count, 0, count]
    assert [answer.prediction for answer in answers] == asked
    for prediction, probabilities in zip(asked, expected, strict=True):
        np.testing.assert_allclose(prediction.probabilities, probabilities, atol=1e-6)
        assert prediction.target == probabilities.argmax()
        assert prediction.score == prediction.probabilities.max()
        assert prediction.label == tiny.LABELS[prediction.target]
    first = alone[0] if isinstance(alone, list) else alone
    np.testing.assert_allclose(answers[1].explanations[0].saliency, first.saliency, atol=1e-5)


@pytest.mark.parametrize("method", ["sise", "layer-cam"])
def test_only_if_may_ask_about_another_image(bundle: Bundle, method: str) -> None:
    with Explainer(bundle, method, batch_size=4, threads=1) as explainer:
        expected = explainer(tiny.image(0), 2)

        def only_if(_: Prediction) -> bool:
            explainer.probabilities(tiny.image(1))
            return True

        (answer,) = explainer.answer([Request(tiny.image(0), 2, only_if=only_if)])
    np.testing.assert_array_equal(answer.explanations[0].saliency, expected.saliency)


def test_no_pass_is_spent_on_what_is_not_wanted(bundle: Bundle) -> None:
    with Explainer(bundle, batch_size=4, threads=1) as explainer:
        spent: list[int] = []
        requests = [Request(tiny.image(number), only_if=lambda _: False) for number in range(3)]
        answers = list(explainer.answer(requests, progress=lambda done, _: spent.append(done)))
    assert spent == []
    assert all(answer.error is None and answer.prediction is not None for answer in answers)


def test_what_only_if_raises(bundle: Bundle) -> None:
    def broken(prediction: Prediction) -> bool:
        raise ZeroDivisionError

    def refuses(prediction: Prediction) -> bool:
        raise TargetError("not this one")

    with Explainer(bundle, batch_size=4, threads=1) as explainer:
        (refused,) = explainer.answer([Request(tiny.image(), only_if=refuses)])
        assert isinstance(refused.error, TargetError)
        with pytest.raises(ZeroDivisionError):
            list(explainer.answer([Request(tiny.image(), only_if=broken)]))


def test_masks_that_wait_for_company_do_not_wait_past_their_deadline(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last masks of an image leave the batch half empty, and then come images of which none has masks."""
    runs: list[int] = []
    clock, open_batch = timed(bundle, monkeypatch, runs)

    def declined(prediction: Prediction) -> bool:
        clock.now += 0.25
        return False

    drawn: list[int] = []

    def requests() -> Iterator[Request]:
        for number in range(200):
            drawn.append(number)
            wanted = number < 2
            yield Request(
                tiny.image(number),
                2,
                deadline=15.0 if wanted else None,
                began=clock.perf_counter(),
                only_if=None if wanted else declined,
                token=clock.now,
            )

    with Explainer(bundle, engine=open_batch, batch_size=4) as explainer:
        runs.clear()
        answers = explainer.answer(requests())
        next(answers)
        waiting = next(answers)
        assert len(drawn) < 100, "the images that followed it did not hold it up"
        assert len(drawn) > 10, "its masks waited for company"
        assert clock.now <= waiting.request.token + 15.0
        assert runs[-1] < 4
        assert waiting.explanations[0].completeness == 1


def test_a_progress_that_raises_ends_the_answers_and_nothing_else(bundle: Bundle) -> None:
    def enough(done: int, total: int) -> None:
        raise InterruptedError

    with Explainer(bundle, batch_size=4, threads=1) as explainer:
        expected = explainer(tiny.image()).saliency
        with pytest.raises(InterruptedError):
            list(explainer.answer([Request(tiny.image())], progress=enough))
        np.testing.assert_array_equal(explainer(tiny.image()).saliency, expected)
