"""The kernels in NumPy.

``up`` is separable and every sample reads two source pixels per axis: two gathers and a blend along x at low height,
then the same along y. On a CPU this beats the product with interpolation matrices (measured: 25–55 µs a mask at 224²
against 60–210 µs), and it keeps BLAS out of the hot loop: BLAS threads and an engine's spinning threads fight for the
same cores and stall each other by tens of milliseconds. No BLAS also means the same bytes whatever the thread count.

Everything works through the maps in chunks that stay in the cache; memory does not grow with the number of maps.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from sightline.kernels.protocol import Doubles, Floats, Layout, Size

_CHUNK_BYTES = 1 << 19
"""What the upsampled maps of one chunk may take; beyond about 1 MB the temporaries leave the second-level cache."""

_BINS = 256

Float = TypeVar("Float", bound=np.floating[Any])


class CpuKernels:
    """The :class:`~sightline.kernels.protocol.Kernels` on NumPy arrays. Holds no state."""

    def extrema(self, maps: Floats, size: Size) -> tuple[Floats, Floats]:
        """Minimum and maximum of every upsampled map: K×h×w -> K, K."""
        # Between two source pixels a bilinear patch takes its extrema at its corners, so of every patch only the
        # outermost samples are looked at: the result is that of all H×W pixels, at a fraction of the work.
        y = _patch_corners(maps.shape[1], size[0])
        x = _patch_corners(maps.shape[2], size[1])
        minima = np.empty(len(maps), np.float32)
        maxima = np.empty(len(maps), np.float32)
        for part in _chunks(len(maps), 4 * len(y.weight) * len(x.weight)):
            values = _blend(maps[part], y, x)
            values.min(axis=(1, 2), out=minima[part])
            values.max(axis=(1, 2), out=maxima[part])
        return minima, maxima

    def totals(self, maps: Floats, size: Size) -> Doubles:
        """The sum of every upsampled map: K×h×w -> K. Nothing is upsampled: 1ᵀ·W_y·A·W_xᵀ·1."""
        shares = np.outer(_shares(maps.shape[1], size[0]), _shares(maps.shape[2], size[1]))
        totals = np.empty(len(maps))
        for part in _chunks(len(maps), 8 * shares.size):
            totals[part] = (maps[part] * shares).sum(axis=(1, 2))
        return totals

    def mask_into(self, out: Floats, image: Floats, maps: Floats, affine: Floats, layout: Layout = "NCHW") -> None:
        """Write image ⊙ (scale_k·up(A_k) + shift_k) into ``out``: K×C×H×W, or K×H×W×C where ``layout`` is NHWC."""
        if layout == "NHWC":
            out, image = np.moveaxis(out, 3, 1), np.moveaxis(image, 2, 0)
        channels, height, width = image.shape
        y = _samples(maps.shape[1], height)
        x = _samples(maps.shape[2], width)
        # The two weights of a sample sum to one, so scale and shift may be applied before upsampling, where the maps
        # are small.
        scaled = maps * affine[:, 0, None, None] + affine[:, 1, None, None]
        for part in _chunks(len(maps), 4 * height * width):
            masks = _blend(scaled[part], y, x)
            for channel in range(channels):
                np.multiply(masks, image[channel], out=out[part, channel])

    def aggregate(self, maps: Floats, weights: Doubles) -> Doubles:
        """Σ_k weights_k·A_k: K×h×w and K -> h×w, in float64."""
        total = np.zeros(maps.shape[1:])
        for part in _chunks(len(maps), 8 * total.size):
            total += (maps[part] * weights[part, None, None]).sum(axis=0)
        return total

    def upsample(self, map: npt.NDArray[Float], size: Size) -> npt.NDArray[Float]:
        """``up``: h×w -> H×W, in the precision of the map."""
        return _blend(map, _samples(map.shape[0], size[0]), _samples(map.shape[1], size[1]))

    def otsu(self, map: npt.NDArray[np.floating[Any]]) -> float | None:
        """Otsu's threshold t of values in [0, 1], the upper class being v >= t; None where they cannot be split."""
        bins = np.clip((map.ravel() * _BINS).astype(np.intp), 0, _BINS - 1)
        counts = np.bincount(bins, minlength=_BINS)
        # Bins stand for their numbers, and w₀·w₁·(m₀ − m₁)² is (S·n₀ − N·s₀)²/(n₀·n₁) but for a constant: whole numbers
        # as far as possible, so that splits that tie (on either side of an empty bin, say) tie exactly.
        number, moment = np.cumsum(counts), np.cumsum(counts * np.arange(_BINS))
        products = number * (map.size - number)
        splits = np.flatnonzero(products)
        if not splits.size:
            return None
        spread = moment[-1] * number[splits] - map.size * moment[splits]
        return float((splits[(spread.astype(np.float64) ** 2 / products[splits]).argmax()] + 1) / _BINS)


class _Samples(NamedTuple):
    """Where samples along one axis lie: between source pixels ``first`` and ``second``, ``weight`` of the way."""

    first: npt.NDArray[np.intp]
    second: npt.NDArray[np.intp]
    weight: Doubles


@lru_cache(maxsize=256)
def _samples(source: int, size: int) -> _Samples:
    """The samples that make ``size`` pixels of ``source``: half-pixel centres, edges held, no antialiasing."""
    position = np.clip((np.arange(size) + 0.5) * source / size - 0.5, 0, source - 1)
    first = position.astype(np.intp)
    return _Samples(first, np.minimum(first + 1, source - 1), position - first)


@lru_cache(maxsize=256)
def _patch_corners(source: int, size: int) -> _Samples:
    """Of :func:`_samples`, the first and the last one between every two source pixels."""
    samples = _samples(source, size)
    step = np.flatnonzero(np.diff(samples.first))
    keep = np.unique(np.concatenate([[0], step, step + 1, [size - 1]]))
    return _Samples(samples.first[keep], samples.second[keep], samples.weight[keep])


@lru_cache(maxsize=256)
def _shares(source: int, size: int) -> Doubles:
    """How much every source pixel counts in the sum over all samples: the column sums of the interpolation matrix."""
    first, second, weight = _samples(source, size)
    shares = np.zeros(source)
    np.add.at(shares, first, 1.0 - weight)
    np.add.at(shares, second, weight)
    return shares


def _blend(maps: npt.NDArray[Float], y: _Samples, x: _Samples) -> npt.NDArray[Float]:
    """Bilinear samples of ...×h×w maps. A flat map stays exactly flat: a + (b − a)·weight."""
    weight_x = x.weight.astype(maps.dtype, copy=False)
    rows = maps.take(x.first, axis=-1)
    step = maps.take(x.second, axis=-1)
    step -= rows
    step *= weight_x
    rows += step
    weight_y = y.weight.astype(maps.dtype, copy=False)[:, None]
    values = rows.take(y.first, axis=-2)
    step = rows.take(y.second, axis=-2)
    step -= values
    step *= weight_y
    values += step
    return values


def _chunks(count: int, item_bytes: int) -> Iterator[slice]:
    length = max(1, _CHUNK_BYTES // max(1, item_bytes))
    return (slice(start, min(start + length, count)) for start in range(0, count, length))
