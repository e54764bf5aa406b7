"""``cupy.ndarray`` on the memory of the host, as strict as CuPy's about where its values may go."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tests.fakes import cuda
from tests.fakes.cuda import MemoryPointer, Stream

Shape = int | Sequence[int]

_SCALARS = (bool, int, float, np.generic)
_ARRAY_METHODS = ("sum", "min", "max", "mean", "all", "any", "argmax", "argmin", "clip", "cumsum", "argsort", "round")


class ndarray(np.lib.mixins.NDArrayOperatorsMixin):  # noqa: N801
    """``cupy.ndarray``: not a NumPy array, and no way to become one but ``get()``."""

    def __init__(
        self,
        shape: Shape,
        dtype: Any = float,
        memptr: MemoryPointer | None = None,
        strides: Sequence[int] | None = None,
        order: str = "C",
    ) -> None:
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        item = np.dtype(dtype)
        size = item.itemsize * int(np.prod(shape, dtype=np.int64))
        self.data = cuda.alloc(size) if memptr is None else memptr
        if strides is None and size > self.data.mem.ptr + self.data.mem.size - self.data.ptr:
            raise ValueError("the array is larger than the memory that it shall lie in")
        room = self.data.mem.ptr + self.data.mem.size - self.data.ptr
        raw: Any = (ctypes.c_uint8 * room).from_address(self.data.ptr)
        self._host = np.ndarray(shape, item, raw, strides=strides)

    @classmethod
    def _view(cls, host: np.ndarray[Any, Any], base: ndarray) -> ndarray:
        view = cls.__new__(cls)
        offset = host.__array_interface__["data"][0] - base.data.mem.ptr if host.size else 0
        view._host, view.data = host, MemoryPointer(base.data.mem, offset)
        return view

    def _wrap(self, result: np.ndarray[Any, Any]) -> ndarray:
        return ndarray._view(result, self) if np.may_share_memory(result, self._host) else asarray(result)

    shape = property(lambda self: self._host.shape)
    dtype = property(lambda self: self._host.dtype)
    strides = property(lambda self: self._host.strides)
    ndim = property(lambda self: self._host.ndim)
    size = property(lambda self: self._host.size)
    nbytes = property(lambda self: self._host.nbytes)
    itemsize = property(lambda self: self._host.itemsize)
    flags = property(lambda self: self._host.flags)
    T = property(lambda self: self._wrap(self._host.T))
    device = property(lambda self: cuda.Device(0))

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        strides = None if self.flags.c_contiguous else self.strides
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.data.ptr, False),
            "version": 3,
            "strides": strides,
            "stream": 1,
        }

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()` explicitly.")

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        outputs = options.pop("out", ())
        if outputs:
            options["out"] = tuple(host_value(output) for output in outputs)
        Stream.current().forbid_capture("arithmetic of this fake")
        result = getattr(ufunc, method)(*(host_value(value) for value in inputs), **options)
        return outputs[0] if outputs else asarray(result)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        raise TypeError(f"numpy.{func.__name__} of a device array: call cupy.{func.__name__}")

    def __len__(self) -> int:
        return len(self._host)

    def __iter__(self) -> Iterator[ndarray]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: Any) -> ndarray:
        result = self._host[host_index(index)]
        if isinstance(result, np.generic):  # an element: still a view of the device
            positions = tuple(np.atleast_1d(i) for i in (index if isinstance(index, tuple) else (index,)))
            result = self._host[tuple(slice(int(i[0]), int(i[0]) + 1 or None) for i in positions)].reshape(())
        return self._wrap(result)

    def __setitem__(self, index: Any, value: Any) -> None:
        if isinstance(value, np.ndarray) and value.ndim:
            raise TypeError("Unsupported type <class 'numpy.ndarray'>: host arrays come in by .set() or cupy.asarray")
        Stream.current().enqueue(lambda: self._host.__setitem__(host_index(index), host_value(value)))

    def get(
        self, stream: Stream | None = None, order: str = "C", out: Any = None, blocking: bool = True
    ) -> np.ndarray[Any, Any]:
        """A copy on the host."""
        target = stream or Stream.current()
        if blocking:
            target.forbid_capture("a copy that is waited for")
        result = np.empty(self.shape, self.dtype) if out is None else out
        if result.dtype != self.dtype or result.shape != self.shape:
            raise ValueError(f"out is {result.dtype}{result.shape}, the array {self.dtype}{self.shape}")
        target.enqueue(lambda: np.copyto(result, self._host))
        if blocking:
            target.synchronize()
        return result

    def set(self, arr: np.ndarray[Any, Any], stream: Stream | None = None) -> None:
        """Copy from the host. Like CuPy's it converts no type."""
        if not isinstance(arr, np.ndarray):
            raise TypeError("Only numpy.ndarray can be set to cupy.ndarray")
        if arr.dtype != self.dtype or arr.shape != self.shape:
            raise ValueError(f"set() of {arr.dtype}{arr.shape} into {self.dtype}{self.shape}")
        staged = arr.copy()  # CUDA stages what lies in pageable memory before it returns
        (stream or Stream.current()).enqueue(lambda: np.copyto(self._host, staged))

    def item(self) -> Any:
        return self.get().item()

    def tolist(self) -> Any:
        return self.get().tolist()

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __bool__(self) -> bool:
        return bool(self.item())

    def __index__(self) -> int:
        return int(self._host.__index__())

    def fill(self, value: Any) -> None:
        Stream.current().enqueue(lambda: self._host.fill(host_value(value)))

    def astype(self, dtype: Any, order: str = "K", copy: bool = True) -> ndarray:
        return self if not copy and self.dtype == np.dtype(dtype) else asarray(self._host.astype(dtype))

    def copy(self, order: str = "C") -> ndarray:
        return asarray(self._host.copy())

    def view(self, dtype: Any = None) -> ndarray:
        return self._wrap(self._host if dtype is None else self._host.view(dtype))

    def reshape(self, *shape: Any) -> ndarray:
        return self._wrap(self._host.reshape(*shape))

    def ravel(self, order: str = "C") -> ndarray:
        return self._wrap(self._host.ravel())

    def transpose(self, *axes: Any) -> ndarray:
        return self._wrap(self._host.transpose(*axes))

    def squeeze(self, axis: Any = None) -> ndarray:
        return self._wrap(self._host.squeeze(axis))

    def take(self, indices: Any, axis: int | None = None, out: ndarray | None = None) -> ndarray:
        return take(self, indices, axis, out)

    def __getattr__(self, name: str) -> Any:
        if name not in _ARRAY_METHODS:
            raise AttributeError(f"'cupy.ndarray' object has no attribute {name!r}")
        Stream.current().forbid_capture("arithmetic of this fake")
        return lambda *args, **options: asarray(getattr(self._host, name)(*map(host_value, args), **options))


