"""Connected components and the boxes around them."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from sightline.runtime.regions import find_regions, label_components


def flooded(mask: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.intp], int]:
    """8-connected components by flood fill, in the order of their first pixels."""
    labels = np.full(mask.shape, -1, np.intp)
    count = 0
    for seed in zip(*np.nonzero(mask), strict=True):
        if labels[seed] >= 0:
            continue
        stack = [seed]
        while stack:
            y, x = stack.pop()
            if 0 <= y < mask.shape[0] and 0 <= x < mask.shape[1] and mask[y, x] and labels[y, x] < 0:
                labels[y, x] = count
                stack += [(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
        count += 1
    return labels, count


@given(arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=14), elements=st.booleans()))
def test_label_components(mask: npt.NDArray[np.bool_]) -> None:
    labels, count = label_components(mask)
    expected, expected_count = flooded(mask)
    assert count == expected_count
    np.testing.assert_array_equal(labels, expected)


def test_a_spiral_is_one_component() -> None:
    mask = np.ones((9, 9), bool)
    mask[1, :8] = mask[1:8, 7] = mask[7, 1:8] = mask[3:8, 1] = mask[3, 1:6] = False
    assert label_components(mask)[1] == flooded(mask)[1]


def test_regions_in_original_pixels() -> None:
    saliency = np.zeros((10, 20), np.float32)
    saliency[2:4, 3:7] = 0.5  # 8 pixels, mass 4
    saliency[8, 19] = 1.0  # mass 1
    large, small = find_regions(saliency, 0.4, size=(40, 30))  # twice as wide, three times as high
    assert large.box == (6, 6, 14, 12)
    assert small.box == (38, 24, 40, 27)
    assert (large.area, small.area) == (8 * 6, 6)
    assert (large.mean, large.peak, small.peak) == (0.5, 0.5, 1.0)
    assert (large.mass, small.mass) == pytest.approx((0.8, 0.2))


def test_boxes_hold_their_pixels_and_stay_in_the_image() -> None:
    saliency = np.zeros((7, 7), np.float32)
    saliency[6, 6] = saliency[0, 0] = 1
    regions = find_regions(saliency, 0.5, size=(10, 5))
    assert [region.box for region in regions] == [(0, 0, 2, 1), (8, 4, 10, 5)]


@given(st.integers(1, 400), st.integers(1, 9000), st.data())
def test_boxes_are_those_of_exact_arithmetic(width: int, original: int, data: st.DataObject) -> None:
    left = data.draw(st.integers(0, width - 1))
    right = data.draw(st.integers(left, width - 1))
    saliency = np.zeros((2, width), np.float32)
    saliency[0, left : right + 1] = 1
    (region,) = find_regions(saliency, 0.5, size=(original, 2))
    across = Fraction(original, width)
    assert region.box == (math.floor(left * across), 0, math.ceil((right + 1) * across), 1)


def test_no_region_above_everything() -> None:
    assert find_regions(np.zeros((4, 4), np.float32), 0.5, size=(4, 4)) == []
