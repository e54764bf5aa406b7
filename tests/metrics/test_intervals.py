"""Intervals of means."""

from __future__ import annotations

import numpy as np
import pytest

from sightline.errors import MetricError
from sightline.metrics import Estimate, bootstrap


def test_against_the_plain_procedure() -> None:
    values = np.random.default_rng(3).random(40)
    random = np.random.default_rng(11)
    means = []
    for _ in range(500):
        drawn = [values[i] for i in random.integers(0, 40, 40)]
        means.append(sum(drawn) / 40)
    found = bootstrap(values, seed=11, repeats=500)
    assert found.mean == pytest.approx(sum(values) / 40)
    assert [found.low, found.high] == pytest.approx(np.percentile(means, (2.5, 97.5)).tolist())
    assert found.count == 40


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        found = bootstrap(random.normal(3, 2, 60), repeats=400)
        held += found.low <= 3 <= found.high
    assert 0.90 <= held / 400 <= 0.98


def test_it_is_seeded() -> None:
    values = np.random.default_rng(1).random(30)
    assert bootstrap(values, seed=2) == bootstrap(values, seed=2)
    assert bootstrap(values, seed=2) != bootstrap(values, seed=3)


def test_many_values_are_drawn_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(1).random(30)
    whole = bootstrap(values, repeats=100)
    monkeypatch.setattr("sightline.metrics.intervals._CHUNK", 70)
    assert bootstrap(values, repeats=100) == whole


def test_pairing_finds_small_differences() -> None:
    random = np.random.default_rng(5)
    images = random.normal(0, 10, 50)  # images differ far more than methods
    one, other = images + random.normal(0.5, 0.2, 50), images
    assert bootstrap(one).low < bootstrap(other).high
    assert bootstrap(one - other).sign == 1
    assert bootstrap(other - one).sign == -1
    assert bootstrap(other - other).sign == 0


def test_one_value_and_none() -> None:
    assert bootstrap([0.3]) == Estimate(0.3, 0.3, 0.3, 1)
    assert [bootstrap(values).sign for values in ([0.3], [0.3, 0.3], [-0.3] * 3, [-1, 1])] == [0, 1, -1, 0]
    with pytest.raises(MetricError, match="no values"):
        bootstrap([])
    with pytest.raises(MetricError, match="1 of 2"):
        bootstrap([1, float("nan")])
    with pytest.raises(MetricError, match="seed=-1"):
        bootstrap([1], seed=-1)
