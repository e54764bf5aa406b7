"""The NumPy kernels against the formulas, in float64."""

from __future__ import annotations

from itertools import product
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sightline.errors import EngineError
from sightline.kernels import CpuKernels, Window, cpu, kernels_for
from sightline.kernels.protocol import Layout
from sightline.kernels.sampling import patch_weights, samples
from tests import reference
from tests.reference import otsu

Array = npt.NDArray[Any]

KERNELS = CpuKernels()
TOLERANCE = 1e-6
SIDES = st.integers(1, 40)


@st.composite
def stacks(draw: st.DrawFn) -> tuple[npt.NDArray[np.float32], tuple[int, int]]:
    """K×h×w maps, and a size to bring them to, larger or smaller."""
    shape = (draw(st.integers(1, 7)), draw(SIDES), draw(SIDES))
    maps = np.random.default_rng(draw(st.integers(0, 1000))).uniform(-1, 1, shape)
    return maps.astype(np.float32), (draw(SIDES), draw(SIDES))


def up(maps: Array, size: tuple[int, int]) -> Array:
    tensor = torch.from_numpy(maps.astype(np.float64))[None]
    full: Array = F.interpolate(tensor, size=size, mode="bilinear", align_corners=False)[0].numpy()
    return full


@given(stacks())
def test_upsample(stack: tuple[npt.NDArray[np.float32], tuple[int, int]]) -> None:
    maps, size = stack
    single = KERNELS.upsample(maps[0], size)
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, up(maps, size)[0], atol=TOLERANCE)
    double = KERNELS.upsample(maps[0].astype(np.float64), size)
    assert double.dtype == np.float64
    np.testing.assert_allclose(double, up(maps, size)[0], atol=1e-12)


@given(stacks())
def test_extrema(stack: tuple[npt.NDArray[np.float32], tuple[int, int]]) -> None:
    maps, size = stack
    full = up(maps, size)
    minima, maxima = KERNELS.extrema(maps, size)
    np.testing.assert_allclose(minima, full.min(axis=(1, 2)), atol=TOLERANCE)
    np.testing.assert_allclose(maxima, full.max(axis=(1, 2)), atol=TOLERANCE)


@given(stacks())
def test_totals(stack: tuple[npt.NDArray[np.float32], tuple[int, int]]) -> None:
    maps, size = stack
    np.testing.assert_allclose(KERNELS.totals(maps, size), up(maps, size).sum(axis=(1, 2)), atol=1e-9)


@given(stacks(), st.integers(1, 4), st.sampled_from(get_args(Layout)))
def test_mask_into(stack: tuple[npt.NDArray[np.float32], tuple[int, int]], channels: int, layout: Layout) -> None:
    maps, size = stack
    random = np.random.default_rng(0)
    image = random.normal(size=(channels, *size)).astype(np.float32)
    affine = random.uniform(-1, 1, (len(maps), 2)).astype(np.float32)
    masks = affine[:, :1, None] * up(maps, size) + affine[:, 1:, None]
    expected = image[None] * masks[:, None]

    if layout == "NHWC":
        image, expected = np.moveaxis(image, 0, 2), np.moveaxis(expected, 1, 3)
    out = np.full(expected.shape, np.nan, np.float32)
    KERNELS.mask_into(out, np.ascontiguousarray(image), maps, affine, layout)
    np.testing.assert_allclose(out, expected, atol=8 * TOLERANCE)


@given(stacks(), st.sampled_from(get_args(Layout)))
def test_masks_without_an_image_are_those_of_an_image_of_ones(
    stack: tuple[npt.NDArray[np.float32], tuple[int, int]], layout: Layout
) -> None:
    maps, size = stack
    affine = np.random.default_rng(0).uniform(-1, 1, (len(maps), 2)).astype(np.float32)
    shape = (1, *size) if layout == "NCHW" else (*size, 1)
    out, expected = (np.full((len(maps), *shape), np.nan, np.float32) for _ in range(2))
    KERNELS.mask_into(out, None, maps, affine, layout)
    KERNELS.mask_into(expected, np.ones(shape, np.float32), maps, affine, layout)
    np.testing.assert_array_equal(out, expected)
    assert not np.isnan(out).any()


