"""A ``pycuda.driver`` for machines without a GPU, over the same host memory as the fake ``cupy``.

It refuses what PyCUDA refuses: work in a thread that has no context on its stack, a second free, a stream or an
allocation of a context that is not the primary one; and it leaks, with PyCUDA's warning, what is freed in a thread
without the context. Freed memory is kept and filled with 0xFF, so that a use after the free is found, not a crash.
"""

from __future__ import annotations

import ctypes
import sys
import threading
import warnings
from types import ModuleType
from typing import Any, ClassVar

import numpy as np

from tests.fakes import cuda


class Error(Exception):
    """``pycuda.driver.Error``."""


class MemoryError(Error):
    """``pycuda.driver.MemoryError``: not Python's."""


class LogicError(Error):
    """``pycuda.driver.LogicError``."""


class State:
    """What a test may set or look at."""

    name: ClassVar[str] = "Fake GPU"
    initialized: ClassVar[bool] = False
    retained: ClassVar[int] = 0
    """How often a primary context was retained and not released."""
    allocations: ClassVar[int] = 0
    """How many there ever were."""
    alive: ClassVar[dict[int, int]] = {}
    """Address and size of what is not freed."""
    events: ClassVar[list[str]] = []
    """What came to its end, in order; the fake ``tensorrt`` adds to it."""
    graveyard: ClassVar[list[Any]] = []
    threads: ClassVar[threading.local] = threading.local()

    @classmethod
    def stack(cls) -> list[Context]:
        """The contexts of this thread."""
        if not hasattr(cls.threads, "stack"):
            cls.threads.stack = []
        stack: list[Context] = cls.threads.stack
        return stack

    @classmethod
    def reset(cls) -> None:
        """As it was at the start."""
        cls.name, cls.initialized, cls.retained, cls.allocations = "Fake GPU", False, 0, 0
        cls.threads = threading.local()
        for found in (cls.alive, cls.events, cls.graveyard):
            found.clear()


def init(flags: int = 0) -> None:
    """Before anything else."""
    if not cuda.State.devices:
        raise LogicError("cuInit failed: no CUDA-capable device is detected")
    State.initialized = True


class Context:
    """A primary context."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self._thread = threading.get_ident()
        State.retained += 1

    def __del__(self) -> None:
        State.retained -= 1

    def push(self) -> None:
        State.stack().append(self)

    @staticmethod
    def pop() -> None:
        if not State.stack():
            raise LogicError("context::pop failed: invalid device context - cannot pop non-current context")
        State.stack().pop()

    def frees(self) -> bool:
        """(Only here.) Whether this thread can free what belongs to this context."""
        return self in State.stack() or threading.get_ident() == self._thread

    @staticmethod
    def current() -> Context:
        """(Only here.)"""
        if not State.stack():
            raise LogicError("explicit_context_dependent failed: invalid device context - no currently active context?")
        return State.stack()[-1]


class Device:
    """A GPU, by its number."""

    def __init__(self, number: int) -> None:
        if not State.initialized:
            raise LogicError("cuDeviceGet failed: initialization error")
        if number >= cuda.State.devices:
            raise LogicError("cuDeviceGet failed: invalid device ordinal")
        self.number = number

    def name(self) -> str:
        return State.name

    def compute_capability(self) -> tuple[int, int]:
        return divmod(int(cuda.State.compute_capability), 10)

    def total_memory(self) -> int:
        return cuda.State.memory

    def retain_primary_context(self) -> Context:
        return Context(self)


class DeviceAllocation:
    """What ``mem_alloc`` returns."""

    def __init__(self, size: int) -> None:
        self._context = Context.current()
        try:
            self._memory = cuda.Memory(size)
        except cuda.OutOfMemoryError:
            raise MemoryError("cuMemAlloc failed: out of memory") from None
        self._address, self._valid = self._memory.ptr, True
        State.allocations += 1
        State.alive[self._address] = size

    def __int__(self) -> int:
        return self._address

    def free(self) -> None:
        if not self._valid:
            raise LogicError("device_allocation::free failed: invalid resource handle")
        self._valid = False
        if not self._context.frees():
            warnings.warn("device_allocation in out-of-thread context could not be cleaned up", stacklevel=2)
            return
        self._memory.check()
        size = State.alive.pop(self._address)
        ctypes.memset(self._address, 0xFF, size)
        State.graveyard.append(self._memory._bytes)
        del self._memory
        State.events.append("buffer")

    def __del__(self) -> None:
        if getattr(self, "_valid", False):
            self.free()


def mem_alloc(bytes: int) -> DeviceAllocation:
    """Not initialised."""
    if bytes <= 0:
        raise LogicError("cuMemAlloc failed: invalid argument")
    return DeviceAllocation(bytes)


def memset_d8_async(dest: int, data: int, size: int, stream: Stream | None = None) -> None:
    """In the order of the stream."""
    Context.current()
    if not any(address <= dest and dest + size <= address + room for address, room in State.alive.items()):
        raise LogicError("cuMemsetD8Async failed: invalid argument")
    target = cuda.Stream.null if stream is None else cuda.ExternalStream(stream.handle)
    target.enqueue(lambda: ctypes.memset(dest, data, size))


class Stream:
    """A stream of the current context."""

    def __init__(self, flags: int = 0) -> None:
        self._context = Context.current()
        self.flags, self.handle = flags, cuda.Stream().ptr

    def synchronize(self) -> None:
        cuda.ExternalStream(self.handle).synchronize()

    def __del__(self) -> None:
        if hasattr(self, "_context"):
            if not self._context.frees():
                warnings.warn("stream in out-of-thread context could not be cleaned up", stacklevel=2)
            State.events.append("stream")


class CupyStream(cuda.ExternalStream):
    """``cupy.cuda.Stream.from_external``: a stream that keeps what it shows alive."""

    def __init__(self, shown: Any) -> None:
        version, handle = shown.__cuda_stream__()
        assert version == 0
        super().__init__(handle)
        self._shown = shown


def contents(address: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """(Only here.) The array at an address of memory that is not freed."""
    size = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
    if not any(start <= address and address + size <= start + room for start, room in State.alive.items()):
        raise cuda.CUDARuntimeError("cudaErrorIllegalAddress: no allocation, a freed one, or one that is too small")
    raw: Any = (ctypes.c_uint8 * size).from_address(address)
    array: np.ndarray[Any, Any] = np.frombuffer(raw, dtype).reshape(shape)
    return array


def modules() -> dict[str, ModuleType]:
    """What ``sys.modules`` must hold for ``from pycuda import driver`` to give this module."""
    State.reset()
    cuda.Stream.from_external = CupyStream  # type: ignore[attr-defined]
    package = ModuleType("pycuda")
    package.driver = sys.modules[__name__]  # type: ignore[attr-defined]
    package.__path__ = []
    return {"pycuda": package, "pycuda.driver": sys.modules[__name__]}
