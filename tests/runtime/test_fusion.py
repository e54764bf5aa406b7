"""Masks, layer maps and their fusion, beside the formulas in float64."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sightline.bundle import Block
from sightline.errors import EngineError
from sightline.kernels import CpuKernels
from sightline.runtime.attributions import Attributions, BlockAttributions
from sightline.runtime.fusion import fuse, fuse_blocks, layer_map, normalised
from sightline.runtime.masks import MaskSet, Scored, feature_masks, mask_set
from tests import reference

KERNELS = CpuKernels()
SIZE = (20, 16)


def masks_of(features: npt.NDArray[np.float32]) -> MaskSet:
    block = BlockAttributions(
        Block("block", 0, *features.shape), features, np.zeros_like(features), np.ones(len(features), np.float32)
    )
    found = np.ones(1, np.float32)
    attributions = Attributions(np.zeros((3, *SIZE), np.float32), "NCHW", SIZE, found, found, (block,), KERNELS)
    return mask_set(attributions, block, np.arange(len(features)), KERNELS)()


def scored(features: npt.NDArray[np.float32], scores: npt.NDArray[np.float64]) -> Scored:
    return Scored(masks_of(features), scores)


@given(st.integers(1, 12), st.integers(2, 9), st.integers(2, 9), st.floats(-10, 10), st.integers(0, 99))
def test_layer_map_is_the_sum_of_the_masks_made_at_full_size(
    count: int, height: int, width: int, offset: float, seed: int
) -> None:
    random = np.random.default_rng(seed)
    features = (random.normal(size=(count, height, width)) + offset).astype(np.float32)
    scores = random.uniform(size=count)
    expected = np.zeros(SIZE)
    for feature_map, score in zip(torch.from_numpy(features).double(), scores, strict=True):
        mask = reference.attribution_mask(feature_map, SIZE)
        assert mask is not None
        expected += score * (mask / mask.sum()).numpy()
    found = layer_map(scored(features, scores), KERNELS)
    assert found is not None
    np.testing.assert_allclose(found, reference.minmax(torch.from_numpy(expected)).numpy(), atol=1e-5)


def test_masks_lie_between_zero_and_one() -> None:
    features = np.random.default_rng(0).normal(size=(5, 7, 6)).astype(np.float32)
    masks = masks_of(features)
    out = np.empty((5, 1, *SIZE), np.float32)
    KERNELS.mask_into(out, np.ones((1, *SIZE), np.float32), masks.maps, masks.affine)
    np.testing.assert_allclose(out.min(axis=(1, 2, 3)), 0, atol=1e-6)
    np.testing.assert_allclose(out.max(axis=(1, 2, 3)), 1, atol=1e-6)


@pytest.mark.parametrize("value", [0.0, 1.0, -3.5, 1e-30, 1e30, 0.1])
def test_constant_maps_are_skipped(value: float) -> None:
    features = np.full((3, 5, 5), value, np.float32)
    assert len(masks_of(features)) == 0
    features[1, 2, 2] = 2 * value + 1
    assert len(masks_of(features)) == 1


def test_all_blocks_are_looked_at_before_the_host_waits() -> None:
    events: list[str] = []

    class Watched(CpuKernels):
        def fetch(self, array: npt.NDArray[Any]) -> Callable[[], npt.NDArray[Any]]:
            events.append("fetch")

            def wait() -> npt.NDArray[Any]:
                events.append("wait")
                return array

            return wait

    features = np.random.default_rng(0).normal(size=(3, 5, 5)).astype(np.float32)
    blocks = tuple(
        BlockAttributions(Block(name, index, 3, 5, 5), features, features, np.ones(3, np.float32))
        for index, name in enumerate("ab")
    )
    found = np.ones(1, np.float32)
    attributions = Attributions(np.zeros((3, *SIZE), np.float32), "NCHW", SIZE, found, found, blocks, KERNELS)
    assert list(feature_masks(attributions, dict.fromkeys("ab", np.arange(3)), Watched())) == ["a", "b"]
    assert events == ["fetch"] * 6 + ["wait"] * 6


def test_a_map_too_faint_to_be_normalised_is_skipped() -> None:
    """1 / spread would be infinite in float32."""
    features = np.zeros((3, 5, 5), np.float32)
    features[:, 2, 2] = 1e-40, 1e-37, 1
    masks = masks_of(features)
    assert masks.numbers.tolist() == [1, 2]
    assert np.isfinite(masks.affine).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_features_that_are_not_finite_are_an_error(value: float) -> None:
    features = np.random.default_rng(0).normal(size=(3, 5, 5)).astype(np.float32)
    features[1, 2, 2] = value
    with pytest.raises(EngineError, match=r"block block are NaN or infinite"):
        masks_of(features)


def test_nearly_constant_maps_stay_finite() -> None:
    features = np.ones((2, 5, 5), np.float32)
    features[:, 2, 2] += 1e-6
    found = layer_map(scored(features, np.ones(2)), KERNELS)
    assert found is not None
    assert np.isfinite(found).all()


@given(st.integers(1, 5), st.integers(0, 99))
def test_fuse(count: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    maps = [np.asarray(normalised(random.uniform(size=SIZE) ** (1 + i), KERNELS)) for i in range(count)]
    expected = reference.fusion([torch.from_numpy(layer) for layer in maps]).numpy()
    np.testing.assert_allclose(fuse(maps, SIZE, KERNELS), expected, atol=1e-12)


def test_nothing_to_fuse_is_all_zero() -> None:
    assert fuse([], SIZE, KERNELS).tolist() == np.zeros(SIZE).tolist()


def test_a_block_with_scores_of_zero_is_left_out_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "sightline")
    features = np.random.default_rng(0).uniform(size=(4, 5, 5)).astype(np.float32)
    blocks = {"silent": scored(features, np.zeros(4)), "telling": scored(features, np.ones(4))}
    saliency, layer_maps = fuse_blocks(blocks, SIZE, KERNELS)
    assert list(layer_maps) == ["telling"]
    np.testing.assert_array_equal(saliency, layer_maps["telling"])
    assert "silent" in caplog.text
