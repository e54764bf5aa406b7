"""The class activation maps beside the packages that people use, and RISE beside its authors' procedure.

torch-cam comes with the test extra; pytorch-grad-cam brings OpenCV and more, and is compared where it is installed.
Both explain the torch network in float64. Where a package follows another convention, that convention is changed in the
package, by name, and nothing else: the maps must then be the same.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import sightline
from sightline import RISE, Explainer, GradCAM, GradCAMPlusPlus, LayerCAM, ScoreCAM, demo
from sightline.bundle import Bundle
from sightline.runtime.method import Method
from tests import reference
from tests.runtime import test_demo_network, tiny
from tests.zoo import FAMILIES, fitted

Array = npt.NDArray[Any]

network = test_demo_network.network
RESNET = next(family for family in FAMILIES if family.name == "resnet18")


@dataclass(frozen=True, eq=False)
class Case:
    """A torch network in float64, its bundle, an image of 1×3×H×W, and two of its blocks."""

    module: nn.Module
    bundle: Bundle
    image: Tensor
    blocks: tuple[str, str]

    @functools.cached_property
    def targets(self) -> tuple[int, int]:
        """The likeliest class and the least likely."""
        with torch.no_grad():
            logits = self.module(self.image)[0]
        return int(logits.argmax()), int(logits.argmin())

    @property
    def size(self) -> tuple[int, int]:
        height, width = self.image.shape[2:]
        return height, width

    def explained(self, method: Method, *targets: int) -> list[Array]:
        with Explainer(self.bundle, method, engine="onnxruntime-cpu", batch_size=16) as explainer:
            return [explainer(self.image[0].float().numpy(), target).saliency for target in targets]


def small_vgg() -> nn.Module:
    """Three stages of two convolutions and a max-pool, for 40×56 pixels; the head bends, so gradients vary in place."""
    layers: list[nn.Module] = []
    for before, after in pairwise((3, 12, 20, 28)):
        for channels in (before, after):
            layers += [nn.Conv2d(channels, after, 3, padding=1), nn.ReLU()]
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(28 * 5 * 7, 40), nn.ReLU(), nn.Linear(40, 6))


def demo_image() -> Tensor:
    spec, sample = sightline.load(demo.BUNDLE).input, demo.samples()[0]
    pixels = np.asarray(Image.open(sample.image), np.float64) / 255
    return torch.from_numpy((pixels - spec.mean) / spec.std).permute(2, 0, 1)[None]


@pytest.fixture(scope="module", params=["demo", "resnet18", "vgg", "tiny"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    folder = tmp_path_factory.mktemp("peers") / "network.sightline"
    if request.param == "demo":
        module = request.getfixturevalue("network")
        yield Case(module, sightline.load(demo.BUNDLE), demo_image(), ("stages.1", "stages.3"))
        return
    if request.param == "tiny":
        image = torch.from_numpy(tiny.image())[None].double()
        yield Case(tiny.Tiny().double(), tiny.write(folder), image, ("early", "late"))
        return
    torch.manual_seed(0)
    module, size, blocks = RESNET.make(), (48, 64), ("layer1", "layer2")
    if request.param == "vgg":
        module, size, blocks = small_vgg(), (40, 56), ("8", "13")
    image = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(7))
    bundle = sightline.export(fitted(module, image), folder, example=image)
    yield Case(module.double(), bundle, image.double(), blocks)


def minmax(map: Tensor) -> Array:
    return np.asarray(reference.minmax(map))


def assert_the_same(ours: Array, theirs: Array) -> bool:
    """Two maps in [0, 1] agree; whether there is anything in them."""
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    if not theirs.any():
        return False
    assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] >= 0.999
    return True


# torch-cam: its maps have the resolution of the block, and are upsampled here.


def torchcam() -> Any:
    if sys.version_info < (3, 11):
        pytest.skip("torch-cam needs Python 3.11")
    return importlib.import_module("torchcam.methods")


def by_torch_cam(case: Case, block: str, target: int, method: type[Any]) -> Array:
    with method(case.module, block, input_shape=tuple(case.image.shape[1:])) as extractor:
        logits = case.module(case.image.clone().requires_grad_())
        (low,) = extractor(target, logits)
    return minmax(reference.up(low[0].detach(), case.size))


def grad_cam_plus_plus(weights_of: Callable[[Tensor, Tensor], Tensor]) -> type[Any]:
    """torch-cam's Grad-CAM++ with other weights: of A and ∂z_c/∂A, 1×C×h×w each."""

    class Changed(torchcam().GradCAMpp):  # type: ignore[misc]
        def _get_weights(self, target: int, logits: Tensor, **options: Any) -> list[Tensor]:
            self._backprop(logits, target, **options)
            return [weights_of(self.hook_a[0], self.hook_g[0])]

    return Changed


def as_published(maps: Tensor, gradient: Tensor) -> Tensor:
    """Equation 19 of the paper, with g³·ΣA in the denominator."""
    share = gradient**2 / (2 * gradient**2 + gradient**3 * maps.sum((2, 3), keepdim=True) + 1e-6)
    return (share * gradient.relu()).sum((2, 3))


def undivided(_maps: Tensor, gradient: Tensor) -> Tensor:
    """What torch-cam 0.5.0 comes to: it writes the quotient into a copy, and α stays g²."""
    return (gradient**2 * gradient.relu()).sum((2, 3))


def normalised_at_full_size() -> type[Any]:
    """torch-cam's Score-CAM with masks that are upsampled first and then normalised."""

    class Changed(torchcam().ScoreCAM):  # type: ignore[misc]
        def _get_score_weights(self, small: list[Tensor], *arguments: Any) -> Any:
            return super()._get_score_weights([self._normalize(self._upsample(maps), 2) for maps in small], *arguments)

    return Changed


