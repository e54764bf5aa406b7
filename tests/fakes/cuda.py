"""``cupy.cuda`` without a GPU: memory, streams, graphs and devices, on the memory of the host."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace, TracebackType
from typing import Any

from tests.fakes.memory import (
    BaseMemory,
    Memory,
    MemoryPointer,
    OutOfMemoryError,
    State,
    UnownedMemory,
    alloc,
    alloc_pinned_memory,
)
from tests.fakes.streams import (
    CUDADriverError,
    CUDARuntimeError,
    Event,
    ExternalStream,
    Graph,
    Stream,
    get_current_stream,
    get_elapsed_time,
)

__all__ = [
    "BaseMemory",
    "CUDADriverError",
    "CUDARuntimeError",
    "Device",
    "Event",
    "ExternalStream",
    "Graph",
    "Memory",
    "MemoryPointer",
    "OutOfMemoryError",
    "State",
    "Stream",
    "UnownedMemory",
    "alloc",
    "alloc_pinned_memory",
    "get_current_stream",
    "get_elapsed_time",
]


class Device:
    """The one GPU."""

    def __init__(self, device: int | None = None) -> None:
        self.id = device or 0
        if State.devices <= self.id:
            raise CUDARuntimeError("cudaErrorNoDevice: no CUDA-capable device is detected")

    def __enter__(self) -> Device:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def __int__(self) -> int:
        return self.id

    def use(self) -> Device:
        return self

    def synchronize(self) -> None:
        """Everything is done."""

    @property
    def compute_capability(self) -> str:
        return State.compute_capability

    @property
    def mem_info(self) -> tuple[int, int]:
        return mem_get_info()

    @property
    def attributes(self) -> dict[str, int]:
        return {"MultiProcessorCount": 132, "MaxSharedMemoryPerBlockOptin": 232448, "MaxSharedMemoryPerBlock": 49152}


def mem_get_info() -> tuple[int, int]:
    """Free and total bytes."""
    return State.memory - State.used, State.memory


def get_device_count() -> int:
    if not State.devices:
        raise CUDARuntimeError("cudaErrorNoDevice: no CUDA-capable device is detected")
    return State.devices


def get_device_properties(device: int) -> dict[str, Any]:
    Device(device)
    major, minor = divmod(int(State.compute_capability), 10)
    return {
        "name": b"Fake GPU",
        "major": major,
        "minor": minor,
        "totalGlobalMem": State.memory,
        "multiProcessorCount": 132,
        "sharedMemPerBlock": 49152,
        "sharedMemPerBlockOptin": 232448,
        "l2CacheSize": 50 << 20,
        "maxThreadsPerBlock": 1024,
    }


runtime = SimpleNamespace(
    getDeviceCount=get_device_count,
    getDevice=lambda: 0,
    setDevice=lambda device: None,
    memGetInfo=mem_get_info,
    getDeviceProperties=get_device_properties,
    runtimeGetVersion=lambda: 13000,
    driverGetVersion=lambda: 13000,
    deviceSynchronize=lambda: None,
    CUDARuntimeError=CUDARuntimeError,
    is_hip=False,
    streamCaptureModeGlobal=0,
    streamCaptureModeThreadLocal=1,
    streamCaptureModeRelaxed=2,
)
driver = SimpleNamespace(CUDADriverError=CUDADriverError)
memory = SimpleNamespace(
    OutOfMemoryError=OutOfMemoryError,
    MemoryPointer=MemoryPointer,
    UnownedMemory=UnownedMemory,
    Memory=Memory,
    alloc=alloc,
)
stream = SimpleNamespace(Stream=Stream, ExternalStream=ExternalStream, get_current_stream=get_current_stream)


def is_available() -> bool:
    """Whether there is a device."""
    return State.devices > 0


def malloc_async(size: int) -> MemoryPointer:
    """Memory of the device, stream-ordered."""
    return alloc(size)


def set_allocator(allocator: Callable[[int], MemoryPointer] | None = None) -> None:
    """The allocator stays what it is."""
