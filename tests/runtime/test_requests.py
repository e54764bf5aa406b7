"""Requests of many kinds in one stream: as if each were alone, in order, none waiting for what does not come."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sightline import RISE, SISE, Answer, Explainer, Explanation, Request, SightlineError
from sightline.bindings import Engine, open_engine
from sightline.bundle import Bundle
from sightline.errors import EngineError, ImageError, MethodError, TargetError
from sightline.runtime import batching, job
from tests.runtime import tiny
from tests.runtime.clock import timed


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny.write(tmp_path_factory.mktemp("tiny") / "tiny.sightline")


ASKED: list[dict[str, Any]] = [
    {},
    {"target": 3},
    {"target": [0, "crack"]},
    {"target": lambda p: p[:, 1] + p[:, 2]},
    {"method": "score-cam"},
    {"method": "grad-cam", "target": 2},
    {"method": RISE(passes=30), "max_passes": 7},
    {"method": SISE(mu=0.4)},
    {"max_passes": 3},
    {"deadline": 1000.0},
]


@pytest.fixture(scope="module")
def alone(bundle: Bundle) -> Callable[[int, int], list[Explanation]]:
    """What every kind of request has for an answer, image by image, from an explainer of its own."""

    @cache
    def explained(number: int, kind: int) -> list[Explanation]:
        asked = {**ASKED[kind]}
        with Explainer(bundle, asked.pop("method", "sise"), batch_size=16, threads=1) as explainer:
            found = explainer(tiny.image(number), **asked)
        return found if isinstance(found, list) else [found]

    return explained


@given(kinds=st.lists(st.one_of(st.none(), st.integers(0, len(ASKED) - 1)), max_size=9))
@pytest.mark.parametrize("size", [1, 3, 16])
def test_every_request_is_answered_as_if_it_were_alone(
    bundle: Bundle, alone: Callable[[int, int], list[Explanation]], size: int, kinds: list[int | None]
) -> None:
    asked = [
        None if kind is None else Request(tiny.image(number), token=(number, kind), **ASKED[kind])
        for number, kind in enumerate(kinds)
    ]
    with Explainer(bundle, batch_size=size, threads=1) as explained:
        found = list(explained.answer(asked))
    assert [answer.request for answer in found] == [request for request in asked if request is not None]
    for answer in found:
        assert answer.error is None
        for ours, theirs in zip(answer.explanations, alone(*answer.request.token), strict=True):
            assert (ours.method, ours.target, ours.passes) == (theirs.method, theirs.target, theirs.passes)
            np.testing.assert_allclose(ours.saliency, theirs.saliency, atol=1e-5)


def test_what_cannot_be_explained_fails_alone(bundle: Bundle, tmp_path: Path) -> None:
    asked = [
        Request(tmp_path / "none.png", token="image"),
        Request(tiny.image(1), token="fine"),
        Request(tiny.image(2), target="rust", token="target"),
        Request(tiny.image(2), target=[], token="targets"),
        Request(tiny.image(3), target=lambda p: p[:, 0] / np.where(np.arange(len(p)) < 9, 0, 1), token="function"),
        Request(tiny.image(4), method="sice", token="method"),
        Request(tiny.image(5), max_passes=0, token="budget"),
        Request(tiny.image(6), token="fine"),
    ]
    with Explainer(bundle, batch_size=16, threads=1) as explained, np.errstate(all="ignore"):
        found = list(explained.answer(asked))
    kinds: dict[Any, type[SightlineError]] = {
        "image": ImageError,
        "target": TargetError,
        "targets": TargetError,
        "function": TargetError,
        "method": MethodError,
        "budget": MethodError,
    }
    assert [answer.request.token for answer in found] == [request.token for request in asked]
    for answer in found:
        kind = kinds.get(answer.request.token)
        assert (answer.error is None) == (kind is None) == bool(answer.explanations)
        assert kind is None or isinstance(answer.error, kind)


def broken_for(bundle: Bundle, image: Any) -> Any:
    """An engine that answers NaN to masked images as bright as this one's."""

    def open_batch(size: int) -> Engine:
        engine: Any = open_engine(bundle.classifier, "onnxruntime-cpu", shapes={"pixels": (size, *tiny.INPUT.shape)})
        run = engine.run

        def spoilt() -> None:
            run()
            bright = engine.buffers["pixels"].max(axis=(1, 2, 3)) > 50
            for name in ("probabilities", "logits"):
                engine.buffers[name][bright] = np.nan

        engine.run = spoilt
        return engine  # type: ignore[no-any-return]

    return open_batch


