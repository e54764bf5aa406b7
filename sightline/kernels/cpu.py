"""The kernels in NumPy.

``up`` is separable and every sample reads two source pixels per axis: two gathers and a blend along x at low height,
then the same along y. On a CPU this beats the product with interpolation matrices (measured: 25–55 µs a mask at 224²
against 60–210 µs), and it keeps BLAS out of the hot loop: BLAS threads and an engine's spinning threads fight for the
same cores and stall each other by tens of milliseconds. No BLAS also means the same bytes whatever the thread count.

Everything works through the maps in chunks that stay in the cache; memory does not grow with the number of maps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from sightline.kernels.protocol import Doubles, Floats, Indices, Layout, Size, Window
from sightline.kernels.sampling import BINS, Samples, patch_corners, patch_weights, samples, shares, threshold

_CHUNK_BYTES = 1 << 19
"""What the upsampled maps of one chunk may take; beyond about 1 MB the temporaries leave the second-level cache."""

Float = TypeVar("Float", bound=np.floating[Any])


class CpuKernels:
    """The :class:`~sightline.kernels.protocol.Kernels` on NumPy arrays. Holds no state."""

    def to_device(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The array itself."""
        return array

    def to_host(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The array itself."""
        return array

    def fetch(self, array: npt.NDArray[Any]) -> Callable[[], npt.NDArray[Any]]:
        """The array itself."""
        return lambda: array

    def write(self, out: npt.NDArray[Any], value: npt.NDArray[Any] | float) -> None:
        """Copy an array or one number into an array, converted to its type."""
        out[...] = value

    def zeros(self, *shape: int) -> Doubles:
        """Zeros in float64."""
        return np.zeros(shape)

    def take(self, maps: Floats, indices: Indices) -> Floats:
        """A copy of the maps with these numbers: C×h×w and K numbers -> K×h×w."""
        return maps[indices]

    def extrema(self, maps: Floats, size: Size) -> tuple[Floats, Floats]:
        """Minimum and maximum of every upsampled map: K×h×w -> K, K."""
        # Between two source pixels a bilinear patch takes its extrema at its corners, so of every patch only the
        # outermost samples are looked at: the result is that of all H×W pixels, at a fraction of the work.
        y = patch_corners(maps.shape[1], size[0])
        x = patch_corners(maps.shape[2], size[1])
        minima = np.empty(len(maps), np.float32)
        maxima = np.empty(len(maps), np.float32)
        for part in _chunks(len(maps), 4 * len(y.weight) * len(x.weight)):
            values = _blend(maps[part], y, x)
            values.min(axis=(1, 2), out=minima[part])
            values.max(axis=(1, 2), out=maxima[part])
        return minima, maxima

    def totals(self, maps: Floats, size: Size) -> Doubles:
        """The sum of every upsampled map: K×h×w -> K. Nothing is upsampled: 1ᵀ·W_y·A·W_xᵀ·1."""
        counted = np.outer(shares(maps.shape[1], size[0]), shares(maps.shape[2], size[1]))
        totals = np.empty(len(maps))
        for part in _chunks(len(maps), 8 * counted.size):
            totals[part] = (maps[part] * counted).sum(axis=(1, 2))
        return totals

    def mask_into(
        self,
        out: npt.NDArray[Any],
        image: Floats | None,
        maps: Floats,
        affine: Floats,
        layout: Layout = "NCHW",
        window: Window | None = None,
    ) -> None:
        """Write image ⊙ (scale_k·up(A_k) + shift_k) into ``out``: K×C×H×W, or K×H×W×C where ``layout`` is NHWC."""
        if layout == "NHWC":
            out = np.moveaxis(out, 3, 1)
        size = out.shape[2:]
        # The two weights of a sample sum to one, so scale and shift may be applied before upsampling, where the maps
        # are small.
        scaled = maps * affine[:, 0, None, None] + affine[:, 1, None, None]
        if image is None:
            for _ in _upsampled(scaled, size, window, out[:, 0]):
                """Written where it belongs."""
            return
        if layout == "NHWC":
            image = np.moveaxis(image, 2, 0)
        for part, masks in _upsampled(scaled, size, window):
            np.multiply(masks[:, None], image, out=out[part])

    def pick(self, out: Doubles, probabilities: npt.NDArray[Any], target: int) -> None:
        """The scores of one class: out[i] = probabilities[i, target], N×K -> N."""
        out[:] = probabilities[:, target]

    def aggregate(self, maps: Floats, weights: Doubles) -> Doubles:
        """Σ_k weights_k·A_k: K×h×w and K -> h×w, in float64."""
        total = np.zeros(maps.shape[1:])
        for part in _chunks(len(maps), 8 * total.size):
            total += (maps[part] * weights[part, None, None]).sum(axis=0)
        return total

    def accumulate(self, maps: Floats, weights: Doubles, size: Size, window: Window) -> Doubles:
        """Σ_k weights_k·(the window of up(A_k)): K×h×w and K -> H×W, in float64."""
        # ``up`` is linear, so masks whose windows begin in the same place are added before they are upsampled; then
        # those whose windows begin in the same row, along x alone. The work hardly depends on K.
        y, x = samples(maps.shape[1], window.size[0], True), samples(maps.shape[2], window.size[1], True)
        tops, row = np.unique(window.offsets[:, 0], return_inverse=True)
        lefts, column = np.unique(window.offsets[:, 1], return_inverse=True)
        sums = np.zeros((len(lefts), len(tops), *maps.shape[1:]))
        np.add.at(sums, (column, row), maps * weights[:, None, None])
        strips = np.zeros((len(tops), maps.shape[1], size[1]))
        for left, maps_of_rows in zip(lefts.tolist(), sums, strict=True):
            strips += _along(maps_of_rows, x.cut(left, size[1]))
        total = np.zeros(size)
        for top, strip in zip(tops.tolist(), strips, strict=True):
            total += _across(strip, y.cut(top, size[0]))
        return total

    def upsample(self, map: npt.NDArray[Float], size: Size) -> npt.NDArray[Float]:
        """``up``: h×w -> H×W, in the precision of the map."""
        return _blend(map, samples(map.shape[0], size[0]), samples(map.shape[1], size[1]))

    def spread(self, map: Doubles) -> tuple[float, float]:
        """Minimum and maximum of a map."""
        return float(map.min()), float(map.max())

    def rescale(self, map: Doubles, low: float, high: float) -> Doubles:
        """(map − low) / (high − low), clipped to [0, 1]."""
        return np.clip((map - low) / (high - low), 0.0, 1.0)

    def fuse(self, fused: Doubles, layer: Doubles, threshold: float, width: float = 0.0) -> Doubles:
        """(fused + layer) ⊙ [layer >= threshold], or ⊙ σ((layer − threshold) / width): H×W."""
        gate = np.exp(-np.logaddexp(0, (threshold - layer) / width)) if width > 0 else layer >= threshold
        return np.asarray((fused + layer) * gate)

    def otsu(self, map: npt.NDArray[np.floating[Any]]) -> float | None:
        """Otsu's threshold t of values in [0, 1], the upper class being v >= t; None where they cannot be split."""
        bins = np.clip((map.ravel() * BINS).astype(np.intp), 0, BINS - 1)
        return threshold(np.bincount(bins, minlength=BINS))


def _upsampled(
    maps: Floats, size: Size, window: Window | None, out: Floats | None = None
) -> Iterator[tuple[slice, Floats]]:
    """The upsampled maps, or their windows, in chunks that stay in the cache: where they stand, and k×H×W values.

    They are written into ``out``, K×H×W; without it, the next chunk may overwrite the values.
    """
    if window is not None:
        y, x = samples(maps.shape[1], window.size[0], True), samples(maps.shape[2], window.size[1], True)
        for k, (top, left) in enumerate(window.offsets.tolist()):
            part = slice(k, k + 1)
            yield part, _placed(_blend(maps[part], y.cut(top, size[0]), x.cut(left, size[1])), part, out)
        return
    x, between = samples(maps.shape[2], size[1]), patch_weights(maps.shape[1], size[0])
    chunks = list(_chunks(len(maps), 4 * size[0] * size[1]))
    if between is None:
        y = samples(maps.shape[1], size[0])
        for part in chunks:
            yield part, _placed(_blend(maps[part], y, x), part, out)
    elif chunks:
        yield from _spread(_along(maps, x), between, size[0], chunks, out)


def _placed(values: Floats, part: slice, out: Floats | None) -> Floats:
    if out is None:
        return values
    out[part] = values
    return out[part]


def _along(maps: npt.NDArray[Float], x: Samples) -> npt.NDArray[Float]:
    """Samples along x alone: ...×h×w -> ...×h×W."""
    rows = maps.take(x.first, axis=-1)
    step = maps.take(x.second, axis=-1)
    step -= rows
    step *= x.weight.astype(maps.dtype, copy=False)
    rows += step
    return rows


def _blend(maps: npt.NDArray[Float], y: Samples, x: Samples) -> npt.NDArray[Float]:
    """Bilinear samples of ...×h×w maps. A flat map stays exactly flat: a + (b − a)·weight."""
    return _across(_along(maps, x), y)


def _across(rows: npt.NDArray[Float], y: Samples) -> npt.NDArray[Float]:
    """Samples along y alone: ...×h×W -> ...×H×W."""
    values = rows.take(y.first, axis=-2)
    step = rows.take(y.second, axis=-2)
    step -= values
    step *= y.weight.astype(rows.dtype, copy=False)[:, None]
    values += step
    return values


def _spread(
    rows: Floats, weights: Floats, height: int, chunks: Sequence[slice], out: Floats | None
) -> Iterator[tuple[slice, Floats]]:
    """Samples along y alone, K×h×W -> k×H×W for every chunk, where the weights repeat: in ``out``, if there is one.

    No gather, no temporary of full size, and one array for all chunks: behind an engine's pass the caches are cold, and
    every call and every fresh page of memory counts.
    """
    count, source, width = rows.shape
    step = len(weights)
    first, last = step // 2, step // 2 + (source - 1) * step
    steps, upper = (rows[:, 1:] - rows[:, :-1])[:, :, None], rows[:, :-1, None]
    values = np.empty((min(count, chunks[0].stop), height, width), rows.dtype) if out is None else out
    for part in chunks:
        masks = values[: part.stop - part.start] if out is None else values[part]
        masks[:, :first] = rows[part, :1]
        masks[:, last:] = rows[part, -1:]
        inner = masks[:, first:last].reshape(len(masks), source - 1, step, width)
        np.multiply(steps[part], weights[:, None], out=inner)
        inner += upper[part]
        yield part, masks


def _chunks(count: int, item_bytes: int) -> Iterator[slice]:
    length = max(1, _CHUNK_BYTES // max(1, item_bytes))
    return (slice(start, min(start + length, count)) for start in range(0, count, length))
