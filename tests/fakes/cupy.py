"""A ``cupy`` for machines without a GPU: device arrays in the memory of the host, kernels that run on the CPU.

Production code imports ``cupy`` and does not notice; call :func:`install`. What CuPy
refuses is refused here too: a device array never becomes a NumPy array by itself, host arrays are no arguments of a
kernel or of arithmetic, an index gives a 0-d device array, new memory is not initialised (NaN here), a kernel gets
raw pointers. Stricter than CuPy: a kernel's scalars must have the size of its parameters, its arrays must be
contiguous, and a write outside of an allocation raises.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from tests.fakes import cuda, kernel_host
from tests.fakes.array import Shape, array, asarray, ascontiguousarray, host_value, ndarray, take
from tests.fakes.cuda import State, Stream
from tests.fakes.raw import RawKernel, RawModule

__all__ = ["RawKernel", "RawModule", "array", "asarray", "ascontiguousarray", "cuda", "install", "ndarray", "take"]

__version__ = "14.2.0"

float16, float32, float64 = np.float16, np.float32, np.float64
int8, int16, int32, int64, intp = np.int8, np.int16, np.int32, np.int64, np.intp
uint8, uint16, uint32, uint64 = np.uint8, np.uint16, np.uint32, np.uint64
bool_, newaxis, inf, nan = np.bool_, None, np.inf, np.nan


def empty(shape: Shape, dtype: Any = float, order: str = "C") -> ndarray:
    """Not initialised: NaN bytes."""
    return ndarray(shape, dtype)


def full(shape: Shape, fill_value: Any, dtype: Any = None) -> ndarray:
    array = ndarray(shape, np.asarray(host_value(fill_value)).dtype if dtype is None else dtype)
    array.fill(fill_value)
    return array


def zeros(shape: Shape, dtype: Any = float, order: str = "C") -> ndarray:
    return full(shape, 0, dtype)


def ones(shape: Shape, dtype: Any = float, order: str = "C") -> ndarray:
    return full(shape, 1, dtype)


def empty_like(a: ndarray, dtype: Any = None) -> ndarray:
    return empty(a.shape, dtype or a.dtype)


def zeros_like(a: ndarray, dtype: Any = None) -> ndarray:
    return zeros(a.shape, dtype or a.dtype)


def asnumpy(a: Any, stream: Stream | None = None, out: Any = None, blocking: bool = True) -> np.ndarray[Any, Any]:
    return a.get(stream=stream, out=out, blocking=blocking) if isinstance(a, ndarray) else np.asarray(a)


def copyto(dst: ndarray, src: Any) -> None:
    Stream.current().enqueue(lambda: np.copyto(dst._host, host_value(src)))


def shares_memory(a: ndarray, b: ndarray) -> bool:
    return bool(np.shares_memory(a._host, b._host))


_SAME_AS_NUMPY = frozenset(
    """abs add all any arange argmax argsort atleast_1d broadcast_to clip concatenate cumsum divide equal exp
    expand_dims flatnonzero isfinite linspace log matmul max maximum mean min minimum moveaxis multiply negative nonzero
    outer pad prod repeat sqrt square stack subtract sum swapaxes tile transpose where""".split()  # noqa: SIM905
)


def __getattr__(name: str) -> Any:
    if name not in _SAME_AS_NUMPY:
        raise AttributeError(f"module 'cupy' has no attribute {name!r} (or this fake does not have it yet)")

    def function(*args: Any, **options: Any) -> Any:
        Stream.current().forbid_capture("arithmetic of this fake")
        plain = [
            [host_value(x) for x in a] if isinstance(a, list | tuple) and name != "transpose" else host_value(a)
            for a in args
        ]
        output = options.pop("out", None)
        result = getattr(np, name)(*plain, **options)
        if output is not None:
            output._host[...] = result
            return output
        return tuple(asarray(r) for r in result) if isinstance(result, tuple) else asarray(result)

    return function


def get_default_memory_pool() -> Any:
    class Pool:
        used_bytes = total_bytes = staticmethod(lambda: State.used)
        free_all_blocks = staticmethod(lambda: None)

    return Pool()


def install(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Make ``import cupy`` give this module until the test ends. Skips where kernels cannot be compiled for the CPU."""
    if kernel_host.compiler() is None:
        pytest.skip("no C++ compiler (g++ or c++): the CUDA kernels cannot be run on the CPU")
    State.reset()
    module = sys.modules[__name__]
    for name, part in {
        "cupy": module,
        "cupy.cuda": cuda,
        "cupy.cuda.runtime": cuda.runtime,
        "cupy.cuda.memory": cuda.memory,
        "cupy.cuda.stream": cuda.stream,
        "cupy.cuda.driver": cuda.driver,
    }.items():
        monkeypatch.setitem(sys.modules, name, part)
    for name in [name for name in sys.modules if name.split(".")[0] == "cupyx"]:  # the real one needs the real CuPy
        monkeypatch.delitem(sys.modules, name)
    return module
