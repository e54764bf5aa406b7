"""``cupy.cuda``'s memory, on the host: guarded, limited and not initialised."""

from __future__ import annotations

import ctypes
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from tests.fakes.streams import CUDARuntimeError, Stream

GUARD = 256
"""Bytes before and behind every allocation that nobody may write to."""

_GUARD_BYTE = 0xA5
TOTAL_MEMORY = 8 << 30


class OutOfMemoryError(MemoryError):
    """``cupy.cuda.memory.OutOfMemoryError``."""


class State:
    """What a test may set or look at."""

    devices: ClassVar[int] = 1
    compute_capability: ClassVar[str] = "90"
    memory: ClassVar[int] = TOTAL_MEMORY
    """Bytes of the device; allocations beyond fail."""
    used: ClassVar[int] = 0
    launches: ClassVar[list[tuple[str, int]]] = []
    """(kernel, pointer of its stream), in order."""

    @classmethod
    def reset(cls) -> None:
        """As it was at the start."""
        cls.devices, cls.compute_capability, cls.memory = 1, "90", TOTAL_MEMORY
        cls.launches.clear()


class BaseMemory:
    """An address and what keeps it alive."""

    ptr: int
    size: int
    device_id: int = 0


class Memory(BaseMemory):
    """An allocation: 256-byte aligned, not initialised (NaN bytes here), guarded on both sides."""

    def __init__(self, size: int) -> None:
        if size + State.used > State.memory:
            raise OutOfMemoryError(f"Out of memory allocating {size:,} bytes (allocated so far: {State.used:,} bytes).")
        self.size = size
        self._bytes: npt.NDArray[np.uint8] = np.full(size + 3 * GUARD, _GUARD_BYTE, np.uint8)
        address = self._bytes.ctypes.data
        self._start = GUARD + -address % GUARD
        self.ptr = address + self._start
        self._bytes[self._start : self._start + size] = 0xFF
        State.used += size

    def __del__(self) -> None:
        if hasattr(self, "ptr"):
            State.used -= self.size

    def check(self) -> None:
        """Raise if anything was written beside the allocation."""
        end = self._start + self.size
        if (self._bytes[: self._start] != _GUARD_BYTE).any() or (self._bytes[end:] != _GUARD_BYTE).any():
            raise CUDARuntimeError("cudaErrorIllegalAddress: a write outside of an allocation")


class UnownedMemory(BaseMemory):
    """Memory of someone else, e.g. of an engine."""

    def __init__(self, ptr: int, size: int, owner: object, device_id: int = -1) -> None:
        self.ptr, self.size, self._owner = int(ptr), int(size), owner


class MemoryPointer:
    """A place in a :class:`BaseMemory`."""

    def __init__(self, mem: BaseMemory, offset: int) -> None:
        self.mem, self.ptr = mem, mem.ptr + offset
        self._room = mem.size - offset

    def __int__(self) -> int:
        return self.ptr

    def __add__(self, offset: int) -> MemoryPointer:
        return MemoryPointer(self.mem, self.ptr - self.mem.ptr + offset)

    def memset(self, value: int, size: int) -> None:
        """On CUDA's default stream, whatever the current one: nothing orders it with streams that do not block."""
        Stream.null.enqueue(lambda: ctypes.memset(self.ptr, value, size))

    def memset_async(self, value: int, size: int, stream: Stream | None = None) -> None:
        (stream or Stream.current()).enqueue(lambda: ctypes.memset(self.ptr, value, size))

    def copy_from(self, source: Any, size: int) -> None:
        self.copy_from_async(source, size)

    def copy_from_async(self, source: Any, size: int, stream: Stream | None = None) -> None:
        """From a device pointer, or from a host address (``ctypes.c_void_p`` or int)."""
        address = source.ptr if isinstance(source, MemoryPointer) else getattr(source, "value", source)
        if size > self._room:
            raise CUDARuntimeError("cudaErrorInvalidValue: a copy beyond the end of the memory")
        (stream or Stream.current()).enqueue(lambda: ctypes.memmove(self.ptr, address, size))

    copy_from_device = copy_from_host = copy_from
    copy_from_device_async = copy_from_host_async = copy_from_async

    def copy_to_host(self, target: Any, size: int) -> None:
        address = getattr(target, "value", target)
        Stream.current().enqueue(lambda: ctypes.memmove(address, self.ptr, size))

    def copy_to_host_async(self, target: Any, size: int, stream: Stream | None = None) -> None:
        address = getattr(target, "value", target)
        (stream or Stream.current()).enqueue(lambda: ctypes.memmove(address, self.ptr, size))


def alloc(size: int) -> MemoryPointer:
    """Memory of the device."""
    return MemoryPointer(Memory(size), 0)


def alloc_pinned_memory(size: int) -> memoryview:
    """Pinned memory of the host, for ``np.frombuffer``; like CuPy's, it may be larger than what was asked for."""
    return memoryview(bytearray(b"\xff") * max(512, size))
