"""RISE, Score-CAM and the Grad-CAMs beside their formulas, in float64 torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sightline import REMISE, RISE, Explainer, GradCAM, GradCAMPlusPlus, LayerCAM, ScoreCAM
from sightline.bundle import Bundle
from sightline.errors import MethodError
from sightline.runtime.explainer import METHODS
from sightline.runtime.method import Method
from tests import reference
from tests.runtime import tiny

SIZE = (tiny.HEIGHT, tiny.WIDTH)
LAST = tiny.TAPS.index("late")


def up(map: Tensor) -> Tensor:
    return F.interpolate(map[None, None], size=SIZE, mode="bilinear", align_corners=False)[0, 0]


def minmax(map: Tensor) -> Tensor:
    return (map - map.min()) / (map.max() - map.min()) if map.max() > map.min() else torch.zeros_like(map)


def logit_gradient(image: Tensor, target: int, tap: int) -> tuple[Tensor, Tensor]:
    """A and ∂z_c/∂A, C×h×w each."""
    logits, taps = reference.tapped(tiny.Tiny().double(), image, tiny.TAPS)
    (gradient,) = torch.autograd.grad(logits[0, target], [taps[tap]])
    return taps[tap][0].detach(), gradient[0]


def grad_cam(image: Tensor, target: int, tap: int) -> Tensor:
    features, gradient = logit_gradient(image, target, tap)
    return torch.stack([g.mean() * a for g, a in zip(gradient, features, strict=True)]).sum(dim=0).relu()


def grad_cam_plus_plus(image: Tensor, target: int, tap: int) -> Tensor:
    features, gradient = logit_gradient(image, target, tap)
    blended = torch.zeros_like(features[0])
    for a, g in zip(features, gradient, strict=True):
        share = torch.where(g != 0, g**2 / (2 * g**2 + g**3 * a.sum() + 1e-6), torch.zeros_like(g))
        blended += (share * g.relu()).sum() * a
    return blended.relu()


def layer_cam(image: Tensor, target: int, tap: int) -> Tensor:
    features, gradient = logit_gradient(image, target, tap)
    return (gradient.relu() * features).sum(dim=0).relu()


def score_cam(image: Tensor, target: int, tap: int) -> Tensor:
    network = tiny.Tiny().double()
    _, taps = reference.tapped(network, image, tiny.TAPS)
    kept = [a.detach() for a in taps[tap][0] if a.min() < a.max()]
    with torch.no_grad():
        logits = torch.stack([network(image * minmax(up(a)))[0, target] for a in kept])
        weights = logits.softmax(0)
        return torch.stack([w * a for w, a in zip(weights, kept, strict=True)]).sum(dim=0).relu()


FORMULAS: list[tuple[Callable[..., Method], Callable[[Tensor, int, int], Tensor]]] = [
    (GradCAM, grad_cam),
    (GradCAMPlusPlus, grad_cam_plus_plus),
    (LayerCAM, layer_cam),
    (ScoreCAM, score_cam),
]


@pytest.mark.parametrize(("method", "formula"), FORMULAS)
@pytest.mark.parametrize("block", [None, "early"])
def test_class_activation_maps(
    method: Callable[..., Method], formula: Callable[[Tensor, int, int], Tensor], block: str | None, bundle: Bundle
) -> None:
    with Explainer(bundle, method(block=block), batch_size=5) as explainer:
        for seed in range(4):
            image = tiny.image(seed)
            for target in (0, 3):
                found = explainer(image, target)
                tap = LAST if block is None else tiny.TAPS.index(block)
                low = formula(torch.from_numpy(image)[None].double(), target, tap)
                np.testing.assert_allclose(found.saliency, minmax(up(low)).numpy(), atol=1e-4)
                assert found.passes == (0 if method is not ScoreCAM else found.passes)


def official_masks(method: RISE) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Grids and shifts drawn in the method's order, then made into masks at full size as the authors do."""
    random = np.random.default_rng(method.seed)
    grids = random.random((method.passes, method.cells, method.cells)) < method.share
    cell = [int(np.ceil(side / method.cells)) for side in SIZE]
    shifts = random.integers(0, cell, (method.passes, 2))
    larger = [(method.cells + 1) * side for side in cell]
    masks = []
    for grid, (y, x) in zip(grids, shifts, strict=True):
        full = reference.mirrored(torch.from_numpy(grid).double(), larger)
        masks.append(full[y : y + SIZE[0], x : x + SIZE[1]].numpy())
    return np.stack(masks), shifts


