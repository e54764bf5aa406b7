"""A stream: frames in, results out, in order, while four threads work on what lies between."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType

from sightline.errors import StreamError
from sightline.runtime import budget
from sightline.runtime.channel import End, Stopped
from sightline.runtime.explaining import Answering, Settings
from sightline.runtime.frames import Frame, FrameResult
from sightline.runtime.image import ImageLike
from sightline.runtime.pipeline import Pipeline
from sightline.runtime.stream_statistics import StreamStatistics


class Stream(Iterator[FrameResult]):
    """The results of a stream, in the order in which its frames arrived; made by ``Explainer.stream``.

    Also a context manager, which ends the threads however it is left. They begin with the context, or with the first
    result asked for, and have the explainer to themselves until the results end or the stream is closed.
    """

    def __init__(
        self,
        explainer: Answering,
        frames: Iterable[Frame | ImageLike],
        settings: Settings,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Check what is asked for; nothing is read yet.

        Args:
            explainer: answers.
            frames: drawn from on a thread of their own.
            settings: as in ``Explainer.stream``.
            clock: in seconds, the one by which requests count their deadline.

        Raises:
            StreamError, MethodError, TargetError: a setting is out of range.
        """
        if isinstance(frames, (str, bytes)) or not isinstance(frames, Iterable):
            raise StreamError(
                f"{frames!r} is nothing to draw frames from: pass an iterable of images or frames, e.g. "
                "sightline.serving.sources.open_source('line/')."
            )
        if not isinstance(settings.queue, int) or settings.queue < 1:
            raise StreamError(f"queue={settings.queue!r} is out of range: choose a whole number from 1.")
        if settings.when_full not in ("wait", "drop-oldest"):
            raise StreamError(f"when_full={settings.when_full!r} is unknown: choose 'wait' or 'drop-oldest'.")
        if settings.counts_from not in ("arrival", "turn"):
            raise StreamError(f"counts_from={settings.counts_from!r} is unknown: choose 'arrival' or 'turn'.")
        budget.check(settings.max_passes, settings.deadline)
        listed = settings.target if isinstance(settings.target, (list, tuple)) else [settings.target]
        for target in listed:
            if target is not None and not callable(target):
                explainer.bundle.target(target)
        self._pipeline = Pipeline(explainer, frames, settings, clock)
        self._started = False
        weakref.finalize(self, self._pipeline.stop)  # of a stream that is forgotten

    @property
    def statistics(self) -> StreamStatistics:
        """How the stream is doing; may be asked for from any thread, also after the end."""
        return self._pipeline.statistics()

    def finish(self) -> None:
        """Read no more frames; the results of those that arrived still come. May be called from any thread."""
        self._pipeline.finish()

    def close(self) -> None:
        """End the threads; results not taken yet are lost. Once more does no harm.

        An explanation under way is left after its current batch. Where the source is waiting for a frame and cannot be
        told to stop, its thread is left behind after two seconds, which is logged.
        """
        self._pipeline.close()

    def __next__(self) -> FrameResult:
        self._start()
        try:
            found = self._pipeline.results.get()
        except Stopped:
            raise StopIteration from None
        except BaseException:  # Ctrl-C while waiting
            self.close()
            raise
        if not isinstance(found, End):
            return found
        self.close()
        if found.error is not None:
            raise found.error
        raise StopIteration

    def __enter__(self) -> Stream:
        self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self) -> None:
        if not self._started:
            self._started = True
            try:
                self._pipeline.start()
            except BaseException:  # Ctrl-C between two threads
                self.close()
                raise
