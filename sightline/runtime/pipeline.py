"""The threads of a stream: read → decode → explain → encode, with a bounded queue between each two.

Classification has no thread of its own: it shares the explainer with the explanation, and an engine belongs to one
thread. The attribution pass, which every explanation begins with, gives the probabilities anyway; frames that need not
be explained are seen first by an engine of batch size one without gradients (:mod:`~sightline.runtime.whole`). (A pass
of the classifier's fixed batch costs more than either for one frame, and would overwrite the masks that wait in it.)
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from threading import Event, Thread, current_thread
from typing import Any
from weakref import WeakSet

from sightline.errors import SightlineError, StreamError
from sightline.numeric import real
from sightline.runtime.channel import Channel, End, Stopped
from sightline.runtime.explaining import Answering, Explaining, Item, Settings
from sightline.runtime.frames import Frame, FrameResult
from sightline.runtime.image import ImageLike, prepare
from sightline.runtime.stream_statistics import StreamStatistics, Tally

logger = logging.getLogger(__name__)

DECODED = 2
"""Frames decoded ahead: one to fill the rest of a batch with, and one to follow it."""
GRACE = 2.0
"""Seconds that closing waits for a source that is being read: who waits for a camera cannot be interrupted."""

_BUSY: WeakSet[Any] = WeakSet()
"""The explainers that a stream has to itself."""


def busy(explainer: Any) -> bool:
    """Whether a stream has this explainer to itself."""
    return explainer in _BUSY


class Pipeline:
    """Runs from :meth:`start` until its results end or it is closed. Knows nobody who would have to close it."""

    def __init__(
        self,
        explainer: Answering,
        frames: Iterable[Frame | ImageLike],
        settings: Settings,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._explainer, self._frames, self._settings, self._clock = explainer, frames, settings, clock
        self._tally = Tally(clock)
        self._arrived: Channel[Item] = Channel(settings.queue, settings.when_full)
        self._decoded: Channel[Item] = Channel(DECODED)
        self._explained: Channel[Item] = Channel(settings.queue)
        self.results: Channel[FrameResult] = Channel(settings.queue)
        self._stopped, self._enough = Event(), Event()
        self._owner = False
        """Whether the explainer is this stream's."""
        self._reader = self._thread("read", self._read, None, self._arrived)
        self._threads = [
            self._thread("decode", self._decode, self._arrived, self._decoded),
            self._thread("explain", self._explain, self._decoded, self._explained),
            self._thread("encode", self._encode, self._explained, self.results),
        ]

    def start(self) -> None:
        """Begin to read, unless it is closed already.

        Raises:
            StreamError: the explainer is explaining another stream.
        """
        if self._stopped.is_set():
            return
        if busy(self._explainer):
            raise StreamError(
                "this explainer is explaining another stream: close that one first, or open a second explainer."
            )
        _BUSY.add(self._explainer)
        self._owner = True
        self._tally.begin()
        for thread in (self._reader, *self._threads):
            thread.start()

    def statistics(self) -> StreamStatistics:
        """How it is doing."""
        queues: dict[str, Channel[Item] | Channel[FrameResult]] = {
            "decode": self._arrived,
            "explain": self._decoded,
            "encode": self._explained,
            "results": self.results,
        }
        return self._tally.snapshot({name: len(queue) for name, queue in queues.items()})

    def finish(self) -> None:
        """Read no more; what arrived is still explained."""
        self._enough.set()
        self._arrived.end()
        self._stop_source()

    def stop(self) -> None:
        """Tell all threads to end, without waiting for them."""
        self._stopped.set()
        self._enough.set()
        for channel in (self._arrived, self._decoded, self._explained, self.results):
            channel.stop()
        self._stop_source()

    def close(self) -> None:
        """End all threads, and wait until they have: the explainer is free again."""
        self.stop()
        for thread in self._threads:
            if thread.ident is not None and thread is not current_thread():
                thread.join()
        if self._reader.ident is not None and self._reader is not current_thread():
            self._reader.join(GRACE)
            if self._reader.is_alive():
                logger.warning(
                    "the source of the stream has not given a frame for %g s, so that its thread is left behind: it "
                    "ends with the next frame. A source with a method stop() can be told.",
                    GRACE,
                )
        self._release()
        self._tally.end()

    def _release(self) -> None:
        if self._owner:
            self._owner = False
            _BUSY.discard(self._explainer)

    def _stop_source(self) -> None:
        if callable(stop := getattr(self._frames, "stop", None)):
            stop()

    def _thread(
        self,
        name: str,
        stage: Callable[[], BaseException | None],
        source: Channel[Item] | None,
        sink: Channel[Item] | Channel[FrameResult],
    ) -> Thread:
        def run() -> None:
            try:
                sink.end(stage())
            except Stopped:
                pass
            except BaseException as error:  # it surfaces where the results are taken, after those before it
                sink.end(error)
            finally:
                if source is not None:
                    source.stop()  # nobody takes from it any more: whoever waits to put something there ends, too

        # Daemons: a program that forgets to close its stream, or whose source never gives another frame, can end.
        return Thread(target=run, name=f"sightline-{name}", daemon=True)

    def _read(self) -> None:
        frames = iter(self._frames)
        try:
            for number in itertools.count():
                if self._enough.is_set():
                    return
                try:
                    found = next(frames)
                except StopIteration:
                    return
                frame = found if isinstance(found, Frame) else Frame(found)
                item = Item(number, frame.name or str(number), frame.time, self._clock(), frame.image)
                self._tally.arrived()
                try:
                    dropped = self._arrived.put(item)
                except Stopped:
                    self._tally.arrived(-1)  # too late: nobody will see it
                    raise
                if dropped is not None:
                    self._tally.dropped()
        finally:
            if frames is not self._frames and callable(close := getattr(frames, "close", None)):
                close()  # made here, so it is ended here

    def _decode(self) -> BaseException | None:
        expected = self._explainer.bundle.input
        while not isinstance(item := self._arrived.get(), End):
            image, item.image = item.image, None
            try:
                if isinstance(image, SightlineError):
                    raise image
                assert image is not None  # it was read
                item.prepared = prepare(image, expected)
                item.picture = item.prepared.picture
            except SightlineError as error:
                item.error = error
            self._decoded.put(item)
        return item.error

    def _explain(self) -> BaseException | None:
        try:
            return Explaining(
                self._explainer, self._settings, self._decoded, self._explained, self._tally, self._clock, self._stopped
            ).run()
        finally:
            self._release()

    def _encode(self) -> BaseException | None:
        deadline, encode = self._settings.deadline, self._settings.encode
        expected = 0
        while not isinstance(item := self._explained.get(), End):
            late = 0.0 if deadline is None else item.answered - item.began - real(deadline)
            result = FrameResult(
                number=item.number,
                name=item.name,
                time=item.time,
                prediction=item.prediction,
                explanations=item.explanations,
                error=item.error,
                picture=item.picture,
                dropped=item.number - expected,
                waited=item.taken - item.arrived,
                latency=self._clock() - item.arrived,
                overrun=max(0.0, late) if item.explanations else 0.0,
            )
            if encode is not None and result.state == "explained":
                encoded = encode(result)
                result = replace(result, encoded=encoded, latency=self._clock() - item.arrived)
            expected = item.number + 1
            self._tally.finished(result)
            self.results.put(result)
        return item.error
