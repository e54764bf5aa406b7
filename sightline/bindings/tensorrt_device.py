"""The GPU that TensorRT, PyCUDA and CuPy share: one device, one context.

CUDA gives each device a *primary context*. CuPy and TensorRT work in it by themselves. PyCUDA does so only if told: its
``autoinit`` makes a context of its own, in which the pointers of the other two mean nothing, and its
``autoprimaryctx`` takes the primary context of a device that CuPy does not know of (``CUDA_DEVICE``,
``~/.cuda_device``) and leaves it on the stack of one thread. So PyCUDA retains the primary context of CuPy's device
here, and every use of it pushes that context onto the stack of the thread it is in and pops it again.
"""

from __future__ import annotations

import atexit
import functools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from sightline.errors import EngineError, MissingPackageError


@dataclass(frozen=True, eq=False)
class Gpu:
    """A GPU and its primary context, which outlives everything that is made in it."""

    index: int
    """The number of the device, the same for CUDA's driver and runtime."""
    name: str
    compute_capability: tuple[int, int]
    memory: int
    """Bytes of the device."""
    driver: Any
    """``pycuda.driver``."""
    cupy: Any
    context: Any
    """``pycuda.driver.Context``."""

    @contextmanager
    def current(self) -> Iterator[None]:
        """Let this thread work on this GPU, with PyCUDA as well: it frees nothing in a thread without its context."""
        self.context.push()
        try:
            yield
        finally:
            self.context.pop()


def current_gpu() -> Gpu:
    """The GPU that CuPy works on in this thread.

    Raises:
        MissingPackageError: PyCUDA or CuPy is not installed.
        EngineError: there is no GPU, or PyCUDA works in a context of its own.
    """
    try:
        import cupy
        from pycuda import driver
    except ModuleNotFoundError as error:
        raise MissingPackageError(str(error.name), purpose="the engine 'tensorrt'", extra="tensorrt") from error
    except ImportError as error:  # PyCUDA links to the driver's library, which machines without a GPU lack
        raise EngineError(
            f"PyCUDA or CuPy is installed but does not load ({error}): install the NVIDIA driver, or take another "
            "engine (sightline doctor lists them)."
        ) from error
    if "pycuda.autoinit" in sys.modules:
        raise EngineError(
            "this process imported pycuda.autoinit, which works in a context of its own where the engine's buffers do "
            "not exist: import pycuda.autoprimaryctx instead."
        )
    try:
        driver.init()
        return _gpu(cupy.cuda.runtime.getDevice(), driver, cupy)
    except (driver.Error, cupy.cuda.runtime.CUDARuntimeError) as error:
        raise EngineError(
            f"the engine 'tensorrt' finds no GPU it can use ({error}): look at nvidia-smi and CUDA_VISIBLE_DEVICES, "
            "or take another engine (sightline doctor lists them)."
        ) from error


@functools.cache
def _gpu(index: int, driver: ModuleType, cupy: ModuleType) -> Gpu:
    device = driver.Device(index)
    return Gpu(
        index=index,
        name=device.name(),
        compute_capability=tuple(device.compute_capability()),
        memory=device.total_memory(),
        driver=driver,
        cupy=cupy,
        context=device.retain_primary_context(),
    )


atexit.register(_gpu.cache_clear)  # while the CUDA driver still runs: it is gone when modules are torn down
