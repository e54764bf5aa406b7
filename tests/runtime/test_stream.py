"""Streams: order, room, callbacks, and above all their ends. Threads are held at gates, never timed."""

from __future__ import annotations

import _thread
import gc
import json
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from sightline.bundle import Bundle
from sightline.errors import EngineError, ImageError, MethodError, SightlineError, StreamError, TargetError
from sightline.runtime import pipeline
from sightline.runtime.explaining import IN_HAND, Answering, Settings
from sightline.runtime.frames import Frame, FrameResult
from sightline.runtime.pipeline import DECODED
from sightline.runtime.prediction import Prediction
from sightline.runtime.requests import Request
from sightline.runtime.stream import Stream
from tests.runtime import tiny
from tests.runtime.answering import FakeExplainer


def frame(number: int) -> npt.NDArray[np.float32]:
    return np.full(tiny.INPUT.shape, number, np.float32)


def frames(count: int) -> list[npt.NDArray[np.float32]]:
    return [frame(number) for number in range(count)]


def stream(explainer: Answering, source: Iterable[Any], **settings: Any) -> Stream:
    clock = settings.pop("clock", None)
    return Stream(explainer, source, Settings(**settings), **({"clock": clock} if clock else {}))


def threads(one: Stream) -> list[Thread]:
    return [one._pipeline._reader, *one._pipeline._threads]


def ended(one: Stream) -> bool:
    return not any(thread.is_alive() for thread in threads(one))


