"""Whole explanations of real architectures, exported and run as a user would, against the float64 torch reference.

Of few pixels or few masks, so that the reference, which makes every mask at full size and every pass in double
precision, takes seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pytest
import torch

from sightline import SISE, AdaSISE, Explainer, export
from sightline.bindings import open_engine
from sightline.bundle import Bundle
from sightline.kernels import kernels_for
from sightline.runtime.attributions import AttributionPass
from sightline.runtime.selection import above_otsu, above_share
from tests import reference
from tests.zoo import FAMILIES, Family

METHODS: dict[str, tuple[int, SISE | AdaSISE]] = {
    "resnet50": (96, SISE(mu=0.75)),
    "vgg16": (224, SISE(mu=0.9)),  # its head pools to 7×7, which needs a whole divisor of the map
    "densenet121": (96, SISE(mu=0.75)),
    "mobilenet_v2": (224, SISE(mu=0.9)),
}
"""Side of the image in pixels, and how it is explained."""


@dataclass(frozen=True)
class Case:
    family: Family
    module: torch.nn.Module
    bundle: Bundle
    image: npt.NDArray[np.float32]
    target: int


@pytest.fixture(scope="module", params=METHODS)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    (family,) = (replace(each, size=METHODS[each.name][0]) for each in FAMILIES if each.name == request.param)
    module, image = family.build(), family.image()
    bundle = export(module, tmp_path_factory.mktemp(family.name) / "bundle", example=image)
    with torch.no_grad():
        target = int(module(image).argmax())
    return Case(family, module.double(), bundle, image[0].numpy(), target)


def test_the_explanation_agrees_with_the_reference(case: Case) -> None:
    _, method = METHODS[case.family.name]
    how = {"mu": method.mu} if isinstance(method, SISE) else {"adaptive": True}
    want = reference.explain(case.module, torch.from_numpy(case.image)[None], case.target, case.family.taps, **how)
    with Explainer(case.bundle, method) as explainer:
        got = explainer(case.image)
    assert got.target == case.target
    assert got.passes == want.passes
    decided = np.ones(want.fused.shape, bool)
    for block, layer in zip(case.bundle.blocks, want.layers, strict=True):
        assert layer.map is not None
        ours, theirs = got.layer_maps[block.name], layer.map.numpy()
        np.testing.assert_allclose(ours, theirs, atol=1e-4, err_msg=block.name)
        # Fusion keeps or drops a pixel by a threshold: of one that lies on it, rounding decides.
        threshold = reference.otsu(layer.map)
        assert threshold is not None
        decided &= abs(theirs - threshold) > abs(ours - theirs).max()
    assert decided.mean() >= 0.999
    fused = want.fused.numpy()
    assert np.corrcoef(got.saliency[decided], fused[decided])[0, 1] >= 0.9999
    assert np.mean(np.abs(got.saliency - fused) > 1e-3) <= 1e-3


@pytest.mark.parametrize("mu", [0.0, 0.3, 0.75, None])
def test_the_same_maps_are_selected(case: Case, mu: float | None) -> None:
    found = reference.seeded_gradient(
        case.module, torch.from_numpy(case.image)[None].double(), case.target, case.family.taps
    )
    shapes = {case.bundle.input.name: (1, *case.bundle.input.shape)}
    with open_engine(case.bundle.attribution, shapes=shapes) as engine:
        blocks = AttributionPass(case.bundle, engine)(case.image, None).blocks
        for block, alphas in zip(blocks, found.alphas, strict=True):
            ratios = alphas / alphas.max()
            if mu is None:
                choice, want = above_otsu(block.alpha, kernels_for("cpu")), reference.adaptive_selection(alphas)
                positive = ratios[ratios > 0]
                edge = reference.otsu(positive) or 0.0
            else:
                choice, want, edge = above_share(block.alpha, mu), reference.selection(alphas, mu), mu
            # A map whose share lies within rounding of the threshold may fall on either side.
            certain = {k for k, ratio in enumerate(ratios.tolist()) if abs(ratio - edge) > 1e-4}
            assert set(choice.numbers.tolist()) & certain == set(want) & certain
            assert len(certain) > 0.9 * len(alphas)
