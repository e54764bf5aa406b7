"""The queue: its order, its limit, its deadlines, and what becomes of those who leave, or of an engine that fails."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sightline import SISE, Explainer
from sightline.errors import EngineError
from sightline.runtime.cam import GradCAM
from sightline.runtime.rise import RISE
from sightline.serving.metrics import Metrics
from sightline.serving.refusal import RefusedError
from sightline.serving.scheduler import Progress, Scheduler, Ticket
from tests.runtime import tiny
from tests.serving.running import Held, held


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


Starting = Callable[..., Scheduler]


@pytest.fixture
def started(bundle: Path, metrics: Metrics) -> Iterator[Starting]:
    """Starts schedulers, and closes them."""
    running = []

    def start(kind: type[Explainer] = Explainer, limit: int = 8) -> Scheduler:
        def opening(progress: Progress) -> Explainer:
            return kind(bundle, SISE(), "onnxruntime-cpu", 4, threads=1, progress=progress)

        found = Scheduler("tiny", opening, limit, metrics)
        found.opened.result()
        running.append((found, kind))
        return found

    yield start
    for scheduler, kind in running:
        if issubclass(kind, Held):
            kind.go.set()
        scheduler.close()


def ticket(seed: int = 0, **fields: Any) -> Ticket:
    given = {"targets": (None,), "method": SISE(), "arrived": time.perf_counter(), **fields}
    return Ticket(tiny.image(seed), **given)


def value(metrics: Metrics, line: str) -> float:
    found = re.search(rf"^{re.escape(line)} (\S+)$", metrics.text().decode(), re.MULTILINE)
    return float(found[1]) if found else 0.0


def test_answers_are_those_of_the_images(started: Starting, reference: Explainer) -> None:
    scheduler = started()
    tickets = [ticket(seed, targets=(seed,)) for seed in range(4)] + [ticket(9, targets=())]
    scheduler.submit(tickets)
    for seed, one in enumerate(tickets[:4]):
        outcome = one.future.result()
        (found,) = outcome.explanations
        expected = reference(tiny.image(seed), seed)
        assert found.target == seed
        assert np.allclose(found.saliency, expected.saliency, atol=1e-4)
        assert np.allclose(outcome.probabilities, reference.probabilities(tiny.image(seed)), atol=1e-6)
    classified = tickets[4].future.result()
    assert classified.explanations == []
    assert np.allclose(classified.probabilities, reference.probabilities(tiny.image(9)), atol=1e-6)


def test_waiting_images_share_batches(started: Starting, metrics: Metrics) -> None:
    kind = held()
    scheduler = started(kind)
    tickets = [ticket(seed, max_passes=5) for seed in range(6)]
    scheduler.submit(tickets)
    kind.go.set()
    assert [one.future.result().explanations[0].passes for one in tickets] == [5] * 6
    assert value(metrics, 'sightline_passes_total{model="tiny"}') == 30
    assert (
        value(metrics, 'sightline_batch_slots_total{model="tiny"}') == 32
    )  # alone each would have had 8, of 2 batches


def test_a_full_queue_refuses_and_says_when_to_come_again(started: Starting, metrics: Metrics) -> None:
    kind = held()
    scheduler = started(kind, limit=3)
    first = ticket()
    scheduler.submit([first])
    kind.drawn.wait()
    scheduler.submit([ticket(1), ticket(2)])
    assert (scheduler.waiting, scheduler.in_hand) == (2, 1)
    with pytest.raises(
        RefusedError, match="2 images wait for model 'tiny', at most 3 may, and this request has 2"
    ) as refused:
        scheduler.submit([ticket(3), ticket(4)])
    assert refused.value.status == 429
    assert 1 <= int(refused.value.headers["Retry-After"]) <= 300
    assert scheduler.waiting == 2  # all or none
    with pytest.raises(RefusedError):
        scheduler.admits(2)
    scheduler.admits(1)
    assert value(metrics, 'sightline_drops_total{model="tiny",reason="full"}') == 4


def test_retry_after_follows_the_measured_rate(started: Starting, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = held()
    slow = started(kind, limit=10)
    slow.submit([ticket()])
    kind.drawn.wait()
    slow.submit([ticket(seed) for seed in range(10)])
    for seconds, expected in ((7.0, "35"), (1000.0, "300"), (0.001, "1")):
        monkeypatch.setattr(slow, "_per_image", seconds)
        with pytest.raises(RefusedError) as refused:
            slow.submit([ticket()])
        assert refused.value.headers["Retry-After"] == expected


def test_images_are_drawn_in_the_order_in_which_they_came(started: Starting) -> None:
    kind = held()
    scheduler = started(kind)
    tickets = [ticket(seed) for seed in range(6)]
    scheduler.submit(tickets[:1])
    scheduler.submit(tickets[1:5])
    scheduler.submit(tickets[5:])
    kind.go.set()
    outcomes = [one.future.result() for one in tickets]
    assert [one.turn for one in tickets] == sorted(one.turn for one in tickets)
    assert [one.queued for one in outcomes] == [one.turn - one.arrived for one in tickets]


def test_whoever_left_is_passed_over_in_the_queue(started: Starting, metrics: Metrics) -> None:
    kind = held()
    scheduler = started(kind)
    tickets = [ticket(seed) for seed in range(3)]
    scheduler.submit(tickets)
    kind.drawn.wait()
    assert tickets[1].future.cancel()
    kind.go.set()
    assert tickets[2].future.result().explanations
    assert value(metrics, 'sightline_images_total{method="sise",model="tiny"}') == 2
    assert value(metrics, 'sightline_drops_total{model="tiny",reason="gone"}') == 1


def test_whoever_left_is_not_computed_and_takes_no_place(started: Starting, metrics: Metrics) -> None:
    kind = held()
    scheduler = started(kind, limit=2)
    scheduler.submit([ticket()])
    kind.drawn.wait()
    gone, stays = ticket(1), ticket(2)
    scheduler.submit([gone, stays])
    assert gone.future.cancel()
    assert scheduler.waiting == 1
    another = ticket(3)
    scheduler.submit([another])
    kind.go.set()
    another.future.result()
    with pytest.raises(CancelledError):
        gone.future.result()
    assert value(metrics, 'sightline_images_total{method="sise",model="tiny"}') == 3
    assert value(metrics, 'sightline_drops_total{model="tiny",reason="gone"}') == 1


def test_what_expired_in_the_queue_is_not_computed(started: Starting, metrics: Metrics) -> None:
    kind = held()
    scheduler = started(kind)
    scheduler.submit([ticket()])
    kind.drawn.wait()
    late, patient = ticket(1, deadline=1.0, arrived=time.perf_counter() - 2), ticket(2, deadline=600.0)
    scheduler.submit([late, patient])
    kind.go.set()
    with pytest.raises(RefusedError, match="the deadline of 1 s passed") as refused:
        late.future.result()
    assert refused.value.status == 504
    assert patient.future.result().explanations[0].completeness == 1
    assert value(metrics, 'sightline_drops_total{model="tiny",reason="expired"}') == 1


def test_a_deadline_in_hand_gives_the_best_map_so_far(started: Starting) -> None:
    scheduler = started(held_until_expired())
    one = ticket(0, deadline=1.0)
    scheduler.submit([one])
    (found,) = one.future.result().explanations
    assert found.passes == 4  # the first batch is always passed
    assert 0 < found.completeness < 1


def held_until_expired() -> type[Explainer]:
    """Gives an image on only once its deadline has passed: as if everything before it had been slow."""

    class Slow(Explainer):
        def answer(self, requests: Any, *, progress: Any = None) -> Any:
            from dataclasses import replace

            def late() -> Any:
                for request in requests:
                    yield request if request is None else replace(request, began=request.began - 10)

            return super().answer(late())

    return Slow


def test_closing_works_off_what_waits(bundle: Path, metrics: Metrics, started: Starting) -> None:
    kind = held()
    scheduler = started(kind)
    tickets = [ticket(seed) for seed in range(3)]
    scheduler.submit(tickets)
    kind.go.set()
    scheduler.close()
    assert all(one.future.done() and one.future.exception() is None for one in tickets)
    with pytest.raises(RefusedError, match="stopping") as refused:
        scheduler.submit([ticket()])
    assert refused.value.status == 503


def test_abandoning_lets_go_what_waits_and_what_is_in_hand(started: Starting, metrics: Metrics) -> None:
    kind = held()
    scheduler = started(kind)
    first, second = ticket(), ticket(1)
    scheduler.submit([first])
    kind.drawn.wait()
    scheduler.submit([second])
    scheduler.abandon()
    kind.go.set()
    for one in (first, second):
        with pytest.raises(RefusedError, match="stopping") as refused:
            one.future.result()
        assert refused.value.status == 503
    assert value(metrics, 'sightline_passes_total{model="tiny"}') == 4  # one batch
    with pytest.raises(RefusedError, match="stopping"):
        scheduler.submit([ticket()])


def test_what_nobody_waits_for_ends_between_two_batches(
    started: Starting, metrics: Metrics, reference: Explainer
) -> None:
    kind = held()
    scheduler = started(kind)
    gone, stays = ticket(0, method=RISE(passes=10_000)), ticket(1)
    scheduler.submit([gone, stays])
    kind.drawn.wait()
    gone.left = True
    kind.go.set()
    (found,) = stays.future.result().explanations
    assert np.allclose(found.saliency, reference(tiny.image(1)).saliency, atol=1e-4)
    assert value(metrics, 'sightline_passes_total{model="tiny"}') == 4 + found.passes
    assert value(metrics, 'sightline_drops_total{model="tiny",reason="gone"}') == 1
    assert scheduler.in_hand == 0


def test_whoever_shares_a_batch_with_what_nobody_waits_for_is_answered(started: Starting) -> None:
    kind = held()
    scheduler = started(kind)
    gone, stays = ticket(0, max_passes=2), ticket(1, max_passes=2)
    scheduler.submit([gone, stays])
    kind.drawn.wait()
    gone.left = True
    kind.go.set()
    assert stays.future.result().explanations[0].passes == 2


class Failing(Explainer):
    """Its engine fails at the first image that it ever gets."""

    openings = 0
    closings = 0

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        type(self).openings += 1

    def answer(self, requests: Any, *, progress: Any = None) -> Any:
        for _ in requests:
            if type(self).openings == 1:
                raise EngineError("the device fell off the bus")
            break
        yield from ()

    def close(self) -> None:
        type(self).closings += 1
        super().close()


def test_an_engine_that_fails_is_opened_again(started: Starting, reference: Explainer) -> None:
    class Once(Failing):
        def answer(self, requests: Any, *, progress: Any = None) -> Any:
            return super().answer(requests) if type(self).openings == 1 else Explainer.answer(self, requests)

    scheduler = started(Once)
    first = ticket()
    scheduler.submit([first])
    with pytest.raises(RefusedError, match="fell off the bus") as refused:
        first.future.result()
    assert refused.value.status == 500
    second = ticket(1)
    scheduler.submit([second])
    (found,) = second.future.result().explanations
    assert np.allclose(found.saliency, reference(tiny.image(1)).saliency, atol=1e-4)
    assert (Once.openings, Once.closings) == (2, 1)
    assert not scheduler.broken


def test_a_prediction_whose_pass_fails_is_answered(started: Starting) -> None:
    """With an error that is none of ours, too."""

    class Once(Explainer):
        failed = False

        def probabilities(self, image: Any) -> Any:
            if not type(self).failed:
                type(self).failed = True
                raise MemoryError("no room")
            return super().probabilities(image)

    scheduler = started(Once)
    first, second = ticket(targets=()), ticket(1, targets=())
    scheduler.submit([first])
    with pytest.raises(RefusedError, match="no room") as refused:
        first.future.result()
    assert refused.value.status == 500
    scheduler.submit([second])
    assert second.future.result().probabilities.sum() == pytest.approx(1)


def test_an_engine_that_cannot_be_opened_again_is_said_to_be_broken(started: Starting) -> None:
    class Never(Failing):
        def __init__(self, *arguments: Any, **named: Any) -> None:
            if type(self).openings:
                raise EngineError("no device")
            super().__init__(*arguments, **named)

    scheduler = started(Never)
    first = ticket()
    scheduler.submit([first])
    with pytest.raises(RefusedError):
        first.future.result()
    scheduler._thread.join()
    assert scheduler.broken
    with pytest.raises(RefusedError, match="no device") as refused:
        scheduler.submit([ticket()])
    assert refused.value.status == 503


def test_an_image_that_cannot_be_explained_fails_alone(started: Starting) -> None:
    scheduler = started()
    bad = ticket(1, targets=(99,))
    good = ticket(2)
    cam = ticket(3, method=GradCAM())
    scheduler.submit([bad, good, cam])
    with pytest.raises(Exception, match="99"):
        bad.future.result()
    assert good.future.result().explanations[0].method == "sise"
    assert cam.future.result().explanations[0].method == "grad-cam"