class Clock:
    """Moves when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


# What comes out.


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_results_in_the_order_of_the_frames(bundle: Bundle, batch: int) -> None:
    with stream(FakeExplainer(bundle, batch), frames(20)) as results:
        found = list(results)
        assert ended(results)
    assert [result.number for result in found] == list(range(20))
    assert [result.name for result in found] == [str(number) for number in range(20)]
    assert all(result.state == "explained" and result.explanation is not None for result in found)
    assert [result.prediction.target for result in found if result.prediction] == [number % 5 for number in range(20)]
    assert sum(result.dropped for result in found) == 0


def test_what_the_source_knows_comes_out(bundle: Bundle) -> None:
    given = [Frame(frame(7), "part 7", 12.5), frame(8)]
    first, second = stream(FakeExplainer(bundle), given)
    assert (first.name, first.time, second.name, second.time) == ("part 7", 12.5, "1", None)
    assert first.picture is not None
    assert first.picture.size == (tiny.WIDTH, tiny.HEIGHT)


def test_frames_that_are_not_wanted_come_out_unexplained(bundle: Bundle) -> None:
    seen: list[Prediction] = []

    def only_if(prediction: Prediction) -> bool:
        seen.append(prediction)
        return prediction.label == "pit"

    results = stream(FakeExplainer(bundle), frames(10), only_if=only_if)
    found = list(results)
    assert [result.state for result in found] == ["explained" if number % 5 == 2 else "skipped" for number in range(10)]
    assert [prediction.target for prediction in seen] == [number % 5 for number in range(10)]
    assert all(
        result.prediction is not None and result.explanations == () for result in found if result.number % 5 != 2
    )
    facts = results.statistics
    assert (facts.frames, facts.explained, facts.skipped, facts.under_way) == (10, 2, 8, 0)
    assert (facts.predicted.count, facts.latency.count) == (10, 2)


def test_a_frame_that_cannot_be_read_fails_in_its_turn(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    lost = ImageError("the cable was out")
    given = [frame(0), tmp_path / "text.png", frame(2), Frame(lost, "lost"), np.zeros((3, 5, 5), np.float32), frame(5)]
    results = stream(FakeExplainer(bundle, 3), given)
    found = list(results)
    assert [result.state for result in found] == ["explained", "failed", "explained", "failed", "failed", "explained"]
    assert [result.number for result in found] == list(range(6))
    assert "text.png" in str(found[1].error)
    assert found[3].error is lost
    assert found[3].name == "lost"
    assert isinstance(found[4].error, ImageError)
    assert found[1].picture is None
    assert found[1].prediction is None
    assert results.statistics.failed == 3


def test_an_image_that_cannot_be_explained_fails_in_its_turn(bundle: Bundle) -> None:
    def begun(request: Request) -> None:
        if request.token.number == 1:
            raise EngineError("NaN")

    found = list(stream(FakeExplainer(bundle, begun=begun), frames(3)))
    assert [result.state for result in found] == ["explained", "failed", "explained"]
    assert found[1].picture is not None


def test_what_is_asked_reaches_the_explainer(bundle: Bundle) -> None:
    clock = Clock()
    explainer = FakeExplainer(bundle)
    list(stream(explainer, frames(1), target=["pit", 3], max_passes=7, deadline=0.5, clock=clock))
    ((request,),) = explainer.batches
    assert (request.target, request.max_passes, request.deadline, request.began) == (["pit", 3], 7, 0.5, 100.0)


def test_encoding_happens_on_a_thread_of_its_own_and_only_to_what_was_explained(bundle: Bundle) -> None:
    where: set[str] = set()

    def encode(result: FrameResult) -> int:
        where.add(threading.current_thread().name)
        assert result.explanation is not None
        return 10 * result.number

    found = list(stream(FakeExplainer(bundle), frames(4), encode=encode, only_if=lambda found: found.target != 1))
    assert [result.encoded for result in found] == [0, None, 20, 30]
    assert where == {"sightline-encode"}


# Masks of neighbours.


def until(channel: Any, count: int) -> None:
    """Wait until a channel holds so many."""
    with channel._changed:
        channel._changed.wait_for(lambda: len(channel) >= count)


def test_neighbours_share_a_batch_where_they_wait_already(bundle: Bundle) -> None:
    results: Stream

    def begun(request: Request) -> None:
        if request.token.number < 4:
            until(results._pipeline._decoded, 1)

    explainer = FakeExplainer(bundle, 5, begun=begun)
    results = stream(explainer, frames(5))
    assert len(list(results)) == 5
    assert [len(batch) for batch in explainer.batches] == [5]


def test_an_answer_does_not_wait_for_a_frame_that_has_not_come(bundle: Bundle) -> None:
    more = Event()

    def source() -> Iterator[npt.NDArray[np.float32]]:
        yield frame(0)
        more.wait()
        yield frame(1)

    with stream(FakeExplainer(bundle, 64), source()) as results, left(more):
        assert next(results).number == 0
        more.set()
        assert next(results).number == 1


def test_not_any_number_of_frames_is_held_back_for_a_full_batch(bundle: Bundle) -> None:
    results: Stream
    count = 3 * IN_HAND

    def begun(request: Request) -> None:
        if request.token.number < count - 1:
            until(results._pipeline._decoded, 1)

    explainer = FakeExplainer(bundle, 10 * count, begun=begun)
    results = stream(explainer, frames(count))
    assert len(list(results)) == count
    assert [len(batch) for batch in explainer.batches] == [IN_HAND] * 3


# Room.


class Counted:
    """So many frames; says when enough of them are drawn."""

    def __init__(self, count: int, enough: int) -> None:
        self._count, self._enough = count, enough
        self.drawn, self.enough = 0, Event()

    def __iter__(self) -> Iterator[npt.NDArray[np.float32]]:
        for number in range(self._count):
            self.drawn += 1
            if self.drawn == self._enough:
                self.enough.set()
            yield frame(number)


@contextmanager
def left(*gates: Event) -> Iterator[None]:
    """Open the gates when a test ends, also when it fails: nobody could close the stream otherwise."""
    try:
        yield
    finally:
        for gate in gates:
            gate.set()


def test_back_pressure(bundle: Bundle) -> None:
    gate, source = Event(), Counted(30, 1 + DECODED + 1 + 3 + 1)
    with stream(FakeExplainer(bundle, before=lambda _: gate.wait()), source, queue=3) as results, left(gate):
        # One being explained, what is decoded, one in the hands of the decoder, the queue, one in those of the reader.
        source.enough.wait()
        assert source.drawn == 1 + DECODED + 1 + 3 + 1
        facts = results.statistics
        assert facts.waiting["explain"] == DECODED
        gate.set()
        found = list(results)
    assert [result.number for result in found] == list(range(30))
    assert results.statistics.dropped == 0


def test_a_consumer_who_takes_nothing_holds_everything_up(bundle: Bundle) -> None:
    held = 3 * 2 + DECODED + 4  # three queues, what is decoded, and one in the hands of each thread
    source = Counted(100, held)
    with stream(FakeExplainer(bundle), source, queue=2) as results:
        source.enough.wait()
        assert source.drawn == held
        assert results.statistics.waiting == {"decode": 2, "explain": DECODED, "encode": 2, "results": 2}
        next(results)


def test_dropping_the_oldest(bundle: Bundle) -> None:
    gate, all_came, begun = Event(), Event(), Event()

    def source() -> Iterator[npt.NDArray[np.float32]]:
        yield frame(0)
        begun.wait()
        for number in range(1, 30):
            yield frame(number)
        all_came.set()

    def before(batch: list[Request]) -> None:
        begun.set()
        gate.wait()

    with (
        stream(FakeExplainer(bundle, before=before), source(), queue=3, when_full="drop-oldest") as results,
        left(gate),
    ):
        all_came.wait()
        gate.set()
        found = list(results)
    numbers = [result.number for result in found]
    assert numbers == sorted(set(numbers))
    assert numbers[0] == 0
    assert numbers[-3:] == [27, 28, 29], "the newest stay"
    facts = results.statistics
    assert facts.frames == 30
    assert facts.dropped == 30 - len(found) > 20
    assert sum(result.dropped for result in found) == facts.dropped
    assert [result.dropped for result in found[1:]] == [after - before - 1 for before, after in pairwise(numbers)]
    assert facts.under_way == 0


# Time.


def test_latency_and_overruns_count_from_the_arrival(bundle: Bundle) -> None:
    clock = Clock()
    taken = iter([0.25, 0.75, 2.0])

    def before(batch: list[Request]) -> None:
        clock.now += next(taken)

    def encode(result: FrameResult) -> None:
        clock.now += 0.125

    turn = threading.Semaphore(1)

    def source() -> Iterator[npt.NDArray[np.float32]]:
        for number in range(3):
            turn.acquire()
            yield frame(number)

    explainer = FakeExplainer(bundle, before=before, completeness=lambda request: 1 / (1 + request.token.number))
    found = []
    with stream(explainer, source(), deadline=0.5, encode=encode, clock=clock) as results:
        for result in results:
            found.append(result)
            turn.release()
    assert [result.latency for result in found] == [0.375, 0.875, 2.125]
    assert [result.overrun for result in found] == [0.0, 0.25, 1.5]
    assert [result.waited for result in found] == [0.0] * 3
    facts = results.statistics
    assert (facts.overruns, facts.worst_overrun, facts.seconds) == (2, 1.5, 3.375)
    assert facts.completeness == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)
    assert facts.latency.p50 == pytest.approx(0.875, rel=0.0051)
    assert (facts.latency.largest, facts.predicted.largest) == (2.125, 0.0)
    assert facts.rate == pytest.approx(3 / 3.375)


@pytest.mark.parametrize(("counts_from", "overrun"), [("arrival", 2), ("turn", 0)])
def test_time_in_the_queue_counts(bundle: Bundle, counts_from: str, overrun: float) -> None:
    clock, arrived = Clock(), Event()
    results: Stream

    def source() -> Iterator[npt.NDArray[np.float32]]:
        yield frame(0)
        yield frame(1)
        until(results._pipeline._decoded, 1)
        arrived.set()

    def before(batch: list[Request]) -> None:
        if batch[0].token.number == 0:
            arrived.wait()
            clock.now += 3

    explainer = FakeExplainer(bundle, before=before)
    results = stream(explainer, source(), deadline=1, clock=clock, counts_from=counts_from)
    first, second = results
    assert (first.waited, second.waited, second.latency, second.overrun) == (0, 3, 3, overrun)
    assert explainer.batches[1][0].began == (100 if counts_from == "arrival" else 103)


def test_statistics_are_json(bundle: Bundle) -> None:
    results = stream(FakeExplainer(bundle), frames(2))
    before = json.loads(json.dumps(results.statistics.facts(), allow_nan=False))
    assert (before["seconds"], before["rate"], before["completeness"]) == (0.0, 0.0, None)
    list(results)
    facts = json.loads(json.dumps(results.statistics.facts(), allow_nan=False))
    assert facts["explained"] == facts["frames"] == facts["latency"]["count"] == 2
    assert facts["waiting"] == {"decode": 0, "explain": 0, "encode": 0, "results": 0}


# Ends.


def test_leaving_the_context_ends_the_threads(bundle: Bundle) -> None:
    def endless() -> Iterator[npt.NDArray[np.float32]]:
        while True:
            yield frame(0)

    with stream(FakeExplainer(bundle), endless()) as results:
        next(results)
    assert ended(results)
    with pytest.raises(StopIteration):
        next(results)
    results.close()  # once more


def test_leaving_before_the_first_result(bundle: Bundle) -> None:
    with stream(FakeExplainer(bundle), frames(3)) as results:
        pass
    assert ended(results)


def test_a_stream_that_never_began_closes(bundle: Bundle) -> None:
    drawn: list[int] = []
    results = stream(FakeExplainer(bundle), map(drawn.append, range(3)))
    results.close()
    assert list(results) == []
    assert drawn == []


def test_a_stream_that_is_finished_before_it_began_reads_nothing(bundle: Bundle) -> None:
    drawn: list[int] = []
    results = stream(FakeExplainer(bundle), map(drawn.append, range(3)))
    results.finish()
    assert list(results) == []
    assert drawn == []


def test_an_explanation_under_way_is_left_between_two_batches(bundle: Bundle) -> None:
    under_way = Event()

    def before(batch: list[Request]) -> None:
        while True:
            under_way.set()
            explainer.progress(1, 2)

    explainer = FakeExplainer(bundle, before=before)
    with stream(explainer, frames(1)) as results:
        under_way.wait()
    assert ended(results)


class BrokenError(Exception):
    pass


@pytest.mark.parametrize("kind", [BrokenError, ImageError, SystemExit])
def test_what_the_source_raises_comes_after_the_results_before_it(bundle: Bundle, kind: type[BaseException]) -> None:
    def source() -> Iterator[npt.NDArray[np.float32]]:
        yield from frames(3)
        raise kind("here")

    found = []
    results = stream(FakeExplainer(bundle, 2), source())
    with pytest.raises(kind, match="here"):  # noqa: PT012
        for result in results:
            found.append(result.number)
    assert found == [0, 1, 2]
    assert ended(results)
    assert list(results) == []


def test_what_only_if_raises_comes_after_the_results_before_it(bundle: Bundle) -> None:
    def only_if(prediction: Prediction) -> bool:
        if prediction.target == 3:
            raise TargetError("here")  # an image's error would be a failed frame
        return prediction.target != 1

    found, made = [], []

    def completeness(request: Request) -> float:
        made.append(request.token.number)
        return 1.0

    results = stream(FakeExplainer(bundle, 64, completeness=completeness), frames(9), only_if=only_if)
    with pytest.raises(TargetError, match="here"):  # noqa: PT012
        for result in results:
            found.append(result.state)
    assert found == ["explained", "skipped", "explained"]
    assert made == [0, 2]
    assert ended(results)


def test_what_encode_raises_surfaces(bundle: Bundle) -> None:
    def encode(result: FrameResult) -> None:
        if result.number == 2:
            raise BrokenError("here")

    found = []
    results = stream(FakeExplainer(bundle), frames(500), encode=encode)
    with pytest.raises(BrokenError, match="here"):  # noqa: PT012
        for result in results:
            found.append(result.number)
    assert found == [0, 1]
    assert ended(results)


def test_an_engine_that_fails_ends_the_stream(bundle: Bundle) -> None:
    def before(batch: list[Request]) -> None:
        if batch[0].token.number == 2:
            raise EngineError("here")

    found = []
    results = stream(FakeExplainer(bundle, before=before), frames(500))
    with pytest.raises(EngineError, match="here"):  # noqa: PT012
        for result in results:
            found.append(result.number)
    assert found == [0, 1]
    assert ended(results)


@pytest.mark.parametrize("where", ["encode", "engine"])
def test_a_failure_ends_the_stages_before_it_at_once(bundle: Bundle, where: str) -> None:
    """Though nobody has taken a result yet, and so nobody knows of the failure."""

    def fails(_: object) -> None:
        raise EngineError("here")

    def endless() -> Iterator[npt.NDArray[np.float32]]:
        while True:
            yield frame(0)

    explainer = FakeExplainer(bundle, before=fails if where == "engine" else lambda _: None)
    with stream(explainer, endless(), encode=fails) as results:
        for thread in threads(results):
            thread.join()
        with pytest.raises(EngineError, match="here"):
            next(results)


def test_what_is_raised_in_the_context_surfaces(bundle: Bundle) -> None:
    with pytest.raises(BrokenError), stream(FakeExplainer(bundle), frames(9)) as results:  # noqa: PT012
        next(results)
        raise BrokenError
    assert ended(results)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C is an exception, as at a prompt; a shell has its background processes ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("context", [True, False])
@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_while_waiting(bundle: Bundle, context: bool) -> None:
    def before(batch: list[Request]) -> None:
        while not results._pipeline.results._changed._waiters:  # type: ignore[attr-defined]
            pass  # the main thread is on its way
        _thread.interrupt_main()
        while True:
            explainer.progress(0, 1)

    explainer = FakeExplainer(bundle, before=before)
    results = stream(explainer, frames(5))
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012
        if context:
            with results:
                next(results)
        else:
            next(results)
    assert ended(results)


def test_a_source_that_waits_for_ever_does_not_hold_up_the_end(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pipeline, "GRACE", 0.0)
    never, closed = Event(), Event()

    def waiting() -> Iterator[npt.NDArray[np.float32]]:
        yield frame(0)
        never.wait()
        yield frame(1)

    class Waiting:
        def __iter__(self) -> Iterator[npt.NDArray[np.float32]]:
            try:
                yield from waiting()
            finally:
                closed.set()

    with stream(FakeExplainer(bundle), Waiting()) as results:
        next(results)
    reader, *others = threads(results)
    assert reader.is_alive()
    assert not any(thread.is_alive() for thread in others)
    assert "has not given a frame" in caplog.text
    never.set()
    reader.join()
    assert closed.is_set(), "the iterator that the stream made is ended, too"
    assert results.statistics.frames == 1


def test_a_source_that_can_be_told_to_stop_is_told(bundle: Bundle) -> None:
    class Source:
        def __init__(self) -> None:
            self.told = Event()

        def __iter__(self) -> Iterator[Frame]:
            yield Frame(frame(0))
            self.told.wait()

        def stop(self) -> None:
            self.told.set()

    with stream(FakeExplainer(bundle), Source()) as results:
        next(results)
    assert ended(results)


def test_the_iterator_that_the_stream_made_is_closed(bundle: Bundle) -> None:
    class Reading:
        def __init__(self) -> None:
            self.closed = 0

        def __iter__(self) -> Reading:
            return self

        def __next__(self) -> npt.NDArray[np.float32]:
            return frame(0)

        def close(self) -> None:
            self.closed += 1

    class Device:
        reading = Reading()

        def __iter__(self) -> Reading:
            return self.reading

    given = Reading()
    for source in (Device(), given):
        with stream(FakeExplainer(bundle), source) as results:
            next(results)
    assert (Device.reading.closed, given.closed) == (1, 0)


def test_an_iterator_of_the_callers_is_left_to_the_caller(bundle: Bundle) -> None:
    source = iter(frames(100))
    with stream(FakeExplainer(bundle), source, queue=1) as results:
        next(results)
    assert next(source) is not None


def test_finishing_reads_no_more_and_loses_nothing(bundle: Bundle) -> None:
    gate, began = Event(), Event()

    def endless() -> Iterator[npt.NDArray[np.float32]]:
        number = 0
        while True:
            yield frame(number)
            number += 1

    def before(batch: list[Request]) -> None:
        began.set()
        gate.wait()

    with stream(FakeExplainer(bundle, before=before), endless(), queue=2) as results, left(gate):
        began.wait()
        until(results._pipeline._arrived, 2)
        results.finish()
        gate.set()
        found = [result.number for result in results]
    assert found == list(range(len(found)))
    assert len(found) >= 3
    assert results.statistics.frames == len(found), "a frame in the hands of the reader then does not count"


def test_a_forgotten_stream_ends_its_threads(bundle: Bundle) -> None:
    def endless() -> Iterator[npt.NDArray[np.float32]]:
        while True:
            yield frame(0)

    results = stream(FakeExplainer(bundle), endless())
    next(results)
    running = threads(results)
    del results
    gc.collect()
    for thread in running:
        thread.join()


def test_one_stream_at_a_time(bundle: Bundle) -> None:
    explainer = FakeExplainer(bundle)
    with stream(explainer, frames(100), queue=1) as first:  # more than fit into its queues
        next(first)
        with pytest.raises(StreamError, match="another stream"):
            next(stream(explainer, frames(3)))
        never = stream(explainer, frames(3))
        never.close()
        assert list(never) == []
    assert len(list(stream(explainer, frames(3)))) == 3
    assert len(list(stream(explainer, frames(2)))) == 2


# What cannot be.


@pytest.mark.parametrize(
    ("settings", "error", "said"),
    [
        ({"queue": 0}, StreamError, "queue=0"),
        ({"queue": 1.5}, StreamError, r"queue=1\.5"),
        ({"when_full": "drop"}, StreamError, "when_full='drop'"),
        ({"counts_from": "now"}, StreamError, "counts_from='now'"),
        ({"deadline": 0}, MethodError, "deadline=0"),
        ({"max_passes": -1}, MethodError, "max_passes=-1"),
        ({"target": "rust"}, TargetError, "rust"),
        ({"target": ["pit", 9]}, TargetError, "9"),
    ],
)
def test_settings_out_of_range(
    bundle: Bundle, settings: dict[str, Any], error: type[SightlineError], said: str
) -> None:
    with pytest.raises(error, match=said):
        stream(FakeExplainer(bundle), frames(1), **settings)


@pytest.mark.parametrize("source", ["line/", 7])
def test_what_is_no_source(bundle: Bundle, source: Any) -> None:
    with pytest.raises(StreamError, match="open_source"):
        stream(FakeExplainer(bundle), source)
