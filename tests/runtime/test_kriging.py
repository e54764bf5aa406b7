"""Predicted scores against the textbook's formula, and what they are good for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sightline import REMISE, SISE, AdaSISE, Explainer, demo, load
from sightline.bindings import open_engine
from sightline.kernels import CpuKernels
from sightline.runtime import job, kriging
from sightline.runtime.attributions import AttributionPass
from sightline.runtime.gate import pearson
from sightline.runtime.image import prepare
from sightline.runtime.kriging import NOISE, Kriging, pooled
from sightline.runtime.masks import MaskSet
from tests.runtime import tiny

Doubles = npt.NDArray[np.float64]


def covariance(features: Doubles) -> Doubles:
    squares = ((features[:, None] - features) ** 2).sum(axis=2)
    return np.asarray(np.exp(-squares / np.median(squares[np.triu_indices(len(squares), 1)])))


def expected(features: Doubles, scores: Doubles, known: npt.NDArray[np.intp], *, shares: bool) -> Doubles:
    """The posterior mean, as the formula reads, with the known scores in their places."""
    values = np.log((scores + 1e-3) / (1 + 1e-3 - scores)) if shares else scores
    k, mean = covariance(features), values[known].mean()
    gain = np.linalg.solve(k[np.ix_(known, known)] + NOISE * np.eye(len(known)), values[known] - mean)
    found = mean + k[:, known] @ gain
    if shares:
        found = np.clip((1.001 * np.exp(found) - 0.001) / (1 + np.exp(found)), 0, 1)
    found[known] = scores[known]
    return np.asarray(found)


@given(st.integers(2, 40), st.integers(1, 40), st.booleans(), st.integers(0, 99))
def test_predictions_are_the_posterior_mean(count: int, scored: int, shares: bool, seed: int) -> None:
    random = np.random.default_rng(seed)
    features = random.uniform(size=(count, 5))
    scores = random.uniform(size=count) if shares else 10 * random.normal(size=count)
    model = Kriging(features)
    known = np.concatenate([model.next(2), model.next(scored)])
    assert len(known) == min(count, scored + 2)
    found = model.predicted(np.where(np.isin(np.arange(count), known), scores, np.nan), shares=shares)
    np.testing.assert_allclose(found, expected(features, scores, known, shares=shares), rtol=1e-5, atol=1e-7)


@given(st.integers(2, 30), st.integers(1, 7), st.booleans(), st.integers(0, 99))
def test_what_is_least_known_is_scored_next(count: int, size: int, weighed: bool, seed: int) -> None:
    random = np.random.default_rng(seed)
    features = random.uniform(size=(count, 4))
    counts = random.uniform(0.1, 1, count) if weighed else np.ones(count)
    counts[1] = 1
    model, known = Kriging(features, first=1, counts=counts if weighed else None), [1]
    order = np.concatenate([model.next(size) for _ in range(-(-count // size))])
    assert order[0] == 1
    k = covariance(features)
    for mask in order[1:]:
        inverse = np.linalg.inv(k[np.ix_(known, known)] + NOISE * np.eye(len(known)))
        variance = counts**2 * (1 - np.einsum("ij,jk,ik->i", k[:, known], inverse, k[:, known]))
        variance[known] = -1
        assert variance[mask] >= variance.max() - 1e-9
        known.append(int(mask))
    assert sorted(order.tolist()) == list(range(count))
    assert model.next(3).size == 0


@pytest.mark.parametrize("alike", [np.zeros((6, 3)), np.ones((1, 3)), np.zeros((0, 3))])
def test_masks_that_are_all_the_same(alike: Doubles) -> None:
    model = Kriging(alike) if len(alike) else None
    if model is None:
        assert pooled([], CpuKernels()).shape == (0, kriging.SIDE**2)
        return
    model.next(1)
    scores = np.full(len(alike), np.nan)
    scores[0] = 0.75
    np.testing.assert_allclose(model.predicted(scores, shares=True), 0.75)


@pytest.mark.parametrize("size", [(26, 39), (30, 17), (9, 5)])
def test_pooled_masks_are_the_cells_of_the_full_ones(size: tuple[int, int]) -> None:
    maps = np.random.default_rng(0).uniform(size=(3, 4, 6)).astype(np.float32)
    affine = np.array([[2, 0.5], [1, 0], [0.3, -1]], np.float32)
    masks = MaskSet(np.arange(3), np.zeros((1, *size), np.float32), "NCHW", size, maps, affine, np.ones(3))
    full = torch.nn.functional.interpolate(torch.from_numpy(maps)[None].double(), size, mode="bilinear")[0].numpy()
    full = affine[:, :1, None] * full + affine[:, 1:, None]
    # Every pixel a hundred times, so that cells of whole pixels can be cut: the mean over each is exact.
    fine = np.repeat(np.repeat(full, 13, axis=1), 13, axis=2)
    cells = fine.reshape(3, 13, size[0], 13, size[1]).mean(axis=(2, 4))
    np.testing.assert_allclose(pooled([masks], CpuKernels()), cells.reshape(3, -1), atol=1e-6)


def test_a_quarter_of_the_passes_gives_nearly_the_whole_map() -> None:
    """On the real network and pictures of the demo: much nearer than leaving the other masks out."""
    bundle = load(demo.BUNDLE)
    pictures = [sample.image for sample in demo.samples() if sample.label != "good"]
    ours, cut = [], []
    with (
        Explainer(bundle, SISE(), "onnxruntime-cpu", 8) as predicted,
        Explainer(bundle, SISE(predict=False), "onnxruntime-cpu", 8) as left_out,
    ):
        for picture in pictures:
            full = predicted(picture)
            few = predicted(picture, max_passes=full.passes // 4)
            assert few.passes == full.passes // 4
            ours.append(pearson(few.saliency, full.saliency))
            cut.append(pearson(left_out(picture, max_passes=full.passes // 4).saliency, full.saliency))
    assert np.median(ours) > 0.9
    assert np.median(ours) > np.median(cut)


def test_remise_asks_first_about_the_masks_that_promise_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And SISE, whose scores do not count by what the gradient promises, does not."""
    asked = []

    class Seen(Kriging):
        def __init__(self, features: Doubles, first: int = 0, counts: Doubles | None = None) -> None:
            super().__init__(features, first, counts)
            asked.append((first, counts))

    monkeypatch.setattr(job, "Kriging", Seen)
    bundle = tiny.write(tmp_path / "b")
    for method in (REMISE(), SISE()):
        with Explainer(bundle, method, "onnxruntime-cpu", batch_size=4) as explainer:
            explainer(tiny.image(), 1, max_passes=3)
    (first, counts), (_, none) = asked
    assert none is None
    spec = bundle.input
    engine = open_engine(bundle.attribution, shapes={spec.name: (1, *spec.shape)})
    found = AttributionPass(bundle, engine)(prepare(tiny.image(), spec).array, 1)
    expected = []
    for block in found.blocks:
        maps = torch.from_numpy(np.array(block.features, np.float64))[:, None]
        full = torch.nn.functional.interpolate(maps, found.size, mode="bilinear").numpy()
        promise = block.alpha.astype(np.float64) * np.ptp(full, axis=(1, 2, 3))
        expected.append(promise[promise > 0] / promise.max())
    assert len(expected) > 1
    assert counts is not None
    np.testing.assert_allclose(counts, np.concatenate(expected), rtol=1e-4)
    assert first == sum(map(len, expected[:-1])) + expected[-1].argmax()


def test_ada_sise_can_be_predicted_too_and_several_targets_share_it(tmp_path: Path) -> None:
    with Explainer(tiny.write(tmp_path / "b"), AdaSISE(), batch_size=4) as explainer:
        full = explainer(tiny.image(), (0, 1, lambda p: p[:, 2] - p[:, 3]))
        few = explainer(tiny.image(), (0, 1, lambda p: p[:, 2] - p[:, 3]), max_passes=full[0].passes - 1)
    for found, whole in zip(few, full, strict=True):
        assert found.passes == whole.passes - 1
        assert list(found.layer_maps) == list(whole.layer_maps)
        assert pearson(found.saliency, whole.saliency) > 0.8
