"""EBPG, mIoU and Bbox beside their formulas; ties, flat maps, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sightline import metrics
from sightline.errors import MetricError
from sightline.metrics.ranking import pixels_of, ranked, top
from tests.metrics import definitions

METRICS = (metrics.energy_pointing_game, metrics.intersection_over_union, metrics.bounding_box_score)


@st.composite
def cases(draw: st.DrawFn) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """A map with many ties and a region that is not empty."""
    size = (draw(st.integers(1, 12)), draw(st.integers(1, 12)))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    levels = draw(st.integers(1, 30))
    saliency = random.integers(0, levels + 1, size) / levels
    region = random.random(size) < draw(st.floats(0, 1))
    region.flat[random.integers(region.size)] = True
    return saliency, region


@given(cases())
def test_against_the_formulas(case: tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]) -> None:
    saliency, region = case
    truth = region.astype(np.float64)
    if saliency.any():
        expected = definitions.ebpg(saliency, truth)
        assert metrics.energy_pointing_game(saliency, region) == pytest.approx(expected, abs=1e-12)
    assert metrics.intersection_over_union(saliency, region) == pytest.approx(definitions.iou(saliency, truth))
    assert metrics.bounding_box_score(saliency, region) == pytest.approx(definitions.bbox(saliency, truth))


def test_the_rank_is_stable() -> None:
    saliency = np.array([[1, 3, 1], [3, 0, 3]], np.uint8)  # unsigned: its negative is no smaller number
    assert ranked(saliency).tolist() == [1, 3, 5, 0, 2, 4]
    assert top(saliency, 2).tolist() == [[False, True, False], [True, False, False]]
    large = np.zeros(5000)  # where unstable sorts do move equal values
    assert ranked(large[None]).tolist() == list(range(5000))


@pytest.mark.parametrize(
    ("percent", "pixels", "expected"),
    [(20, 50176, 10035), (15, 50176, 7526), (20, 5, 1), (20, 12, 2), (15, 10, 2), (15, 30, 5), (15, 1, 1), (15, 3, 1)],
)
def test_how_many_pixels_a_share_is(percent: int, pixels: int, expected: int) -> None:
    assert pixels_of(percent, pixels) == expected
    assert expected == max(1, math.floor(percent * pixels / 100 + 0.5))


def test_flat_maps_have_defined_answers() -> None:
    region = np.zeros((10, 10), np.bool_)
    region[:2, :5] = True
    assert metrics.energy_pointing_game(np.zeros((10, 10)), region) == 0
    for level in (1.0, 5e-324, 1e308):
        assert metrics.energy_pointing_game(np.full((10, 10), level), region) == pytest.approx(0.1)
        # The first 20 and the first 10 pixels in reading order.
        assert metrics.intersection_over_union(np.full((10, 10), level), region) == pytest.approx(10 / 20)
        assert metrics.bounding_box_score(np.full((10, 10), level), region) == pytest.approx(5 / 10)


def test_a_region_that_is_everything() -> None:
    saliency = np.random.default_rng(0).random((10, 10))
    region = np.ones((10, 10), np.bool_)
    assert [metric(saliency, region) for metric in METRICS] == pytest.approx([1, 0.2, 1])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    ("saliency", "region", "said"),
    [
        (np.zeros((4, 4)), np.zeros((4, 4), np.bool_), "empty"),
        (np.zeros((4, 4)), np.ones((4, 5), np.bool_), r"\(4, 5\)"),
        (np.zeros((4, 4)), np.ones((4, 4)), "float64"),
        (np.zeros((1, 4, 4)), np.ones((1, 4, 4), np.bool_), "not H×W"),
        (np.zeros((0, 4)), np.ones((0, 4), np.bool_), "not H×W"),
        (np.full((4, 4), np.nan), np.ones((4, 4), np.bool_), "16 of 16"),
    ],
)
def test_what_cannot_be_scored(
    metric: object, saliency: npt.NDArray[np.float64], region: npt.NDArray[np.bool_], said: str
) -> None:
    assert callable(metric)
    with pytest.raises(MetricError, match=said):
        metric(saliency, region)


def test_energy_below_zero_is_refused() -> None:
    with pytest.raises(MetricError, match="-2"):
        metrics.energy_pointing_game(np.array([[-2.0, 1]]), np.array([[True, False]]))
