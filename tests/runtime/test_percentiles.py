"""Percentiles from buckets, beside those of all values."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sightline.runtime.percentiles import LEAST, Percentiles


@given(st.lists(st.floats(LEAST, 1e6), min_size=1, max_size=200), st.sampled_from([0.01, 0.5, 0.9, 0.99, 1.0]))
def test_within_half_a_per_cent_of_the_exact_ones(values: list[float], share: float) -> None:
    found = Percentiles()
    for value in values:
        found.add(value)
    exact = np.quantile(values, share, method="inverted_cdf")
    assert found.quantile(share) == pytest.approx(exact, rel=0.0051)
    assert (found.count, found.largest) == (len(values), max(values))


def test_nothing_to_say() -> None:
    assert (Percentiles().quantile(0.5), Percentiles().largest, Percentiles().count) == (0.0, 0.0, 0)


@pytest.mark.parametrize("value", [-1.0, 0.0, 1e-9])
def test_what_is_too_short_counts_as_least(value: float) -> None:
    found = Percentiles()
    found.add(value)
    found.add(1.0)
    assert found.quantile(0.5) == pytest.approx(LEAST, rel=0.0051)


def test_what_is_too_long_counts_as_longest_and_the_largest_is_exact() -> None:
    found = Percentiles()
    found.add(1e9)
    assert found.largest == 1e9
    assert 1e6 < found.quantile(0.5) <= 1e9


def test_memory_does_not_grow() -> None:
    found = Percentiles()
    found.add(1.0)
    before = sys.getsizeof(found._counts), len(vars(found))
    for number in range(1, 5000):
        found.add(number / 7)
    assert (sys.getsizeof(found._counts), len(vars(found))) == before
