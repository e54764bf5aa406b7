"""The kernels on a GPU: CUDA C (``cuda/*.cu``) launched through CuPy on the stream of an engine.

Only CuPy's arrays, streams and launches are used, none of its own kernels: those would want CUDA's headers.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from sightline.errors import EngineError, MissingPackageError
from sightline.kernels import build, tiling
from sightline.kernels.operands import (
    TABLES,
    address,
    bfloat16,
    contiguous,
    doubles,
    floats,
    input_element,
    output_element,
    typed,
)
from sightline.kernels.protocol import Array, Doubles, Floats, Indices, Layout, Size, Window
from sightline.kernels.sampling import BINS, threshold

_THREADS = 256
_SUMS = 128


@lru_cache(maxsize=8)
def _module(cupy: Any, device: int) -> Any:
    return build.load(cupy)


class GpuKernels:
    """The :class:`~sightline.kernels.protocol.Kernels` on CuPy arrays.

    Work is enqueued on one stream; memory is allocated in the order of that stream. Arrays must be contiguous.
    """

    def __init__(self, stream: Any = None) -> None:
        """Load the kernels, compiling them where that has not been done yet.

        Args:
            stream: the ``cupy.cuda.Stream`` of the engine whose buffers are filled; by default a stream of its own.

        Raises:
            MissingPackageError: CuPy is not installed.
            EngineError: the kernels can neither be compiled nor loaded here.
        """
        try:
            self._cupy = cupy = importlib.import_module("cupy")
        except ImportError as error:
            raise MissingPackageError("cupy-cuda13x", purpose="explaining on a GPU", extra="gpu") from error
        self._stream = cupy.cuda.Stream(non_blocking=True) if stream is None else stream
        device = cupy.cuda.Device()
        self._functions = lru_cache(maxsize=None)(_module(cupy, device.id).get_function)
        self._processors = int(device.attributes["MultiProcessorCount"])
        self._table = lru_cache(maxsize=256)(self._uploaded_table)
        self._ones = lru_cache(maxsize=8)(lambda shape: self.to_device(np.ones(shape, np.float32)))

    def to_device(self, array: npt.NDArray[Any]) -> Array:
        """A copy of a host array on the device."""
        with self._stream:
            return self._cupy.asarray(array, order="C")  # type: ignore[no-any-return]

    def to_host(self, array: Array) -> npt.NDArray[Any]:
        """A copy of a device array on the host; waits for the work that fills it."""
        host: npt.NDArray[Any] = array.get(stream=self._stream)  # type: ignore[attr-defined]
        return host

    def fetch(self, array: Array) -> Callable[[], npt.NDArray[Any]]:
        """Begin to copy an array to the host; what is returned waits for the copy alone, not for what comes behind."""
        if not array.size:
            return lambda: np.empty(array.shape, array.dtype)
        # Pinned: to any other memory the copy would make the host wait at once.
        memory = self._cupy.cuda.alloc_pinned_memory(array.nbytes)
        host = np.frombuffer(memory, array.dtype, array.size).reshape(array.shape)
        array.get(stream=self._stream, out=host, blocking=False)  # type: ignore[attr-defined]
        copied = self._stream.record()

        def wait() -> npt.NDArray[Any]:
            copied.synchronize()
            return host

        return wait

    def write(self, out: Array, value: npt.NDArray[Any] | float) -> None:
        """Copy a host array or one number into a device array, converted to its type (uint16: to bfloat16's bits)."""
        contiguous(out)
        if not out.size:
            return
        if np.ndim(value) == 0 and value == 0:
            out.data.memset_async(0, out.nbytes, self._stream)  # type: ignore[attr-defined]
            return
        host = np.empty(out.shape, out.dtype)
        host[...] = bfloat16(value) if out.dtype == np.uint16 else value
        out.set(host, stream=self._stream)  # type: ignore[attr-defined]

    def zeros(self, *shape: int) -> Doubles:
        """Zeros in float64."""
        with self._stream:
            return self._cupy.zeros(shape, np.float64)  # type: ignore[no-any-return]

    def take(self, maps: Floats, indices: Indices) -> Floats:
        """A copy of the maps with these numbers: C×h×w and K numbers, on the host -> K×h×w."""
        numbers = np.flatnonzero(indices) if indices.dtype == np.bool_ else np.asarray(indices, np.int64)
        size = maps.shape[1] * maps.shape[2]
        out = self._empty((len(numbers), *maps.shape[1:]), np.float32)
        if out.size:
            numbers = np.where(numbers < 0, numbers + len(maps), numbers)
            self._each("take", out.size, out, floats(maps), self.to_device(numbers), np.int64(size))
        return out

    def extrema(self, maps: Floats, size: Size) -> tuple[Floats, Floats]:
        """Minimum and maximum of every upsampled map: K×h×w -> K, K."""
        count, height, width = maps.shape
        minima, maxima = self._empty(count, np.float32), self._empty(count, np.float32)
        if count:
            y, x = self._table("corners", height, size[0]), self._table("corners", width, size[1])
            sizes = map(np.int32, (len(y), len(x), height, width))
            self._launch(
                "extrema", (count,), (_THREADS,), minima, maxima, floats(maps), y, x, *sizes, shared=8 * _THREADS
            )
        return minima, maxima

    def totals(self, maps: Floats, size: Size) -> Doubles:
        """The sum of every upsampled map: K×h×w -> K."""
        count, height, width = maps.shape
        out = self._empty(count, np.float64)
        if count:
            y, x = self._table("shares", height, size[0]), self._table("shares", width, size[1])
            sizes = np.int32(height), np.int32(width)
            self._launch("totals", (count,), (_THREADS,), out, floats(maps), y, x, *sizes, shared=8 * _THREADS)
        return out

    def mask_into(
        self,
        out: Array,
        image: Floats | None,
        maps: Floats,
        affine: Floats,
        layout: Layout = "NCHW",
        window: Window | None = None,
    ) -> None:
        """Write image ⊙ (scale_k·up(A_k) + shift_k) into ``out``: K×C×H×W, or K×H×W×C where ``layout`` is NHWC.

        Raises:
            EngineError: ``out`` has a type that the kernels do not write, or an array is not contiguous.
        """
        count, map_height, map_width = maps.shape
        if not count:
            return
        if image is None:
            image = self._ones(out.shape[1:])
        channels, height, width = image.shape if layout == "NCHW" else (1, image.shape[0], image.shape[1])
        # Channels last is one channel whose samples along x repeat, a pixel's channels being neighbours in its row.
        repeat = 1 if layout == "NCHW" else image.shape[2]
        element = output_element(out, (count, *image.shape))
        kind, source = ("mirrored", window.size) if window else ("samples", (height, width))
        plan = tiling.plan(
            count,
            height,
            width * repeat,
            map_width,
            out.itemsize,
            aligned=not (address(out) % 16 or address(image) % 16),
            processors=self._processors,
        )
        arrays = (
            contiguous(out),
            floats(image),
            floats(maps),
            floats(affine),
            self._table(kind, map_height, source[0]),
            self._table(kind, map_width, source[1], repeat),
            typed(window.offsets, np.int32) if window else np.uint64(0),
            np.int32(repeat),
        )
        shape = tuple(map(np.int32, (channels, height, width * repeat, map_height, map_width)))
        if plan is None:
            self._each(f"mask_wide_{element}", out.size, *arrays, *shape)
            return
        unrolled = 1 if channels == 1 else 3
        self._launch(
            f"mask_{element}_{unrolled}",
            (plan.tiles * -(-height // plan.rows), plan.groups, -(-channels // unrolled)),
            (plan.lanes, plan.rows),
            *arrays,
            np.int32(count),
            *shape,
            *map(np.int32, (plan.groups, plan.tiles, plan.vectors)),
            shared=plan.shared,
        )

    def pick(self, out: Doubles, probabilities: Array, target: int) -> None:
        """The scores of one class: out[i] = probabilities[i, target], N×K -> N.

        Raises:
            EngineError: the probabilities have a type that the kernels do not read, or the shapes do not fit.
        """
        rows, classes = probabilities.shape
        element = input_element(probabilities, out, target)
        if rows:
            sizes = np.int32(target), np.int32(classes), np.int32(rows)
            grid = (-(-rows // _THREADS),)
            self._launch(f"pick_{element}", grid, (_THREADS,), doubles(out), contiguous(probabilities), *sizes)

    def aggregate(self, maps: Floats, weights: Doubles) -> Doubles:
        """Σ_k weights_k·A_k: K×h×w and K -> h×w, in float64."""
        count, height, width = maps.shape
        size = height * width
        if not count:
            return self.zeros(height, width)
        parts = tiling.parts(count, size)
        partial = self._empty((parts, height, width), np.float64)
        numbers = np.int32(count), np.int64(size)
        self._launch(
            "aggregate", (-(-size // _SUMS), parts), (_SUMS,), partial, floats(maps), doubles(weights), *numbers
        )
        return self._gathered(partial)

    def accumulate(self, maps: Floats, weights: Doubles, size: Size, window: Window) -> Doubles:
        """Σ_k weights_k·(the window of up(A_k)): K×h×w and K -> H×W, in float64."""
        count, map_height, map_width = maps.shape
        height, width = size
        if not count:
            return self.zeros(*size)
        parts = tiling.parts(count, height * width)
        partial = self._empty((parts, height, width), np.float64)
        tiles = -(-width // _SUMS)
        self._launch(
            "accumulate",
            (tiles * height, parts),
            (_SUMS,),
            partial,
            floats(maps),
            doubles(weights),
            self._table("mirrored", map_height, window.size[0]),
            self._table("mirrored", map_width, window.size[1]),
            typed(window.offsets, np.int32),
            *map(np.int32, (count, height, width, map_height, map_width, tiles)),
        )
        return self._gathered(partial)

    def upsample(self, map: Array, size: Size) -> Array:
        """``up``: h×w -> H×W, in the precision of the map, float32 or float64."""
        height, width = map.shape
        name = map.dtype.name
        if name not in ("float32", "float64"):
            raise EngineError(f"a map in {name} cannot be upsampled: give float32 or float64.")
        out = self._empty(size, map.dtype)
        if out.size:
            axes = [
                self._table(kind, source, target)
                for kind in ("samples", name)
                for source, target in zip(map.shape, size, strict=True)
            ]
            numbers = np.int32(height), np.int32(width), np.int32(size[1])
            self._each(f"upsample_{name}", out.size, out, contiguous(map), *axes, *numbers)
        return out

    def spread(self, map: Doubles) -> tuple[float, float]:
        """Minimum and maximum of a map. Waits for it."""
        result = self._empty(2, np.float64)
        block = 1024
        self._launch("spread", (1,), (block,), result, doubles(map), np.int64(map.size), shared=16 * block)
        low, high = self.to_host(result).tolist()
        return low, high

    def rescale(self, map: Doubles, low: float, high: float) -> Doubles:
        """(map − low) / (high − low), clipped to [0, 1]."""
        out = self._empty(map.shape, np.float64)
        self._each("rescale", out.size, out, doubles(map), np.float64(low), np.float64(high))
        return out

    def otsu(self, map: Array) -> float | None:
        """Otsu's threshold t of values in [0, 1], the upper class being v >= t; None where they cannot be split.

        The device counts, the host decides: the same whole numbers as on a CPU, and the same threshold. Waits for it.
        """
        if not map.size:
            return None
        with self._stream:
            counts = self._cupy.zeros(BINS, np.uint64)
        blocks = min(self._processors, -(-map.size // (4 * _THREADS)))
        numbers = np.int64(map.size)
        self._launch("histogram", (blocks,), (BINS,), counts, doubles(map), numbers, shared=4 * BINS)
        return threshold(self.to_host(counts).astype(np.int64))

    def fuse(self, fused: Doubles, layer: Doubles, threshold: float, width: float = 0.0) -> Doubles:
        """(fused + layer) ⊙ [layer >= threshold], or ⊙ σ((layer − threshold) / width): H×W."""
        out = self._empty(layer.shape, np.float64)
        self._each("fuse", out.size, out, doubles(fused), doubles(layer), np.float64(threshold), np.float64(width))
        return out

    def _gathered(self, partial: Doubles) -> Doubles:
        parts, *shape = partial.shape
        if parts == 1:
            return partial.reshape(shape)
        out = self._empty(tuple(shape), np.float64)
        numbers = np.int32(parts), np.int64(out.size)
        self._launch("gathered", (-(-out.size // _SUMS),), (_SUMS,), out, partial, *numbers)
        return out

    def _each(self, name: str, total: int, *arguments: Any) -> None:
        """Launch a kernel with a thread for every one of ``total`` values."""
        if total:
            self._launch(name, (-(-total // _THREADS),), (_THREADS,), *arguments, np.int64(total))

    def _launch(
        self, name: str, grid: tuple[int, ...], block: tuple[int, ...], *arguments: Any, shared: int = 0
    ) -> None:
        with self._stream:
            self._functions(name)(grid, block, arguments, shared_mem=shared)

    def _empty(self, shape: int | tuple[int, ...], dtype: npt.DTypeLike) -> Array:
        with self._stream:
            array: Array = self._cupy.empty(shape, dtype)
        return array

    def _uploaded_table(self, kind: str, source: int, size: int, repeat: int = 1) -> Any:
        return self.to_device(TABLES[kind](source, size).repeat(repeat))
