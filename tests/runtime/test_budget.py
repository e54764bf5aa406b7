"""A budget of passes or of time: what it is spent on, what is left out, and that it holds."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sightline import RISE, SISE, Explainer, Explanation
from sightline.bindings import open_engine
from sightline.bundle import Bundle
from sightline.errors import MethodError
from sightline.runtime import budget, job, requests
from sightline.runtime.attributions import AttributionPass
from sightline.runtime.explainer import METHODS
from tests.runtime import tiny
from tests.runtime.clock import timed


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny.write(tmp_path_factory.mktemp("tiny") / "tiny.sightline")


def worths(bundle: Bundle, image: npt.NDArray[np.float32], target: int) -> npt.NDArray[np.float64]:
    """α_k/β of all maps with a positive α, over all blocks, falling."""
    shapes = {bundle.input.name: (1, *bundle.input.shape)}
    with open_engine(bundle.attribution, shapes=shapes) as engine:
        blocks = AttributionPass(bundle, engine)(image, target).blocks
        ratios = [block.alpha.astype(np.float64) / block.alpha.max() for block in blocks if block.alpha.max() > 0]
    found = np.concatenate(ratios)
    return np.sort(found[found > 0])[::-1]


@pytest.mark.parametrize("passes", [1, 2, 5, 9, 1000])
def test_the_worthiest_masks_of_all_blocks_are_scored(bundle: Bundle, passes: int) -> None:
    expected = worths(bundle, tiny.image(), 2)
    with Explainer(bundle, SISE(predict=False), batch_size=4) as explained:
        found = explained(tiny.image(), 2, max_passes=passes)
        everything = explained(tiny.image(), 2)
    assert found.passes == min(passes, len(expected)) == min(passes, everything.passes)
    assert found.completeness == pytest.approx(expected[:passes].sum() / expected.sum())
    assert everything.completeness == 1
    if passes >= len(expected):
        np.testing.assert_allclose(found.saliency, everything.saliency, atol=1e-6)
    else:
        assert abs(found.saliency - everything.saliency).max() > 0.01


@pytest.mark.parametrize("method", METHODS)
def test_every_method_keeps_to_its_budget(bundle: Bundle, method: str) -> None:
    with Explainer(bundle, METHODS[method](**({"passes": 50} if method == "rise" else {}))) as explained:
        everything = explained(tiny.image())
        found = explained(tiny.image(), max_passes=3)
        ended = explained(tiny.image(), deadline=1e-9)
    assert found.passes == min(3, everything.passes)
    for result in (found, ended):
        assert (result.completeness < 1) == (result.passes < everything.passes)
        assert np.isfinite(result.saliency).all()
        assert result.saliency.max() == 1


@pytest.mark.parametrize("method", METHODS)
def test_a_budget_on_a_network_with_nothing_to_show(method: str, tmp_path: Path) -> None:
    network = tiny.Tiny()
    with torch.no_grad():
        network.head.weight.zero_()
    limits: list[dict[str, Any]] = [{"max_passes": 3}, {"deadline": 1e-9}]
    with Explainer(tiny.write(tmp_path / "flat", network), METHODS[method]()) as explained:
        for found in (explained(tiny.image(), **limit) for limit in limits):
            assert np.isfinite(found.saliency).all()
            assert 0 <= found.completeness <= 1


def test_rise_takes_the_first_masks(bundle: Bundle) -> None:
    with Explainer(bundle, RISE(passes=200)) as explained:
        found = explained(tiny.image(), max_passes=60)
    assert found.passes == 60
    assert found.completeness == pytest.approx(0.3)


def test_several_targets_share_the_budget(bundle: Bundle) -> None:
    with Explainer(bundle) as explained:
        found = explained(tiny.image(), [0, 1, 2], max_passes=4)
    assert [one.passes for one in found] == [4, 4, 4]
    assert max(one.completeness for one in found) < 1


@pytest.mark.parametrize("deadline", [0.5, 1.0, 3.7, 5.2, 7.0, 1000.0])
def test_a_deadline_is_overrun_by_one_batch_at_most(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, deadline: float
) -> None:
    runs: list[int] = []
    clock, open_batch = timed(bundle, monkeypatch, runs)
    with Explainer(bundle, engine=open_batch, batch_size=2) as explained:
        everything = explained(tiny.image(), 2)
        total, began = len(runs), clock.now
        runs.clear()
        found = explained(tiny.image(), 2, deadline=deadline)
    assert len(runs) == min(total, max(1, math.floor(deadline)))
    assert clock.now - began <= max(deadline, 1)
    assert found.passes == min(2 * len(runs), everything.passes)
    assert (found.completeness == 1) == (found.passes == everything.passes)
    if found.completeness == 1:
        np.testing.assert_allclose(found.saliency, everything.saliency, atol=1e-6)


def test_a_deadline_leaves_time_for_what_follows_the_last_batch(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, open_batch = timed(bundle, monkeypatch, [])
    whole = job.Job.explanations

    def slow(self: job.Job, engine: str, precision: str) -> list[Explanation]:
        found = whole(self, engine, precision)
        clock.now += 2.5 * len(found)
        return found

    monkeypatch.setattr(job.Job, "explanations", slow)

    took = []
    with Explainer(bundle, engine=open_batch, batch_size=2) as explained:
        for _ in range(3):
            began = clock.now
            explained(tiny.image(), 2, deadline=5.0)
            took.append(clock.now - began)
            declined = requests.Request(tiny.image(), 2, deadline=5.0, only_if=lambda _: False, began=clock.now)
            assert not next(explained.answer([declined])).explanations  # which takes no time and teaches nothing
    assert took == [7.5, 4.5, 4.5]  # the first one could not know


@given(st.lists(st.floats(0, 1, width=16), max_size=20), st.integers(1, 7))
def test_the_worthiest_come_first(worth: list[float], size: int) -> None:
    order = budget.Worthiest(np.array(worth))
    rounds = [order.next(size) for _ in range(-(-len(worth) // size))]
    assert all(0 < len(numbers) <= size for numbers in rounds)
    numbers = np.concatenate([*rounds, order.next(size)]).astype(int).tolist()
    assert numbers == sorted(range(len(worth)), key=lambda number: (-worth[number], number))


@pytest.mark.parametrize("wrong", [{"max_passes": 0}, {"max_passes": 1.5}, {"deadline": 0}, {"deadline": math.inf}])
def test_budgets_out_of_range(bundle: Bundle, wrong: dict[str, Any]) -> None:
    with Explainer(bundle) as explained, pytest.raises(MethodError, match=f"{next(iter(wrong))}=.*out of range"):
        explained(tiny.image(), **wrong)