# pytorch-grad-cam: its maps have the size of the image.


def by_pytorch_grad_cam(case: Case, block: str, target: int, method: str) -> Array:
    RESNET.make()  # declares what torchvision, which the package imports, looks for in vain in a CPU build of torch
    package = pytest.importorskip("pytorch_grad_cam")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    with getattr(package, method)(case.module, [case.module.get_submodule(block)]) as extractor:
        maps = extractor(case.image.clone().requires_grad_(), [ClassifierOutputTarget(target)])
    return np.asarray(maps[0])


GRADIENTS = [(GradCAM, "GradCAM"), (GradCAMPlusPlus, "GradCAMPlusPlus"), (LayerCAM, "LayerCAM")]


@pytest.mark.parametrize(("method", "name"), GRADIENTS)
def test_gradient_maps_are_torch_cams(case: Case, method: Callable[..., Method], name: str) -> None:
    theirs = grad_cam_plus_plus(as_published) if method is GradCAMPlusPlus else getattr(torchcam(), name)
    filled = [
        assert_the_same(ours, by_torch_cam(case, block, target, theirs))
        for block in case.blocks
        for target, ours in zip(case.targets, case.explained(method(block=block), *case.targets), strict=True)
    ]
    assert any(filled)


@pytest.mark.parametrize(("method", "name"), GRADIENTS)
def test_gradient_maps_are_pytorch_grad_cams(case: Case, method: Callable[..., Method], name: str) -> None:
    filled = [
        assert_the_same(ours, by_pytorch_grad_cam(case, block, target, name))
        for block in case.blocks
        for target, ours in zip(case.targets, case.explained(method(block=block), *case.targets), strict=True)
    ]
    assert any(filled)


def test_torch_cam_does_not_divide_in_grad_cam_plus_plus(case: Case) -> None:
    block, target = case.blocks[0], case.targets[0]
    (ours,) = case.explained(GradCAMPlusPlus(block=block), target)
    theirs = by_torch_cam(case, block, target, torchcam().GradCAMpp)
    assert assert_the_same(theirs, by_torch_cam(case, block, target, grad_cam_plus_plus(undivided)))
    assert abs(ours - theirs).max() > 1e-2


def test_score_cam_is_torch_cams_but_for_where_masks_are_normalised(case: Case) -> None:
    block, target = case.blocks[1], case.targets[1]
    (ours,) = case.explained(ScoreCAM(block=block), target)
    assert assert_the_same(ours, by_torch_cam(case, block, target, normalised_at_full_size()))
    assert abs(ours - by_torch_cam(case, block, target, torchcam().ScoreCAM)).max() > 1e-3


def test_score_cam_is_pytorch_grad_cams_but_for_aligned_corners(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    block, target = case.blocks[1], case.targets[1]
    (ours,) = case.explained(ScoreCAM(block=block), target)
    assert abs(ours - by_pytorch_grad_cam(case, block, target, "ScoreCAM")).max() > 1e-3
    monkeypatch.setattr(nn, "UpsamplingBilinear2d", functools.partial(nn.Upsample, mode="bilinear"))
    assert assert_the_same(ours, by_pytorch_grad_cam(case, block, target, "ScoreCAM"))


# RISE: its authors upsample with scikit-image, order 1, mode "reflect".


def interpolation(source: int, size: int) -> Array:
    """Bilinear samples of an axis whose pixels are mirrored at the centres of the first and the last: size×source."""
    position = (np.arange(size) + 0.5) * source / size - 0.5
    position = source - 1 - abs(source - 1 - abs(position)) if source > 1 else np.zeros(size)
    hats: Array = np.maximum(0, 1 - abs(position[:, None] - np.arange(source)))
    return hats


SETTINGS = [RISE(passes=48), RISE(passes=40, cells=4, share=0.3, seed=5)]


@pytest.mark.parametrize("method", SETTINGS, ids=repr)
def test_rise_is_its_authors(case: Case, method: RISE) -> None:
    random = np.random.default_rng(method.seed)
    grids = random.random((method.passes, method.cells, method.cells)) < method.share
    cell = np.ceil(np.array(case.size) / method.cells).astype(int)
    shifts = random.integers(0, cell, (method.passes, 2))
    tall, wide = (interpolation(method.cells, (method.cells + 1) * side) for side in cell)
    full = tall @ grids.astype(np.float64) @ wide.T
    masks = np.stack([m[y : y + case.size[0], x : x + case.size[1]] for m, (y, x) in zip(full, shifts, strict=True)])
    target = case.targets[0]
    with torch.no_grad():
        scores = torch.cat([case.module(case.image * torch.from_numpy(mask)).softmax(1) for mask in masks])[:, target]
    expected = np.tensordot(scores.numpy(), masks, 1) / method.passes / method.share

    (ours,) = case.explained(method, target)
    assert assert_the_same(ours, minmax(torch.from_numpy(expected)))


@pytest.mark.parametrize(("cells", "size"), [(7, (256, 256)), (4, (13, 40)), (2, (9, 8)), (1, (6, 6))])
def test_the_authors_masks_are_scikit_images(cells: int, size: tuple[int, int]) -> None:
    transform = pytest.importorskip("skimage.transform")
    grid = (np.random.default_rng(cells).random((cells, cells)) < 0.5).astype(np.float64)
    theirs = transform.resize(grid, size, order=1, mode="reflect", anti_aliasing=False)
    tall, wide = (interpolation(cells, side) for side in size)
    np.testing.assert_allclose(tall @ grid @ wide.T, theirs, atol=1e-12)
