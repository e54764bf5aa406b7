"""``cupy.RawModule`` on this CPU, with the limits of a GPU and the calling convention of CUDA."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tests.fakes import cuda, kernel_host
from tests.fakes.array import ndarray
from tests.fakes.cuda import MemoryPointer, State, Stream


class RawKernel:
    """A kernel of a :class:`RawModule`."""

    def __init__(self, kernel: kernel_host.HostKernel) -> None:
        self.name, self._kernel = kernel.name, kernel
        self.max_dynamic_shared_size_bytes = 49152

    def __call__(
        self,
        grid: Sequence[int],
        block: Sequence[int],
        args: Sequence[Any],
        *,
        shared_mem: int = 0,
        stream: Stream | None = None,
    ) -> None:
        grid, block = (*grid, 1, 1)[:3], (*block, 1, 1)[:3]
        if min(*grid, *block) < 1 or grid[0] >= 1 << 31 or max(grid[1:]) > 65535 or np.prod(block) > 1024:
            raise cuda.CUDADriverError(f"CUDA_ERROR_INVALID_VALUE: {self.name}: grid {grid}, block {block}")
        if shared_mem > self.max_dynamic_shared_size_bytes:
            raise cuda.CUDADriverError(f"CUDA_ERROR_INVALID_VALUE: {self.name}: {shared_mem} bytes of shared memory")
        target = stream or Stream.current()
        State.launches.append((self.name, target.ptr))
        values, arrays = self._values(args), [argument for argument in args if isinstance(argument, ndarray)]

        def run() -> None:
            self._kernel(grid, block, shared_mem, values)
            for touched in arrays:
                if isinstance(touched.data.mem, cuda.Memory):
                    touched.data.mem.check()

        target.enqueue(run)

    def _values(self, args: Sequence[Any]) -> list[bytes]:
        sizes = self._kernel.parameters
        if len(args) != len(sizes):
            raise TypeError(f"{self.name} has {len(sizes)} parameters, not {len(args)}")
        values = []
        for place, (argument, size) in enumerate(zip(args, sizes, strict=True)):
            if isinstance(argument, ndarray):
                if not argument.flags.c_contiguous:
                    raise TypeError(f"{self.name}: argument {place} is not contiguous")
                value = np.uint64(argument.data.ptr)
            elif isinstance(argument, MemoryPointer):
                value = np.uint64(argument.ptr)
            elif isinstance(argument, np.generic):
                value = argument
            elif isinstance(argument, bool):
                value = np.bool_(argument)
            elif isinstance(argument, int):
                value = np.int64(argument)
            elif isinstance(argument, float):
                value = np.float64(argument)
            else:
                raise TypeError(f"Unsupported type {type(argument)}")
            if value.nbytes != abs(size) or (isinstance(argument, ndarray | MemoryPointer) and size > 0):
                raise TypeError(f"{self.name}: argument {place} is {type(argument)}, the parameter has {size} bytes")
            values.append(value.tobytes())
        return values


class RawModule:
    """Kernels of one source. Compiled by the C++ compiler of this machine."""

    def __init__(
        self,
        code: str | None = None,
        *,
        path: str | None = None,
        options: tuple[str, ...] = (),
        backend: str = "nvrtc",
        name_expressions: Sequence[str] | None = None,
    ) -> None:
        if (code is None) == (path is None):
            raise TypeError("Exactly one of `code` and `path` keyword arguments must be given.")
        if not isinstance(options, tuple):
            raise TypeError("Argument 'options' has incorrect type (expected tuple)")
        self.code, self.file_path, self.options = code, path, options

    def compile(self, log_stream: Any = None) -> None:
        self._kernels()

    def get_function(self, name: str) -> RawKernel:
        if name not in (kernels := self._kernels()):
            raise cuda.CUDADriverError(f"CUDA_ERROR_NOT_FOUND: named symbol not found: {name}")
        return RawKernel(kernels[name])

    def _kernels(self) -> dict[str, kernel_host.HostKernel]:
        if self.code is None:
            raise cuda.CUDADriverError("CUDA_ERROR_INVALID_SOURCE: this fake runs no machine code of a GPU")
        return kernel_host.compiled(self.code)
