"""Several targets of one image, and targets that are functions of the probabilities."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from sightline import REMISE, RISE, SISE, Explainer
from sightline.bundle import Activation, Bundle
from sightline.errors import TargetError
from sightline.runtime import targets
from sightline.runtime.explainer import METHODS
from sightline.runtime.method import Method
from tests.runtime import tiny

Doubles = npt.NDArray[np.float64]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny.write(tmp_path_factory.mktemp("tiny") / "tiny.sightline")


def either(probabilities: Doubles) -> Doubles:
    """A scratch or a crack."""
    return probabilities[:, 1] + probabilities[:, 3]


class Margin:
    """One logit's lead in a curved form, with a gradient of its own."""

    def __call__(self, probabilities: Doubles) -> Doubles:
        return probabilities[:, 0] ** 2 - probabilities[:, 2] * probabilities[:, 1]

    def gradient(self, probabilities: Doubles) -> Doubles:
        return np.array([2 * probabilities[0], -probabilities[2], -probabilities[1], 0, 0])


@pytest.mark.parametrize("method", METHODS)
def test_several_targets_are_explained_as_if_each_alone(bundle: Bundle, method: str) -> None:
    wanted: list[Any] = [1, "crack", either]
    with Explainer(bundle, METHODS[method](**({"passes": 50} if method == "rise" else {}))) as explainer:
        together = explainer(tiny.image(), wanted)
        alone = [explainer(tiny.image(), target) for target in wanted]
    assert [found.target for found in together] == [1, 3, None]
    assert [found.label for found in together] == ["scratch", "crack", "either"]
    for one, other in zip(together, alone, strict=True):
        assert one.score == other.score
        assert list(one.layer_maps) == list(other.layer_maps)
        np.testing.assert_allclose(one.saliency, other.saliency, atol=1e-5)
    if alone[0].passes:  # a mask that two targets choose is scored once
        assert max(found.passes for found in alone) <= together[0].passes < sum(found.passes for found in alone)


@pytest.mark.parametrize("method", [SISE(mu=0.3), REMISE(mu=0.3)])
def test_a_mask_of_another_target_has_no_weight(bundle: Bundle, method: Method) -> None:
    with Explainer(bundle, method) as explainer:
        for seed in range(3):
            together = explainer(tiny.image(seed), list(range(tiny.CLASSES)))
            for target, found in enumerate(together):
                np.testing.assert_allclose(found.saliency, explainer(tiny.image(seed), target).saliency, atol=1e-5)


def test_several_targets_of_several_images(bundle: Bundle) -> None:
    images = [tiny.image(seed) for seed in range(3)]
    with Explainer(bundle, batch_size=64) as explainer:
        for found, image in zip(explainer.batch(images, [0, 4]), images, strict=True):
            for one, target in zip(found, (0, 4), strict=True):
                np.testing.assert_allclose(one.saliency, explainer(image, target).saliency, atol=1e-5)


@pytest.mark.parametrize("target", range(tiny.CLASSES))
def test_a_function_that_is_a_class_is_explained_as_the_class(bundle: Bundle, target: int) -> None:
    with Explainer(bundle) as explainer:
        found, expected = explainer(tiny.image(), lambda p: p[:, target]), explainer(tiny.image(), target)
    assert (found.label, found.target, found.passes) == ("function", None, expected.passes)
    assert found.score == pytest.approx(expected.score)
    np.testing.assert_allclose(found.saliency, expected.saliency, atol=1e-4)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "none"])
@pytest.mark.parametrize("scale", [1.0, 30.0])
@pytest.mark.parametrize("own", [True, False])
def test_the_gradient_of_a_function_agrees_with_autograd(activation: Activation, scale: float, own: bool) -> None:
    logits = torch.from_numpy(np.random.default_rng(1).normal(size=(1, 5)) * scale).requires_grad_()
    p = {"softmax": torch.softmax(logits, 1), "sigmoid": torch.sigmoid(logits), "none": logits}[activation]
    (p[:, 0] ** 2 - p[:, 2] * p[:, 1]).sum().backward()
    assert logits.grad is not None
    expected = logits.grad[0] / logits.grad.abs().max()
    function = Margin() if own else lambda p: Margin()(p)
    found = targets.gradient(function, logits.detach().numpy()[0], activation)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-6)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("margin", [25.0, 31.0, 36.0, 45.0, 90.0, 240.0])