@pytest.mark.parametrize("side", [1, 8, 9])
def test_masks_of_many_chunks_are_those_of_each_alone(side: int) -> None:
    random = np.random.default_rng(0)
    maps = random.uniform(size=(5, side, side)).astype(np.float32)
    affine = random.uniform(size=(5, 2)).astype(np.float32)
    image = random.normal(size=(3, 256, 256)).astype(np.float32)
    for given_ in (None, image):
        out = np.full((5, 3 if given_ is not None else 1, 256, 256), np.nan, np.float32)
        KERNELS.mask_into(out, given_, maps, affine)
        for k in range(5):
            alone = np.empty_like(out[:1])
            KERNELS.mask_into(alone, given_, maps[k : k + 1], affine[k : k + 1])
            np.testing.assert_array_equal(out[k : k + 1], alone)


def test_mask_into_fills_part_of_a_batch_and_leaves_the_rest() -> None:
    batch = np.full((5, 2, 8, 8), 7, np.float32)
    maps = np.ones((2, 4, 4), np.float32)
    KERNELS.mask_into(batch[1:3], np.ones((2, 8, 8), np.float32), maps, np.array([[1, 0], [0, 3]], np.float32))
    assert batch[:, 0, 0, 0].tolist() == [7, 1, 3, 7, 7]


@st.composite
def windows(draw: st.DrawFn) -> tuple[npt.NDArray[np.float32], tuple[int, int], Window]:
    """Grids, the size of the masks, and where they are cut out of the larger upsampled grids."""
    maps, (height, width) = draw(stacks())
    full = (height + draw(st.integers(0, 9)), width + draw(st.integers(0, 9)))
    random = np.random.default_rng(draw(st.integers(0, 1000)))
    offsets = random.integers(0, (full[0] - height + 1, full[1] - width + 1), (len(maps), 2))
    return maps, (height, width), Window(full, offsets.astype(np.int32))


def cut(maps: Array, size: tuple[int, int], window: Window) -> Array:
    full = [reference.mirrored(map, window.size).numpy() for map in torch.from_numpy(maps.astype(np.float64))]
    places = zip(full, window.offsets, strict=True)
    return np.stack([values[y : y + size[0], x : x + size[1]] for values, (y, x) in places])


@given(windows(), st.sampled_from(get_args(Layout)))
def test_mask_into_a_window(windowed: tuple[npt.NDArray[np.float32], tuple[int, int], Window], layout: Layout) -> None:
    maps, size, window = windowed
    random = np.random.default_rng(0)
    image = random.normal(size=(2, *size)).astype(np.float32)
    affine = random.uniform(-1, 1, (len(maps), 2)).astype(np.float32)
    masks = affine[:, :1, None] * cut(maps, size, window) + affine[:, 1:, None]
    expected = image[None] * masks[:, None]
    if layout == "NHWC":
        image, expected = np.moveaxis(image, 0, 2), np.moveaxis(expected, 1, 3)
    out = np.full(expected.shape, np.nan, np.float32)
    KERNELS.mask_into(out, np.ascontiguousarray(image), maps, affine, layout, window)
    np.testing.assert_allclose(out, expected, atol=8 * TOLERANCE)
    alone = np.full((len(maps), 1, *size), np.nan, np.float32)
    KERNELS.mask_into(alone, None, maps, affine, "NCHW", window)
    np.testing.assert_allclose(alone[:, 0], masks, atol=8 * TOLERANCE)


@given(windows())
def test_accumulate(windowed: tuple[npt.NDArray[np.float32], tuple[int, int], Window]) -> None:
    maps, size, window = windowed
    weights = np.random.default_rng(0).uniform(-1, 1, len(maps))
    found = KERNELS.accumulate(maps, weights, size, window)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, np.tensordot(weights, cut(maps, size, window), 1), atol=len(maps) * TOLERANCE)


@given(stacks())
def test_aggregate(stack: tuple[npt.NDArray[np.float32], tuple[int, int]]) -> None:
    maps, _ = stack
    weights = np.random.default_rng(0).uniform(-1, 1, len(maps))
    blended = KERNELS.aggregate(maps, weights)
    assert blended.dtype == np.float64
    np.testing.assert_allclose(blended, sum(w * m.astype(np.float64) for w, m in zip(weights, maps, strict=True)))


