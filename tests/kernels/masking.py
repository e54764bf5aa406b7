"""What the mask kernel must do (see contract.py), and the references that all CUDA kernels are held against."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import pytest

from sightline.kernels.gpu import GpuKernels
from sightline.kernels.protocol import Layout, Window

Array = npt.NDArray[Any]
Size = tuple[int, int]

TOLERANCE = 2e-6
PADDING = 64
GEOMETRIES = [  # maps K×h×w, and the size to bring them to
    ((1, 1, 1), (1, 1)),
    ((3, 1, 1), (5, 7)),
    ((2, 7, 7), (32, 32)),
    ((5, 7, 5), (33, 31)),
    ((4, 14, 14), (16, 24)),
    ((3, 40, 31), (16, 8)),  # smaller than the maps
    ((2, 6, 9), (3, 300)),
    ((9, 5, 8), (64, 16)),
    ((2, 3, 900), (6, 40)),
    ((40, 4, 4), (24, 48)),
]
TYPES = ["float32", "float16", "bfloat16"]


def cupy() -> Any:
    return importlib.import_module("cupy")


def random(*shape: int, seed: int = 0, low: float = -1) -> npt.NDArray[np.float32]:
    return np.random.default_rng([seed, *shape]).uniform(low, 1, shape).astype(np.float32)


def up(maps: Array, size: Size, mirrored: bool = False) -> Array:
    """Bilinear interpolation with half-pixel centres: hat functions, as two matrices."""

    def hats(source: int, target: int) -> Array:
        position = (np.arange(target) + 0.5) * source / target - 0.5
        if mirrored:
            position = np.where(position < 0, -position, position)
            position = np.where(position > source - 1, 2 * (source - 1) - position, position)
        position = np.clip(position, 0, source - 1)
        return np.maximum(0, 1 - abs(position[:, None] - np.arange(source)))

    y, x = hats(maps.shape[1], size[0]), hats(maps.shape[2], size[1])
    full: Array = y @ maps.astype(np.float64) @ x.T
    return full


def cut(maps: Array, size: Size, window: Window | None) -> Array:
    """The upsampled maps, or their windows."""
    if window is None:
        return up(maps, size)
    full, places = up(maps, window.size, mirrored=True), window.offsets.tolist()
    return np.stack([f[y : y + size[0], x : x + size[1]] for f, (y, x) in zip(full, places, strict=True)])


def windows(count: int, size: Size, room: Size = (9, 5)) -> Window:
    """Larger maps, and where to cut; the first and the last place included."""
    offsets = np.random.default_rng(count).integers(0, np.array(room) + 1, (count, 2)).astype(np.int32)
    offsets[0], offsets[-1] = (0, 0), room
    return Window((size[0] + room[0], size[1] + room[1]), offsets)


def poisoned(shape: tuple[int, ...], dtype: Any, offset: int = 0) -> tuple[Any, Callable[[], bool]]:
    """An output full of NaN, so many bytes into its memory; and whether the memory around it is as it was."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = cupy().empty(size + 2 * PADDING + offset, np.uint8)
    raw.data.memset(0xFF, raw.nbytes)
    cupy().cuda.Stream.null.synchronize()  # where CuPy sets memory, whatever the current stream
    out = cupy().ndarray(shape, dtype, memptr=raw.data + PADDING + offset)

    def untouched() -> bool:
        around = raw.get()
        return bool((around[: PADDING + offset] == 0xFF).all() and (around[PADDING + offset + size :] == 0xFF).all())

    return out, untouched


def held(type_name: str) -> Any:
    return np.uint16 if type_name == "bfloat16" else np.dtype(type_name)


def values(array: Array, type_name: str) -> Array:
    """What an output buffer of this type means, in float64."""
    if type_name == "bfloat16":
        array = (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float64)


def ulp(expected: Array, type_name: str) -> Array:
    """The distance to the next value of this type."""
    digits = {"float32": 23, "float16": 10, "bfloat16": 7}[type_name]
    least = 2.0**-24 if type_name == "float16" else 0.0
    return np.maximum(2.0 ** (np.frexp(expected)[1] - 1 - digits), least)


