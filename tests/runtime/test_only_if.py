"""Images that are only classified: what the attribution pass says, and no mask."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sightline import Explainer, Request
from sightline.bundle import Bundle
from sightline.errors import EngineError, TargetError
from sightline.runtime.attributions import AttributionPass
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


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("method", ["sise", "layer-cam"])
def test_only_if_may_ask_about_another_image(bundle: Bundle, method: str, alone: bool) -> None:
    with Explainer(bundle, method, batch_size=4, threads=1) as explainer:
        expected = explainer(tiny.image(0), 2)
        if not alone:
            without_the_classifier(explainer)

        def only_if(_: Prediction) -> bool:
            explainer.probabilities(tiny.image(1))
            return True

        (answer,) = explainer.answer([Request(tiny.image(0), 2, only_if=only_if)])
    np.testing.assert_array_equal(answer.explanations[0].saliency, expected.saliency)


@pytest.fixture
def attributed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The targets of attribution passes that were made."""
    asked: list[Any] = []
    made = AttributionPass.__call__

    def noted(self: AttributionPass, image: Any, target: Any, *, rivals: bool = True) -> Any:
        asked.append(target)
        return made(self, image, target, rivals=rivals)

    monkeypatch.setattr(AttributionPass, "__call__", noted)
    return asked


def test_an_image_that_is_only_classified_costs_no_gradients(bundle: Bundle, attributed: list[Any]) -> None:
    with Explainer(bundle, batch_size=4, threads=1) as explainer:
        requests = [Request(tiny.image(number), only_if=lambda _: False) for number in range(3)]
        assert [answer.prediction is not None for answer in explainer.answer(requests)] == [True] * 3
        explainer.probabilities(tiny.image())
        assert attributed == []
        (answer,) = explainer.answer([Request(tiny.image(), only_if=lambda _: True)])
    assert answer.prediction is not None
    assert attributed == [answer.explanations[0].target] == [answer.prediction.target]


def without_the_classifier(explainer: Explainer) -> None:
    """As on a GPU."""
    explainer._engines = replace(explainer._engines, whole=None)


def test_where_the_attribution_pass_classifies_it_is_made_once(bundle: Bundle, attributed: list[Any]) -> None:
    with Explainer(bundle, batch_size=4, threads=1) as explainer:
        expected = explainer(tiny.image()), explainer.probabilities(tiny.image())
        without_the_classifier(explainer)
        attributed.clear()
        (answer,) = explainer.answer([Request(tiny.image(), only_if=lambda _: True)])
        (declined,) = explainer.answer([Request(tiny.image(1), only_if=lambda _: False)])
        assert (len(attributed), declined.explanations) == (2, [])
        np.testing.assert_allclose(explainer.probabilities(tiny.image()), expected[1], atol=1e-6)
    np.testing.assert_array_equal(answer.explanations[0].saliency, expected[0].saliency)


@pytest.mark.parametrize("gone", [False, True])
def test_a_bundle_that_was_replaced_is_not_opened_in_the_place_of_the_other(gone: bool, tmp_path: Path) -> None:
    folder = tiny.write(tmp_path / "tiny.sightline").path
    with Explainer(folder, batch_size=4, threads=1) as explainer, Explainer(folder, batch_size=4) as before:
        expected = before.probabilities(tiny.image())
        shutil.rmtree(folder)
        if not gone:
            tiny.write(folder, tiny.Tiny(1))
        np.testing.assert_allclose(explainer.probabilities(tiny.image()), expected, atol=1e-6)
        (answer,) = explainer.answer([Request(tiny.image(), only_if=lambda _: True)])
        assert answer.prediction is not None
        np.testing.assert_allclose(answer.prediction.probabilities, expected, atol=1e-6)


def test_the_engine_for_whole_images_is_opened_with_a_stream_that_asks_and_closed_with_the_others(
    bundle: Bundle,
) -> None:
    frames = [tiny.image(number) for number in range(3)]
    with Explainer(bundle, batch_size=4, threads=1) as explainer:
        whole = explainer._engines.whole
        assert whole is not None
        with explainer.stream(frames) as stream:
            assert [result.state for result in stream] == ["explained"] * 3
        assert whole._engine is None, "every frame gets an attribution pass anyway"
        with explainer.stream(frames, only_if=lambda _: False):
            assert whole._engine is not None, "the first frame would wait for it"
        whole(frames[0])
    with pytest.raises(EngineError, match="closed"):
        whole(frames[0])


def test_a_network_that_answers_with_nan_says_so(tmp_path: Path) -> None:
    broken = tiny.Tiny()
    broken.head.bias.data[1] = np.nan
    with Explainer(tiny.write(tmp_path / "tiny.sightline", broken), batch_size=4, threads=1) as explainer:
        (answer,) = explainer.answer([Request(tiny.image(), only_if=lambda _: True)])
        assert isinstance(answer.error, EngineError)
        assert "NaN or infinity" in str(answer.error)
        with pytest.raises(EngineError, match="NaN or infinity"):
            explainer.probabilities(tiny.image())


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
