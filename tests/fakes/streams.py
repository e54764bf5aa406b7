"""``cupy.cuda.Stream`` and what is enqueued on one: events, graphs.

Everything is done at once, or captured; where a test sets ``Stream.deferred``, only when somebody waits for it.
"""

from __future__ import annotations

import itertools
from collections import defaultdict, deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, ClassVar


class CUDARuntimeError(RuntimeError):
    """``cupy.cuda.runtime.CUDARuntimeError``."""

    def __init__(self, status: str) -> None:
        super().__init__(status)


class CUDADriverError(RuntimeError):
    """``cupy.cuda.driver.CUDADriverError``."""


class Event:
    """A place in a stream."""

    def __init__(self, block: bool = False, disable_timing: bool = False, interprocess: bool = False) -> None:
        self.ptr = next(_HANDLES)
        self._recorded = self._reached = False
        self._stream: Stream | None = None

    @property
    def done(self) -> bool:
        return self._reached

    def record(self, stream: Stream | None = None) -> None:
        self._stream = stream or Stream.current()
        self._recorded, self._reached = True, False
        self._stream.enqueue(lambda: setattr(self, "_reached", True))

    def synchronize(self) -> None:
        while self._stream is not None and not self._reached:
            self._stream.advance()


def get_elapsed_time(start: Event, end: Event) -> float:
    """Milliseconds."""
    if not (start._recorded and end._recorded):
        raise CUDARuntimeError("cudaErrorInvalidResourceHandle: an event was not recorded")
    return 0.0


class Graph:
    """What was enqueued while a stream captured; every launch runs it again."""

    def __init__(self, operations: list[Callable[[], object]]) -> None:
        self._operations = operations

    def launch(self, stream: Stream | None = None) -> None:
        target = stream or Stream.current()
        for operation in self._operations:
            target.enqueue(operation)

    def upload(self, stream: Stream | None = None) -> None:
        """Nothing to prepare."""


_HANDLES = itertools.count(0x5000, 16)


class Stream:
    """A CUDA stream. Work is done when it is enqueued, or recorded while the stream captures."""

    deferred: ClassVar[bool] = False
    """(Only here.) Whether work waits until somebody waits for this very stream, or for an event behind it: then what
    reads a result without having waited, or from another stream, finds what lay there before."""
    null: ClassVar[Stream]
    _waiting: ClassVar[defaultdict[int, deque[Callable[[], object]]]] = defaultdict(deque)
    _stack: ClassVar[list[Stream]] = []
    _captures: ClassVar[dict[int, list[Callable[[], object]]]] = {}

    def __init__(
        self, null: bool = False, non_blocking: bool = False, ptds: bool = False, priority: int | None = None
    ) -> None:
        self.ptr = 0 if null else next(_HANDLES)
        self.device_id = 0
        self.synchronized = 0
        """How often someone waited for it."""

    @staticmethod
    def current() -> Stream:
        return Stream._stack[-1] if Stream._stack else Stream.null

    def __enter__(self) -> Stream:
        Stream._stack.append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        Stream._stack.pop()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stream) and self.ptr == other.ptr

    def __hash__(self) -> int:
        return hash(self.ptr)

    def use(self) -> Stream:
        Stream._stack[:] = [self]
        return self

    def enqueue(self, operation: Callable[[], object]) -> None:
        """(Only here.) Do this, or record it while the stream captures. Other fakes put their passes in through it."""
        if self.ptr in Stream._captures:
            Stream._captures[self.ptr].append(operation)
        elif Stream.deferred and self.ptr:
            Stream._waiting[self.ptr].append(operation)
        else:
            operation()

    def advance(self) -> None:
        """(Only here.) Do what has waited longest."""
        Stream._waiting[self.ptr].popleft()()

    def forbid_capture(self, what: str) -> None:
        """(Only here.) Raise while the stream captures."""
        if self.ptr in Stream._captures:
            raise CUDARuntimeError(f"cudaErrorStreamCaptureUnsupported: {what} while the stream captures")

    @property
    def done(self) -> bool:
        return not Stream._waiting[self.ptr]

    def synchronize(self) -> None:
        self.forbid_capture("synchronize")
        self.synchronized += 1
        while Stream._waiting[self.ptr]:
            self.advance()

    def record(self, event: Event | None = None) -> Event:
        event = event or Event()
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        self.enqueue(event.synchronize)

    def begin_capture(self, mode: int | None = None) -> None:
        if self.ptr == 0:
            raise RuntimeError("cannot capture on the default (legacy) stream")
        if self.ptr in Stream._captures:
            raise CUDARuntimeError("cudaErrorIllegalState: the stream captures already")
        Stream._captures[self.ptr] = []

    def end_capture(self) -> Graph:
        if self.ptr not in Stream._captures:
            raise RuntimeError("cannot end capture: the stream does not capture")
        return Graph(Stream._captures.pop(self.ptr))

    def is_capturing(self) -> bool:
        return self.ptr in Stream._captures

    def launch_host_func(self, callback: Callable[[Any], object], arg: Any) -> None:
        self.enqueue(lambda: callback(arg))


Stream.null = Stream(null=True)


class ExternalStream(Stream):
    """A stream that someone else made. Shares its captures with every stream of the same pointer."""

    def __init__(self, ptr: int, device_id: int = -1) -> None:
        super().__init__()
        self.ptr, self.device_id = int(ptr), device_id


def get_current_stream(device_id: int = -1) -> Stream:
    """The innermost ``with stream``."""
    return Stream.current()
