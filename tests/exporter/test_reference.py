"""The oracle of tests/reference.py against what must hold of it: identities of the formulas, and cases done by hand."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from tests import reference


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.first = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(6, 9, 3, 2, 1), nn.ReLU())
        self.head = nn.Linear(9, 4)
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.second(self.first(x)).mean((2, 3))) * 20
        return y


TAPS = ("first", "second")


@pytest.fixture(scope="module")
def image() -> Tensor:
    return torch.randn(1, 3, 24, 20, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def test_the_seed_is_the_gradient_of_p_up_to_a_factor(image: Tensor) -> None:
    module = Tiny().double()
    found = reference.seeded_gradient(module, image, 2, TAPS)
    with torch.enable_grad():
        logits, tensors = reference.tapped(module, image.clone().requires_grad_(), TAPS)
        p = torch.softmax(logits, 1)[0, 2]
        gradients = torch.autograd.grad(p, tensors)
    for got, want in zip(found.gradients, gradients, strict=True):
        torch.testing.assert_close(got * (p * (1 - p)).detach(), want[0])


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_a_layer_map_is_exact_at_low_resolution(image: Tensor, activation: str) -> None:
    # V_b = up(Σ w_k A_k) − Σ w_k min_k with w_k = s_k / ((max_k − min_k)·Σ M_k)
    module = Tiny()
    result = reference.explain(module, image, 1, TAPS, activation=activation)
    features = reference.seeded_gradient(module, image, 1, TAPS, activation=activation).features
    for layer, maps in zip(result.layers, features, strict=True):
        assert layer.map is not None
        low, offset = torch.zeros(maps.shape[1:], dtype=torch.float64), 0.0
        for k, score in zip(layer.selected, layer.scores.tolist(), strict=True):
            full = reference.up(maps[k], image.shape[2:])
            mask = reference.attribution_mask(maps[k], image.shape[2:])
            assert mask is not None
            weight = score / float((full.max() - full.min()) * mask.sum())
            low, offset = low + weight * maps[k], offset + weight * full.min().item()
        combined = reference.minmax(reference.up(low, image.shape[2:]) - offset)
        torch.testing.assert_close(layer.map, combined)


def test_a_larger_mu_keeps_fewer_maps_and_never_others(image: Tensor) -> None:
    kept = [
        [set(layer.selected) for layer in reference.explain(Tiny(), image, 0, TAPS, mu=mu).layers]
        for mu in (0.0, 0.3, 0.75)
    ]
    for more, fewer in itertools.pairwise(kept):
        assert all(few <= many for many, few in zip(more, fewer, strict=True))


def test_the_adaptive_selection_keeps_some_of_the_positive_maps(image: Tensor) -> None:
    plain = reference.explain(Tiny(), image, 0, TAPS)
    adaptive = reference.explain(Tiny(), image, 0, TAPS, adaptive=True)
    assert 0 < adaptive.passes < plain.passes


def test_nothing_positive_selects_nothing() -> None:
    assert reference.selection(torch.tensor([-1.0, 0.0, -2.0]), 0.0) == []
    assert reference.adaptive_selection(torch.tensor([-1.0, 0.0])) == []


def test_mu_is_a_strict_threshold() -> None:
    alphas = torch.tensor([1.0, 0.5, 0.25, -1.0, 0.0], dtype=torch.float64)
    assert reference.selection(alphas, 0.0) == [0, 1, 2]
    assert reference.selection(alphas, 0.25) == [0, 1]
    assert reference.selection(alphas, 0.5) == [0]


def test_few_or_equal_maps_are_all_kept() -> None:
    assert reference.adaptive_selection(torch.tensor([1.0, 0.01])) == [0, 1]
    assert reference.adaptive_selection(torch.tensor([0.5, 0.5, 0.5, -1.0])) == [0, 1, 2]


def test_otsu_separates_two_heaps_at_the_first_best_split() -> None:
    # 0.1 lies in bin 25, 0.9 in bin 230: every split between them is equally good, the first ends bin 25.
    values = torch.tensor([0.1] * 7 + [0.9] * 3, dtype=torch.float64)
    assert reference.otsu(values) == 26 / 256


def test_otsu_of_equal_values_has_no_threshold() -> None:
    assert reference.otsu(torch.full((5,), 0.3)) is None


def test_otsu_puts_one_into_the_last_bin() -> None:
    assert reference.otsu(torch.tensor([0.0, 0.0, 1.0])) == 1 / 256


def test_the_fusion_never_binarises_the_first_map() -> None:
    first = torch.tensor([[0.0, 0.2], [0.6, 1.0]], dtype=torch.float64)
    second = torch.tensor([[1.0, 0.9], [0.1, 0.0]], dtype=torch.float64)
    # (V1 + V2) where V2 is above its threshold, at the upper left: 1.0 and 1.1, zero elsewhere.
    expected = torch.tensor([[1.0, 1.1], [0.0, 0.0]], dtype=torch.float64) / 1.1
    torch.testing.assert_close(reference.fusion([first, second]), expected)
    torch.testing.assert_close(reference.fusion([first]), first)


def test_a_constant_map_makes_no_mask() -> None:
    assert reference.attribution_mask(torch.full((3, 3), 2.0), (6, 6)) is None


def test_up_has_half_pixel_centres() -> None:
    got = reference.up(torch.tensor([[0.0, 1.0]], dtype=torch.float64), (1, 4))
    torch.testing.assert_close(got, torch.tensor([[0.0, 0.25, 0.75, 1.0]], dtype=torch.float64))
