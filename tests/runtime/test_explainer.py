"""From image to explanation on a small network, against the float64 torch reference, and at the edges."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

import sightline
from sightline import SISE, AdaSISE, Explainer, Explanation
from sightline.bundle import Bundle
from sightline.errors import BundleError, EngineError, ImageError, MethodError, StreamError, TargetError
from sightline.kernels import Kernels
from sightline.runtime.attributions import Attributions
from sightline.runtime.method import Method, Plan
from tests import reference
from tests.runtime import tiny


def expected(network: tiny.Tiny, image: npt.NDArray[np.float32], target: int, method: Method) -> reference.Explanation:
    """What the formulas give."""
    mu = method.mu if isinstance(method, SISE) else 0.0
    return reference.explain(
        network.double(), torch.from_numpy(image)[None], target, tiny.TAPS, mu=mu, adaptive=method == AdaSISE()
    )


def assert_finite(explanation: Explanation) -> None:
    for layer in (explanation.saliency, explanation.image_saliency, *explanation.layer_maps.values()):
        assert layer.dtype == np.float32
        assert np.isfinite(layer).all()
        assert layer.min() >= 0
        assert layer.max() <= 1
    assert np.isfinite(explanation.score)


@pytest.mark.parametrize("method", [SISE(), SISE(mu=0.3), SISE(mu=0.9), AdaSISE()])
@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_the_formulas(method: Method, seed: int, tmp_path: Path) -> None:
    network = tiny.Tiny(seed)
    image = tiny.image(seed)
    with Explainer(tiny.write(tmp_path / "b", network), method, batch_size=3) as explainer:
        for target in (None, 0, 1, 4):
            found = explainer(image, target)
            logits = network.double()(torch.from_numpy(image)[None].double())[0]
            assert target is not None or found.target == logits.argmax()
            assert found.score == pytest.approx(torch.softmax(logits, 0)[found.target].item(), rel=1e-5)
            assert found.target is not None
            formula = expected(network, image, found.target, method)
            assert found.passes == formula.passes
            maps = [layer.map for layer in formula.layers]
            assert len(found.layer_maps) == sum(layer is not None for layer in maps)
            for layer, full in zip(found.layer_maps.values(), [m for m in maps if m is not None], strict=True):
                np.testing.assert_allclose(layer, full.numpy(), atol=1e-5)
            np.testing.assert_allclose(found.saliency, formula.fused.numpy(), atol=1e-5)
            network.float()


def test_facts_of_the_explanation(explainer: Explainer, bundle: Bundle) -> None:
    found = explainer(tiny.image(), "pit")
    assert (found.target, found.label) == (2, "pit")
    assert (found.method, dict(found.parameters)) == ("sise", {"mu": 0.0, "predict": True})
    assert (found.bundle_hash, found.engine) == (bundle.hash, "onnxruntime-cpu")
    assert found.saliency.shape == (tiny.HEIGHT, tiny.WIDTH)
    stages = dict(found.timings)
    assert stages.pop("total") == pytest.approx(sum(stages.values()))
    assert set(stages) == {"preprocess", "attribution", "selection", "masking", "passes", "fusion"}


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_the_same_input_gives_the_same_bytes(bundle: Bundle, batch_size: int) -> None:
    image = tiny.image()
    with Explainer(bundle, batch_size=batch_size) as one, Explainer(bundle, batch_size=batch_size) as other:
        first = one(image)
        one(tiny.image(1))  # what was explained before must not matter
        for again in (one(image), other(image)):
            assert again.saliency.tobytes() == first.saliency.tobytes()
            assert again.score == first.score


def test_images_that_share_batches_are_explained_as_if_alone(bundle: Bundle) -> None:
    images = [tiny.image(seed) for seed in range(5)]
    with Explainer(bundle, batch_size=64) as explainer:
        together = list(explainer.batch(images))
        for found, image in zip(together, images, strict=True):
            alone = explainer(image)
            assert (found.target, found.passes) == (alone.target, alone.passes)
            np.testing.assert_allclose(found.saliency, alone.saliency, atol=1e-5)


@dataclass(frozen=True)
class Choosy(SISE):
    """Finds nothing in dark images."""

    def plan(self, attributions: Attributions, kernels: Kernels) -> Plan:
        plan = super().plan(attributions, kernels)
        return plan if attributions.image.mean() > -50 else replace(plan, choices={})


def test_images_without_masks_keep_their_place(bundle: Bundle) -> None:
    dark = np.full(tiny.INPUT.shape, -100, np.float32)
    images = [dark, tiny.image(0), dark, dark, tiny.image(1), dark]
    with Explainer(bundle, Choosy(), batch_size=4) as explainer:
        together = list(explainer.batch(images))
        assert [found.passes == 0 for found in together] == [True, False, True, True, False, True]
        for found, image in zip(together, images, strict=True):
            np.testing.assert_allclose(found.saliency, explainer(image).saliency, atol=1e-5)


def test_images_are_drawn_as_they_are_needed(explainer: Explainer) -> None:
    drawn: list[int] = []

    def images() -> Iterator[npt.NDArray[np.float32]]:
        for seed in range(50):
            drawn.append(seed)
            yield tiny.image(seed)

    next(explainer.batch(images()))
    assert len(drawn) <= 2


def test_what_draws_images_must_not_use_the_explainer_that_draws(bundle: Bundle) -> None:
    """The batch is half full of masks then. Between two results it may be used as ever."""
    images = [tiny.image(seed) for seed in range(4)]
    with Explainer(bundle, batch_size=8) as explainer:
        alone = [explainer(image).saliency for image in images]
        for use in (lambda image: next(explainer.classify([image])), explainer):
            with pytest.raises(EngineError, match="middle of a batch"):
                list(explainer.batch(image for image in images if use(image) is not None))
            for found, expected in zip(explainer.batch(images), alone, strict=True):
                np.testing.assert_array_equal(found.saliency, expected)
                use(images[0])


def test_a_stream_has_its_explainer_to_itself(bundle: Bundle) -> None:
    with Explainer(bundle, batch_size=8) as explainer, explainer.stream(tiny.image(n) for n in range(3)) as stream:
        next(stream)
        for use in (explainer, explainer.probabilities, lambda image: explainer.classify([image])):
            with pytest.raises(StreamError, match="explaining a stream"):
                use(tiny.image())
        assert len(list(stream)) == 2
        explainer(tiny.image())


def test_channels_last(tmp_path: Path, bundle: Bundle) -> None:
    image = tiny.image()
    with Explainer(tiny.write(tmp_path / "b", layout="NHWC")) as last, Explainer(bundle) as first:
        np.testing.assert_allclose(last(image).saliency, first(image).saliency, atol=1e-5)


def test_a_photograph(explainer: Explainer, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (90, 70, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    found = explainer(tmp_path / "image.png")
    assert found.image_saliency.shape == (90, 70)
    assert found.overlay().size == (70, 90)
    np.testing.assert_array_equal(found.saliency, explainer(pixels).saliency)
    np.testing.assert_array_equal(found.saliency, explainer(Image.fromarray(pixels)).saliency)


def test_progress_reaches_the_number_of_passes(bundle: Bundle) -> None:
    steps: list[tuple[int, int]] = []
    with Explainer(bundle, batch_size=4, progress=lambda done, total: steps.append((done, total))) as explainer:
        passes = explainer(tiny.image()).passes
    assert [total for _, total in steps] == [passes] * len(steps)
    assert steps[-1] == (passes, passes)


# Edges: everything stays finite.


@pytest.mark.parametrize("value", [0, 255])
def test_a_flat_image(explainer: Explainer, value: int) -> None:
    assert_finite(explainer(np.full((50, 60, 3), value, np.uint8)))


@pytest.mark.parametrize("target", range(tiny.CLASSES))
def test_a_network_that_is_quite_sure(tmp_path: Path, target: int) -> None:
    """p_c is exactly 0 or 1 in float32; its gradient would vanish, that of the log-odds does not."""
    network = tiny.Tiny()
    with torch.no_grad():
        network.head.weight *= 1e4
    with Explainer(tiny.write(tmp_path / "b", network)) as explainer:
        found = explainer(tiny.image(), target)
        assert found.score in (0.0, 1.0)
        assert_finite(found)
        if found.score == 1:
            assert found.saliency.max() == 1


def test_a_flat_block_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    network = tiny.Tiny()
    with torch.no_grad():
        network.conv2.weight.zero_()
        assert network.conv2.bias is not None
        network.conv2.bias.fill_(1)
    caplog.set_level(logging.INFO, "sightline")
    with Explainer(tiny.write(tmp_path / "b", network)) as explainer:
        found = explainer(tiny.image())
    assert "late" not in found.layer_maps
    assert "block late left out" in caplog.text
    assert_finite(found)


def test_no_block_at_all_is_a_map_of_zeros(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    network = tiny.Tiny()
    with torch.no_grad():
        network.head.weight.zero_()
    with Explainer(tiny.write(tmp_path / "b", network)) as explainer:
        found = explainer(tiny.image())
    assert (found.passes, found.saliency.max(), dict(found.layer_maps)) == (0, 0, {})
    assert found.saliency.shape == (tiny.HEIGHT, tiny.WIDTH)
    assert found.regions() == []
    assert "all zero" in caplog.text
    found.save(tmp_path / "zero.png")


def test_a_network_that_answers_nan_is_an_error(tmp_path: Path) -> None:
    network = tiny.Tiny()
    with torch.no_grad():
        network.head.bias.fill_(torch.nan)
    with Explainer(tiny.write(tmp_path / "b", network)) as explainer, pytest.raises(EngineError, match="NaN"):
        explainer(tiny.image())


# Wrong use, each with its own error.


def test_wrong_arguments(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(MethodError, match=r"'gradcam'.*sise, ada-sise, remise"):
        Explainer(bundle, "gradcam")
    with pytest.raises(EngineError, match="'warp'"):
        Explainer(bundle, engine="warp")
    with pytest.raises(BundleError, match="no bundle"):
        Explainer(tmp_path)
    for size in (0, -1, 2.5):
        with pytest.raises(EngineError, match=f"batch_size={size}"):
            Explainer(bundle, batch_size=size)  # type: ignore[arg-type]


def test_wrong_targets_and_images(explainer: Explainer) -> None:
    for target, said in ((5, "classes 0 to 4"), (-1, "class -1"), ("dent", "'dent'.*good, scratch")):
        with pytest.raises(TargetError, match=said):
            explainer(tiny.image(), target)
    with pytest.raises(ImageError, match="NaN"):
        explainer(np.full(tiny.INPUT.shape, np.nan, np.float32))
    assert_finite(explainer(tiny.image()))  # an error does not spoil the explainer


def test_a_closed_explainer_says_so(bundle: Bundle) -> None:
    with Explainer(str(bundle.path)) as explainer:
        pass
    with pytest.raises(EngineError, match="closed"):
        explainer(tiny.image())


def test_names_of_the_package() -> None:
    assert {"Explainer", "Explanation", "SISE", "AdaSISE", "export", "load", "errors"} <= set(dir(sightline))
    with pytest.raises(AttributeError, match="explain_everything"):
        _ = sightline.explain_everything