class MaskContract:
    """Inherit it with a fixture ``kernels``."""

    def masked(
        self,
        kernels: GpuKernels,
        shape: tuple[int, int, int],
        size: Size,
        channels: int,
        type_name: str,
        layout: Layout,
        window: Window | None = None,
        offset: int = 0,
    ) -> None:
        """image ⊙ (scale_k·up(A_k) + shift_k), against the kernel's."""
        maps, image, affine = random(*shape), random(channels, *size, seed=1), random(shape[0], 2, seed=2)
        masks = affine[:, 0, None, None] * cut(maps, size, window) + affine[:, 1, None, None]
        expected = image[None].astype(np.float64) * masks[:, None]
        if layout == "NHWC":
            image, expected = np.ascontiguousarray(np.moveaxis(image, 0, 2)), np.moveaxis(expected, 1, 3)

        out, untouched = poisoned(expected.shape, held(type_name), offset * np.dtype(held(type_name)).itemsize)
        if window is not None:
            window = window._replace(offsets=kernels.to_device(window.offsets))
        there = [kernels.to_device(array) for array in (image, maps, affine)]
        kernels.mask_into(out, there[0], there[1], there[2], layout, window)

        got = values(kernels.to_host(out), type_name)
        slack = TOLERANCE + (0 if type_name == "float32" else ulp(expected, type_name))
        assert (abs(got - expected) <= slack).all()  # not so for a NaN
        assert untouched()

    @pytest.mark.parametrize("layout", get_args(Layout))
    @pytest.mark.parametrize("type_name", TYPES)
    @pytest.mark.parametrize(("shape", "size"), GEOMETRIES)
    def test_mask_into(
        self, kernels: GpuKernels, shape: tuple[int, int, int], size: Size, type_name: str, layout: Layout
    ) -> None:
        for channels in (1, 3, 4):
            self.masked(kernels, shape, size, channels, type_name, layout)

    @pytest.mark.parametrize("layout", get_args(Layout))
    @pytest.mark.parametrize("type_name", TYPES)
    @pytest.mark.parametrize(("shape", "size"), GEOMETRIES)
    def test_mask_into_of_windows(
        self, kernels: GpuKernels, shape: tuple[int, int, int], size: Size, type_name: str, layout: Layout
    ) -> None:
        self.masked(kernels, shape, size, 3, type_name, layout, windows(shape[0], size))

    @pytest.mark.parametrize("layout", get_args(Layout))
    @pytest.mark.parametrize(("shape", "size"), GEOMETRIES)
    def test_masks_without_an_image(
        self, kernels: GpuKernels, shape: tuple[int, int, int], size: Size, layout: Layout
    ) -> None:
        maps, affine = random(*shape), random(shape[0], 2, seed=2)
        expected = affine[:, 0, None, None] * up(maps, size) + affine[:, 1, None, None]
        expected = expected[:, None] if layout == "NCHW" else expected[..., None]
        out, untouched = poisoned(expected.shape, np.float32)
        kernels.mask_into(out, None, kernels.to_device(maps), kernels.to_device(affine), layout)
        assert (abs(kernels.to_host(out) - expected) <= TOLERANCE).all()  # not so for a NaN
        assert untouched()

    @pytest.mark.parametrize("layout", get_args(Layout))
    @pytest.mark.parametrize("type_name", TYPES)
    @pytest.mark.parametrize("offset", [1, 3, 8])
    def test_mask_into_memory_that_is_not_aligned(
        self, kernels: GpuKernels, offset: int, type_name: str, layout: Layout
    ) -> None:
        self.masked(kernels, (3, 7, 7), (16, 32), 3, type_name, layout, offset=offset)

    @pytest.mark.parametrize("window", [False, True])
    def test_mask_into_of_maps_too_wide_for_shared_memory(self, kernels: GpuKernels, window: bool) -> None:
        size = (3, 40)
        self.masked(kernels, (2, 2, 13000), size, 1, "float32", "NCHW", windows(2, size) if window else None)

    def test_mask_into_of_a_row_wider_than_a_block(self, kernels: GpuKernels) -> None:
        for width in (1040, 2056, 2057):
            for type_name in TYPES:
                self.masked(kernels, (2, 3, 5), (2, width), 3, type_name, "NCHW")

    def test_mask_into_part_of_a_batch_leaves_the_rest(self, kernels: GpuKernels) -> None:
        batch, _ = poisoned((5, 2, 8, 8), np.float32)
        image, maps = np.ones((2, 8, 8), np.float32), np.ones((2, 4, 4), np.float32)
        affine = np.array([[1, 0], [0, 3]], np.float32)
        there = [kernels.to_device(array) for array in (image, maps, affine)]
        kernels.mask_into(batch[1:3], there[0], there[1], there[2])
        got = kernels.to_host(batch)
        assert np.isnan(got[[0, 3, 4]]).all()
        assert (got[1] == 1).all()
        assert (got[2] == 3).all()