def test_an_answer_of_nan_spoils_only_its_own_image(bundle: Bundle) -> None:
    bright = tiny.image(1)
    bright[:, ::2] = 100
    images = [tiny.image(0), bright, tiny.image(2)]
    with Explainer(bundle, engine=broken_for(bundle, bright), batch_size=16) as explained:
        found = list(explained.answer(map(Request, images)))
    assert [answer.error is None for answer in found] == [True, False, True]
    assert isinstance(found[1].error, EngineError)
    assert "NaN" in str(found[1].error)


@pytest.mark.parametrize("size", [1, 4, 64])
def test_a_queue_that_runs_dry_leaves_no_answer_waiting(bundle: Bundle, size: int, tmp_path: Path) -> None:
    """After every None, all that was asked before it is answered: before the next request is drawn."""
    answered: list[Answer] = []
    drawn = 0

    def queue() -> Iterator[Request | None]:
        nonlocal drawn
        for number in range(6):
            for image in (tiny.image(number), tmp_path / "none.png")[: 1 + number % 2]:
                drawn += 1
                yield Request(image, token=drawn)
            yield None
            assert [answer.request.token for answer in answered] == list(range(1, drawn + 1))

    with Explainer(bundle, batch_size=size, threads=1) as explained:
        for answer in explained.answer(queue()):
            answered.append(answer)
    assert len(answered) == drawn == 9


def test_failures_alone_are_answered_before_the_next_request(bundle: Bundle, tmp_path: Path) -> None:
    answered: list[Answer] = []

    def queue() -> Iterator[Request]:
        for number in range(3):
            assert len(answered) == number
            yield Request(tmp_path / "none.png")

    with Explainer(bundle, batch_size=4, threads=1) as explained:
        for answer in explained.answer(queue()):
            answered.append(answer)
    assert len(answered) == 3


@pytest.mark.parametrize("deadline", [2.5, 1000.0])
def test_neighbours_share_a_batch_only_if_the_deadline_leaves_time(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, deadline: float
) -> None:
    runs: list[int] = []
    clock, open_batch = timed(bundle, monkeypatch, runs)
    with Explainer(bundle, engine=open_batch, batch_size=4) as explained:
        runs.clear()
        found = []
        for answer in explained.answer(
            Request(tiny.image(n), 2, deadline=deadline, began=clock.perf_counter()) for n in range(5)
        ):
            found.append((answer.explanations[0].passes, answer.explanations[0].completeness, clock.now))
    full, partial = [run for run in runs if run == 4], [run for run in runs if run < 4]
    assert sum(runs) == sum(passes for passes, _, _ in found)
    if deadline > 100:
        assert all(completeness == 1 for _, completeness, _ in found)
        assert len(partial) <= 2, runs  # the first image's own tail, before any batch was timed, and the last
    else:
        assert len(runs) == 5 * 2, runs
        assert full