def test_the_gradient_of_a_sure_network(activation: Activation, margin: float, own: bool) -> None:
    """Of p_c it is that of the log-odds up to a factor, however near p_c is to 1 (in exact arithmetic)."""
    logits = np.array([margin, 0.0, 0.4, -1.0, -2.0])
    expected = np.array([1.0, 0, 0, 0, 0])
    if activation == "softmax":
        expected[1:] = -np.exp(logits[1:]) / np.exp(logits[1:]).sum()

    class First:
        def __call__(self, probabilities: Doubles) -> Doubles:
            return probabilities[:, 0]

        def gradient(self, probabilities: Doubles) -> Doubles:
            return np.array([1.0, 0, 0, 0, 0])

    found = targets.gradient(First() if own else lambda p: p[:, 0], logits, activation)
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_a_function_that_ignores_the_image_has_no_gradient(bundle: Bundle) -> None:
    with Explainer(bundle) as explainer:
        found = explainer(tiny.image(), lambda p: np.full(len(p), 0.5))
    assert (found.passes, found.saliency.max(), found.score) == (0, 0, 0.5)


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda p: p, r"shape \(1, 5\).*one number for each row"),
        (lambda p: p.sum(), r"shape \(\).*one number for each row"),
        (lambda p: ["much"] * len(p), "one number for each row"),
        (lambda p: p[:, 0] * np.nan, "NaN or infinity"),
    ],
)
def test_a_function_that_returns_something_else(bundle: Bundle, function: Any, said: str) -> None:
    with Explainer(bundle) as explainer, pytest.raises(TargetError, match=said):
        explainer(tiny.image(), function)


def test_a_gradient_of_the_wrong_shape() -> None:
    class Short(Margin):
        def gradient(self, probabilities: Doubles) -> Doubles:
            return probabilities[:3]

    with pytest.raises(TargetError, match=r"shape \(3,\): return 5 finite numbers"):
        targets.gradient(Short(), np.zeros(5), "none")


def test_too_many_outputs_for_difference_quotients() -> None:
    with pytest.raises(TargetError, match=r"10000 outputs.*'gradient'.*rise"):
        targets.gradient(lambda p: p[:, 0], np.zeros(10_000), "none")


def test_a_method_without_gradients_takes_any_function(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "LARGEST", 3)
    with Explainer(bundle, RISE(passes=20)) as explainer:
        assert explainer(tiny.image(), either).passes == 20
    with Explainer(bundle) as explainer, pytest.raises(TargetError, match="rise"):
        explainer(tiny.image(), either)


def test_no_target_at_all(bundle: Bundle) -> None:
    with Explainer(bundle) as explainer:
        with pytest.raises(TargetError, match="empty"):
            explainer(tiny.image(), [])
        with pytest.raises(TargetError, match="class 9"):
            explainer(tiny.image(), [0, 9])


def test_a_function_is_saved_by_its_name(bundle: Bundle, tmp_path: Path) -> None:
    with Explainer(bundle) as explainer:
        found = explainer(tiny.image(), either)
    found.save(tmp_path / "either.json")
    found.save(tmp_path / "either.png")
    assert '"label": "either"' in (tmp_path / "either.json").read_text()
    assert found.facts()["target"] is None


def test_whole_images_are_classified_in_full_batches(bundle: Bundle) -> None:
    images = [tiny.image(seed) for seed in range(7)]
    with Explainer(bundle, "score-cam", batch_size=3) as explainer:
        batches = list(explainer.classify(images))
        scores = [explainer(image, 2).score for image in images]
    assert [len(batch) for batch in batches] == [3, 3, 1]
    np.testing.assert_allclose(np.concatenate(batches)[:, 2], scores, atol=1e-6)