def test_results_do_not_depend_on_the_chunks() -> None:
    """More maps than one chunk holds: every map counts once."""
    maps = np.random.default_rng(0).uniform(size=(150, 28, 28)).astype(np.float32)
    size = (112, 112)
    whole = KERNELS.extrema(maps, size), KERNELS.totals(maps, size), KERNELS.aggregate(maps, np.ones(150))
    one_by_one = [(KERNELS.extrema(m[None], size), KERNELS.totals(m[None], size)) for m in maps]
    assert whole[0][0].tolist() == [float(extrema[0][0]) for extrema, _ in one_by_one]
    assert whole[0][1].tolist() == [float(extrema[1][0]) for extrema, _ in one_by_one]
    assert whole[1].tolist() == [float(total[0]) for _, total in one_by_one]
    np.testing.assert_allclose(whole[2], maps.sum(axis=0, dtype=np.float64))


def test_weights_that_repeat_give_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "_CHUNK_BYTES", 2 * 4 * 224 * 9)  # two masks of the largest, and one is left over
    random = np.random.default_rng(0)
    repeating = 0
    for source, size in product((1, 2, 3, 7, 8, 14), (1, 2, 7, 14, 21, 28, 35, 224)):
        maps = random.normal(size=(3, source, 5)).astype(np.float32)
        between = patch_weights(source, size)
        repeating += between is not None
        found = np.empty((3, size, 9), np.float32)
        for part, masks in cpu._upsampled(maps, (size, 9), None):
            found[part] = masks
        np.testing.assert_array_equal(found, cpu._blend(maps, samples(source, size), samples(5, 9)))
        if between is not None:
            assert size % source == 0
    assert repeating >= 10


def test_a_flat_map_stays_exactly_flat() -> None:
    assert len(np.unique(KERNELS.upsample(np.full((7, 7), 0.1, np.float32), (224, 224)))) == 1


@given(arrays(np.float64, st.integers(1, 60), elements=st.floats(0, 1, width=16)))
def test_otsu(values: Array) -> None:
    bins = np.minimum((values * 256).astype(int), 255)
    if len(np.unique(bins)) == 1:  # nothing separates them, equal or not
        assert KERNELS.otsu(values) is None
    else:
        assert KERNELS.otsu(values) == otsu(torch.from_numpy(values))


def test_otsu_of_two_spikes_cuts_above_the_lower_one() -> None:
    values = np.array([0.25] * 10 + [0.75] * 3)
    threshold = KERNELS.otsu(values)
    assert threshold == 65 / 256  # every bin between the spikes ties: the first one
    assert (values >= threshold).sum() == 3


def test_otsu_takes_maps_of_any_shape() -> None:
    values = np.random.default_rng(0).uniform(size=(40, 50))
    assert KERNELS.otsu(values) == KERNELS.otsu(values.ravel())


def test_small_steps() -> None:
    """What on a CPU is one line of NumPy each, and on a GPU a kernel."""
    random = np.random.default_rng(0)
    host = random.normal(size=(3, 4))
    assert KERNELS.to_host(KERNELS.to_device(host)).tolist() == host.tolist()
    out = np.zeros((3, 4), np.float32)
    KERNELS.write(out, host)
    assert out.tolist() == host.astype(np.float32).tolist()
    KERNELS.write(out[1:], 5)
    assert (out[1:] == 5).all()
    assert out[0].tolist() == host[0].astype(np.float32).tolist()

    maps = random.normal(size=(5, 2, 2)).astype(np.float32)
    taken = KERNELS.take(maps, np.array([4, 0]))
    assert taken.tolist() == maps[[4, 0]].tolist()
    assert not np.shares_memory(taken, maps)

    scores = KERNELS.zeros(6)
    KERNELS.pick(scores[2:5], random.uniform(size=(3, 4)).astype(np.float32), 1)
    assert scores[[0, 1, 5]].tolist() == [0, 0, 0]
    assert (scores[2:5] > 0).all()

    low, high = KERNELS.spread(host)
    assert (low, high) == (host.min(), host.max())
    scaled = KERNELS.rescale(host, low, high)
    np.testing.assert_allclose(scaled, (host - low) / (high - low))
    assert (scaled.min(), scaled.max()) == (0, 1)
    fused = KERNELS.fuse(host, scaled, 0.5)
    assert fused.tolist() == np.where(scaled >= 0.5, host + scaled, 0).tolist()
    gated = KERNELS.fuse(host, scaled, 0.5, 0.1)
    np.testing.assert_allclose(gated, (host + scaled) * torch.from_numpy((scaled - 0.5) / 0.1).sigmoid().numpy())


def test_only_known_devices_have_kernels() -> None:
    assert isinstance(kernels_for("cpu"), CpuKernels)
    with pytest.raises(EngineError, match="'tpu'"):
        kernels_for("tpu")