def test_masks_do_not_wait_for_the_order_of_a_neighbour_s(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """To find it takes ten seconds here: a batch that waits for it begins after the deadline."""
    runs: list[int] = []
    clock, open_batch = timed(bundle, monkeypatch, runs)
    following = job.Job.next

    def slow(self: job.Job, count: int) -> list[batching.Task]:
        clock.now += 10 if not self.asked else 0
        return following(self, count)

    monkeypatch.setattr(job.Job, "next", slow)
    with Explainer(bundle, engine=open_batch, batch_size=4) as explained:
        began = clock.now
        asked = [Request(tiny.image(n), 2, deadline=deadline, began=began) for n, deadline in enumerate((20, 1000))]
        taken = [(clock.now - began, answer.explanations[0]) for answer in explained.answer(asked)]
    seconds, first = taken[0]
    assert first.passes % 4, "its last batch has room"
    assert first.completeness == 1
    assert seconds <= 20


def test_time_in_the_queue_counts(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[int] = []
    clock, open_batch = timed(bundle, monkeypatch, runs)
    with Explainer(bundle, engine=open_batch, batch_size=2) as explained:
        runs.clear()
        (late,) = explained.answer([Request(tiny.image(), 2, deadline=3.5, began=clock.now - 2)])
        (timely,) = explained.answer([Request(tiny.image(), 2, deadline=3.5, began=clock.now)])
    assert (late.explanations[0].passes, timely.explanations[0].passes) == (2, 6)


def test_time_of_whoever_takes_the_answers_is_not_a_batch_s(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[int] = []
    clock, open_batch = timed(bundle, monkeypatch, runs)
    with Explainer(bundle, engine=open_batch, batch_size=3) as explained:
        passes = []
        asked = [Request(tiny.image(0), 2, max_passes=2), Request(tiny.image(1), 2, deadline=150, began=clock.now)]
        for answer in explained.answer(asked):  # the first answer is taken amid the first batch of the second image
            passes.append(answer.explanations[0].passes)
            clock.now += 100
        whole = explained(tiny.image(1), 2).passes
    assert passes == [2, whole]


def test_an_engine_of_ones_own_that_lacks_an_output(bundle: Bundle) -> None:
    def open_batch(size: int) -> Engine:
        shapes = {"pixels": (size, *tiny.INPUT.shape)}
        return open_engine(bundle.classifier, "onnxruntime-cpu", shapes=shapes, outputs=["probabilities"])

    with Explainer(bundle, engine=open_batch, batch_size=4) as explained:
        fine, refused = explained.answer([Request(tiny.image()), Request(tiny.image(), method="score-cam")])
    assert fine.error is None
    assert isinstance(refused.error, EngineError)
    assert "'logits'" in str(refused.error)


def test_an_engine_that_fails_ends_the_answers(bundle: Bundle) -> None:
    with Explainer(bundle, batch_size=4, threads=1) as explained:
        explained._passes.engine.close()
        answers = explained.answer([Request(tiny.image()), Request(tiny.image())])
        with pytest.raises(EngineError, match="closed"):
            list(answers)


def test_probabilities_come_with_the_answer_and_can_be_asked_for_between_two(bundle: Bundle) -> None:
    images = [tiny.image(seed) for seed in range(3)]
    with Explainer(bundle, engine="onnxruntime-cpu", batch_size=7, threads=1) as explained:
        expected = [explained.probabilities(image) for image in images]
        maps = [explained(image).saliency for image in images]
        (whole,) = explained.classify(images)
        assert np.allclose(expected, whole, atol=1e-6)

        def drawn() -> Iterator[Request]:
            for image in images:
                yield Request(image, target=[1, 0])
                explained.probabilities(tiny.image(9))  # of another image, while masks of this one wait
                yield Request(image)

        answers = list(explained.answer(drawn()))
    for i, answer in enumerate(answers):
        assert answer.prediction is not None
        assert np.allclose(answer.prediction.probabilities, expected[i // 2], atol=1e-6)
        assert answer.prediction.probabilities.dtype == np.float64
        if i % 2:
            assert np.allclose(answer.explanations[0].saliency, maps[i // 2], atol=1e-5)
    with Explainer(bundle, engine="onnxruntime-cpu", batch_size=4, threads=1) as explained:
        (refused,) = explained.answer([Request(images[0], target=99)])
        assert refused.prediction is None
