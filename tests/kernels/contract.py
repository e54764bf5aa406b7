"""What the CUDA kernels must do, whatever runs them: a GPU (tests/gpu) or this CPU (test_gpu_on_host.py).

Above each test stands a plain reference, in float64. A class that inherits :class:`KernelsContract` gives the fixture
``kernels``. Outputs begin as NaN, which proves that every value is written; the bytes around them, that nothing else
is.
"""

from __future__ import annotations

import numpy as np
import pytest

from sightline.errors import EngineError
from sightline.kernels.cpu import CpuKernels
from sightline.kernels.gpu import GpuKernels
from sightline.kernels.protocol import Window
from sightline.kernels.sampling import threshold
from tests.kernels.masking import (
    GEOMETRIES,
    TOLERANCE,
    TYPES,
    MaskContract,
    Size,
    cupy,
    cut,
    poisoned,
    random,
    up,
    windows,
)


class KernelsContract(MaskContract):
    """Inherit it with a fixture ``kernels``."""

    def test_no_masks_are_no_work(self, kernels: GpuKernels) -> None:
        image, maps, affine = (kernels.to_device(random(*shape)) for shape in ((3, 8, 8), (0, 4, 4), (0, 2)))
        kernels.mask_into(cupy().empty((0, 3, 8, 8), np.float32), image, maps, affine)
        weights = kernels.to_device(np.zeros(0))
        assert [len(values) for values in kernels.extrema(maps, (8, 8))] == [0, 0]
        assert kernels.totals(maps, (8, 8)).shape == (0,)
        assert kernels.to_host(kernels.aggregate(maps, weights)).tolist() == np.zeros((4, 4)).tolist()
        window = Window((9, 9), kernels.to_device(np.zeros((0, 2), np.int32)))
        assert kernels.to_host(kernels.accumulate(maps, weights, (8, 8), window)).sum() == 0
        assert kernels.take(maps, np.zeros(0, np.intp)).shape == (0, 4, 4)
        kernels.pick(kernels.zeros(0), cupy().empty((0, 5), np.float32), 2)
        kernels.write(cupy().empty((0, 3), np.float32), 1)
        assert kernels.otsu(kernels.zeros(0)) is None

    @pytest.mark.parametrize(("shape", "size"), GEOMETRIES)
    def test_extrema(self, kernels: GpuKernels, shape: tuple[int, int, int], size: Size) -> None:
        """min and max over the pixels of up(A_k)"""
        maps = random(*shape)
        full = up(maps, size).reshape(shape[0], -1)
        low, high = map(kernels.to_host, kernels.extrema(kernels.to_device(maps), size))
        assert low.dtype == high.dtype == np.float32
        np.testing.assert_allclose(low, full.min(axis=1), atol=TOLERANCE)
        np.testing.assert_allclose(high, full.max(axis=1), atol=TOLERANCE)

    @pytest.mark.parametrize("place", [0, 5, 48])
    def test_extrema_of_what_is_not_a_number(self, kernels: GpuKernels, place: int) -> None:
        maps = random(2, 7, 7)
        maps[1].flat[place] = np.nan
        for found in kernels.extrema(kernels.to_device(maps), (28, 28)):
            assert np.isnan(kernels.to_host(found)).tolist() == [False, True]

    @pytest.mark.parametrize(("shape", "size"), GEOMETRIES)
    def test_totals(self, kernels: GpuKernels, shape: tuple[int, int, int], size: Size) -> None:
        """Σ over the pixels of up(A_k)"""
        maps = random(*shape)
        got = kernels.to_host(kernels.totals(kernels.to_device(maps), size))
        np.testing.assert_allclose(got, up(maps, size).sum(axis=(1, 2)), atol=1e-9)

    @pytest.mark.parametrize("shape", [(1, 1, 1), (2, 7, 7), (31, 3, 5), (33, 12, 11), (700, 7, 7), (20, 112, 112)])
    def test_aggregate(self, kernels: GpuKernels, shape: tuple[int, int, int]) -> None:
        """Σ_k weights_k·A_k"""
        maps, weights = random(*shape), random(shape[0], seed=1).astype(np.float64)
        expected = np.einsum("k,khw->hw", weights, maps.astype(np.float64))
        there = kernels.to_device(maps), kernels.to_device(weights)
        runs = [kernels.to_host(kernels.aggregate(*there)) for _ in range(2)]
        assert runs[0].dtype == np.float64
        np.testing.assert_allclose(runs[0], expected, atol=1e-12)
        assert runs[0].tobytes() == runs[1].tobytes()

    @pytest.mark.parametrize(("shape", "size"), [*GEOMETRIES, ((100, 8, 8), (30, 30))])
    def test_accumulate(self, kernels: GpuKernels, shape: tuple[int, int, int], size: Size) -> None:
        """Σ_k weights_k·(the window of up(A_k))"""
        maps, weights = random(*shape), random(shape[0], seed=1).astype(np.float64)
        window = windows(shape[0], size)
        expected = np.einsum("k,khw->hw", weights, cut(maps, size, window))
        placed = window._replace(offsets=kernels.to_device(window.offsets))
        got = kernels.to_host(kernels.accumulate(kernels.to_device(maps), kernels.to_device(weights), size, placed))
        assert got.dtype == np.float64
        np.testing.assert_allclose(got, expected, atol=TOLERANCE)

    def test_fetch(self, kernels: GpuKernels) -> None:
        """The array, and not what is written into it later."""
        for values in (random(3, 5), random(1, 7).astype(np.float64), np.arange(4)):
            there = kernels.to_device(values)
            fetched = kernels.fetch(there)
            kernels.write(there, 0)
            np.testing.assert_array_equal(fetched(), values)
            assert fetched().dtype == values.dtype
        nothing = kernels.fetch(kernels.to_device(np.zeros((0, 3), np.float32)))()
        assert nothing.shape == (0, 3)
        assert nothing.dtype == np.float32

    @pytest.mark.parametrize(("shape", "size"), GEOMETRIES)
    def test_upsample(self, kernels: GpuKernels, shape: tuple[int, int, int], size: Size) -> None:
        """up(A)"""
        map_ = random(*shape)[0]
        expected = up(map_[None], size)[0]
        for dtype, tolerance in ((np.float32, TOLERANCE), (np.float64, 1e-12)):
            got = kernels.to_host(kernels.upsample(kernels.to_device(map_.astype(dtype)), size))
            assert got.dtype == dtype
            np.testing.assert_allclose(got, expected, atol=tolerance)

    def test_a_flat_map_stays_exactly_flat(self, kernels: GpuKernels) -> None:
        flat = kernels.to_device(np.full((7, 7), 0.1, np.float32))
        assert len(np.unique(kernels.to_host(kernels.upsample(flat, (224, 224))))) == 1

    @pytest.mark.parametrize("type_name", [*TYPES, "float64"])
    def test_pick(self, kernels: GpuKernels, type_name: str) -> None:
        """out[i] = probabilities[i, target]"""
        exact = (np.random.default_rng(0).integers(0, 256, (300, 11)) / 256).astype(np.float32)
        bits = exact.view(np.uint32) >> 16
        held_ = bits.astype(np.uint16) if type_name == "bfloat16" else exact.astype(type_name)
        out, untouched = poisoned((300,), np.float64)
        kernels.pick(out, kernels.to_device(held_), 10)
        assert kernels.to_host(out).tolist() == exact[:, 10].tolist()
        assert untouched()

    def test_pick_reads_every_float16(self, kernels: GpuKernels) -> None:
        every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
        out = kernels.zeros(len(every))
        kernels.pick(out, kernels.to_device(every[:, None]), 0)
        np.testing.assert_array_equal(kernels.to_host(out), every.astype(np.float64))

    def test_take(self, kernels: GpuKernels) -> None:
        """maps[indices]"""
        maps, indices = random(20, 5, 3), np.array([19, 0, 7, 7, 3])
        assert kernels.to_host(kernels.take(kernels.to_device(maps), indices)).tolist() == maps[indices].tolist()

    @pytest.mark.parametrize("size", [1, 2, 1023, 1024, 5000])
    def test_spread(self, kernels: GpuKernels, size: int) -> None:
        """min and max"""
        map_ = random(size).astype(np.float64)
        assert kernels.spread(kernels.to_device(map_)) == (map_.min(), map_.max())

    def test_rescale_and_fuse(self, kernels: GpuKernels) -> None:
        """clip((map − low) / (high − low), 0, 1) and (fused + layer) ⊙ [layer >= threshold]: to the last bit"""
        map_, layer = random(37, 11).astype(np.float64), random(37, 11, seed=1, low=0).astype(np.float64)
        layer[0, 0] = 0.5
        rescaled = kernels.rescale(kernels.to_device(map_), -0.5, 0.7)
        expected = np.clip((map_ + 0.5) / (0.7 + 0.5), 0, 1)
        assert kernels.to_host(rescaled).tolist() == expected.tolist()
        fused = kernels.to_host(kernels.fuse(rescaled, kernels.to_device(layer), 0.5))
        assert fused.tolist() == ((expected + layer) * (layer >= 0.5)).tolist()
        for width in (1e-4, 0.05, 1.0):
            gated = kernels.to_host(kernels.fuse(rescaled, kernels.to_device(layer), 0.5, width))
            with np.errstate(over="ignore"):
                gate = 1 / (1 + np.exp(-(layer - 0.5) / width))
            np.testing.assert_allclose(gated, (expected + layer) * gate, rtol=1e-12, atol=1e-300)

    @pytest.mark.parametrize("seed", range(12))
    def test_otsu_is_that_of_the_cpu(self, kernels: GpuKernels, seed: int) -> None:
        generator = np.random.default_rng(seed)
        map_ = generator.beta(0.4, 2, (generator.integers(1, 90), generator.integers(1, 90)))
        map_.flat[:: seed + 2] = generator.choice([0, 0.25, 0.5, 1, 1 - 2**-53, 1 / 256])
        assert kernels.otsu(kernels.to_device(map_)) == CpuKernels().otsu(map_)

    def test_otsu_of_what_cannot_be_split(self, kernels: GpuKernels) -> None:
        for map_ in (np.ones((9, 9)), np.zeros(1), np.full(5000, 0.3), np.linspace(0.5, 0.503, 50)):
            assert kernels.otsu(kernels.to_device(map_)) is None

    def test_otsu_of_two_spikes_cuts_above_the_lower_one(self, kernels: GpuKernels) -> None:
        assert kernels.otsu(kernels.to_device(np.array([0.25] * 10 + [0.75] * 3))) == 65 / 256
        assert threshold(np.bincount([64] * 10 + [192] * 3, minlength=256)) == 65 / 256

    def test_write(self, kernels: GpuKernels) -> None:
        for dtype in (np.float32, np.float16, np.int64):
            out, untouched = poisoned((3, 4), dtype)
            kernels.write(out, 0)
            assert (kernels.to_host(out) == 0).all()
            kernels.write(out, -1)
            assert (kernels.to_host(out) == -1).all()
            kernels.write(out[1], np.arange(4, dtype=np.float64))
            assert kernels.to_host(out).tolist() == [[-1] * 4, [0, 1, 2, 3], [-1] * 4]
            assert untouched()
        bits, _ = poisoned((3,), np.uint16)
        kernels.write(bits, np.array([1.0, -2.0, 0.1], np.float32))
        assert kernels.to_host(bits).tolist() == [0x3F80, 0xC000, 0x3DCD]

    def test_agrees_with_the_cpu(self, kernels: GpuKernels) -> None:
        cpu, size = CpuKernels(), (56, 48)
        maps, image, affine = random(10, 14, 12), random(3, *size, seed=1), random(10, 2, seed=2)
        weights, window = random(10, seed=3).astype(np.float64), windows(10, size)
        placed = window._replace(offsets=kernels.to_device(window.offsets))
        on_gpu = kernels.to_device(maps)
        for where, there in ((None, None), (window, placed)):
            masked, out = np.empty((10, 3, *size), np.float32), cupy().empty((10, 3, *size), np.float32)
            cpu.mask_into(masked, image, maps, affine, "NCHW", where)
            kernels.mask_into(out, kernels.to_device(image), on_gpu, kernels.to_device(affine), "NCHW", there)
            np.testing.assert_allclose(kernels.to_host(out), masked, atol=TOLERANCE)
        for got, expected in (
            (kernels.extrema(on_gpu, size)[0], cpu.extrema(maps, size)[0]),
            (kernels.extrema(on_gpu, size)[1], cpu.extrema(maps, size)[1]),
            (kernels.totals(on_gpu, size), cpu.totals(maps, size)),
            (kernels.aggregate(on_gpu, kernels.to_device(weights)), cpu.aggregate(maps, weights)),
            (kernels.accumulate(on_gpu, kernels.to_device(weights), size, placed),
             cpu.accumulate(maps, weights, size, window)),
            (kernels.upsample(on_gpu[0], size), cpu.upsample(maps[0], size)),
        ):  # fmt: skip
            assert got.dtype == expected.dtype
            np.testing.assert_allclose(kernels.to_host(got), expected, atol=1e-6)

    def test_refuses_what_the_kernels_cannot_read(self, kernels: GpuKernels) -> None:
        image, maps, affine = (kernels.to_device(random(*shape)) for shape in ((3, 8, 8), (2, 4, 4), (2, 2)))
        with pytest.raises(EngineError, match="int32"):
            kernels.mask_into(cupy().empty((2, 3, 8, 8), np.int32), image, maps, affine)
        with pytest.raises(EngineError, match=r"\(2, 3, 8, 9\)"):
            kernels.mask_into(cupy().empty((2, 3, 8, 9), np.float32), image, maps, affine)
        with pytest.raises(EngineError, match="contiguous"):
            kernels.mask_into(cupy().empty((2, 3, 8, 16), np.float32)[..., ::2], image, maps, affine)
        with pytest.raises(EngineError, match="float64"):
            kernels.totals(kernels.to_device(np.zeros((2, 4, 4))), (8, 8))
        with pytest.raises(EngineError, match="class 5"):
            kernels.pick(kernels.zeros(2), kernels.zeros(2, 5), 5)
        with pytest.raises(EngineError, match="float16"):
            kernels.upsample(cupy().empty((2, 2), np.float16), (4, 4))