def host_value(value: Any) -> Any:
    """What NumPy computes with in place of an operand.

    Raises:
        TypeError: CuPy computes with no such thing.
    """
    if isinstance(value, ndarray):
        return value._host
    if isinstance(value, _SCALARS) or value is None or (isinstance(value, np.ndarray) and value.ndim == 0):
        return value
    raise TypeError(f"Unsupported type {type(value)}")


def host_index(index: Any) -> Any:
    """What NumPy indexes with in place of an index."""
    if isinstance(index, tuple):
        return tuple(host_index(part) for part in index)
    return index._host if isinstance(index, ndarray) else index


def array(obj: Any, dtype: Any = None, copy: bool = True) -> ndarray:
    """A device array of a host array, a sequence or a scalar."""
    if isinstance(obj, ndarray):
        return obj.astype(dtype or obj.dtype, copy=copy)
    host = np.asarray(obj, dtype)
    if host.dtype.kind not in "biufc":
        raise ValueError(f"Unsupported dtype {host.dtype}")
    result = ndarray(host.shape, host.dtype)
    Stream.current().forbid_capture("a copy from pageable memory")
    staged = host.copy()
    Stream.current().enqueue(lambda: np.copyto(result._host, staged))
    return result


def asarray(a: Any, dtype: Any = None, order: str | None = None, blocking: bool = False) -> ndarray:
    return array(a, dtype, copy=False)


def ascontiguousarray(a: Any, dtype: Any = None) -> ndarray:
    result = array(a, dtype, copy=False)
    return result if result.flags.c_contiguous else asarray(np.ascontiguousarray(result._host))


def take(a: ndarray, indices: Any, axis: int | None = None, out: ndarray | None = None) -> ndarray:
    host = a._host.take(host_index(indices), axis=axis)
    if out is None:
        return asarray(host)
    out._host[...] = host
    return out