@pytest.mark.parametrize("method", [RISE(passes=40), RISE(passes=33, cells=5, share=0.2, seed=7)])
def test_rise(method: RISE, bundle: Bundle) -> None:
    masks, shifts = official_masks(method)
    assert masks.shape == (method.passes, *SIZE)
    assert len(np.unique(shifts)) > 1
    image = tiny.image()
    with torch.no_grad():
        masked = torch.from_numpy(image)[None].double() * torch.from_numpy(masks)[:, None]
        scores = tiny.Tiny().double()(masked).softmax(1).numpy()
    with Explainer(bundle, method, batch_size=7) as explainer:
        found = explainer(image, 2)
    expected = np.tensordot(scores[:, 2], masks, 1) / (method.passes * method.share)
    assert found.passes == method.passes
    np.testing.assert_allclose(found.saliency, minmax(torch.from_numpy(expected)).numpy(), atol=1e-4)


def remise(image: Tensor, target: int, width: float) -> tuple[Tensor, int]:
    """What a class loses without the region of every mask, weighed and gated: the formulas of docs/methods.md."""
    network = tiny.Tiny().double()
    found = reference.seeded_gradient(network, image, target, tiny.TAPS)
    fused, passes = None, 0
    for features, gradient in zip(found.features, found.gradients, strict=True):
        layer = torch.zeros(SIZE, dtype=torch.float64)
        for map, alpha in zip(features, gradient.mean(dim=(1, 2)), strict=True):
            mask = reference.attribution_mask(map, SIZE)
            if alpha <= 0 or mask is None:
                continue
            passes += 1
            with torch.no_grad():
                whole, without = (network(masked).softmax(1)[0, target] for masked in (image, image * (1 - mask)))
            full = up(map)
            layer += (whole - without).relu() * alpha * (full.max() - full.min()) * mask / mask.sum()
        layer = minmax(layer)
        if layer.max() == 0:
            continue
        threshold = reference.otsu(layer)
        assert threshold is not None
        fused = layer if fused is None else (fused + layer) * torch.sigmoid((layer - threshold) / width)
    assert fused is not None
    return minmax(fused), passes


@pytest.mark.parametrize("width", [0.05, 0.3])
@pytest.mark.parametrize("seed", range(4))
def test_remise(bundle: Bundle, seed: int, width: float) -> None:
    with Explainer(bundle, REMISE(width=width), batch_size=5) as explainer:
        found = explainer(tiny.image(seed))
    assert found.target is not None
    expected, passes = remise(torch.from_numpy(tiny.image(seed))[None].double(), found.target, width)
    assert found.passes == passes
    np.testing.assert_allclose(found.saliency, expected.numpy(), atol=1e-4)


def test_rise_is_seeded(bundle: Bundle) -> None:
    image = tiny.image()
    maps = []
    for seed in (0, 0, 1):
        with Explainer(bundle, RISE(passes=20, seed=seed), batch_size=8) as explainer:
            maps.append(explainer(image).saliency)
    np.testing.assert_array_equal(maps[0], maps[1])
    assert (maps[0] != maps[2]).any()


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_finite_on_flat_images_and_flat_networks(name: str, bundle: Bundle, tmp_path: Path) -> None:
    network = tiny.Tiny()
    with torch.no_grad():
        network.head.weight.zero_()
    options = {"passes": 16} if name == "rise" else {}
    for opened in (bundle, tiny.write(tmp_path / "flat", network)):
        with Explainer(opened, METHODS[name](**options), batch_size=8) as explainer:
            for value in (0, 255):
                found = explainer(np.full((30, 30, 3), value, np.uint8))
                assert np.isfinite(found.saliency).all()
                assert 0 <= found.saliency.min() <= found.saliency.max() <= 1


def test_wrong_parameters(bundle: Bundle) -> None:
    for wrong in ({"passes": 0}, {"cells": 0}, {"share": 0}, {"share": 1.0}, {"seed": -1}, {"passes": 1.5}):
        with pytest.raises(MethodError, match=next(iter(wrong))):
            RISE(**wrong)
    for wrong in ({"width": 0}, {"width": 2.0}, {"mu": 1}):
        with pytest.raises(MethodError, match=next(iter(wrong))):
            REMISE(**wrong)
    with Explainer(bundle, GradCAM(block="middle")) as explainer, pytest.raises(MethodError, match="early, late"):
        explainer(tiny.image())
