"""The single file says what the runtime says: every method, both engines, and the images that methods trip over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

import sightline
from sightline import SISE, AdaSISE, Explainer, demo, export_single_file
from sightline import bundle as bundles
from sightline.bundle import Bundle, Colour
from sightline.runtime.image import prepare
from tests.exporter.explaining import ENGINES, SingleFile, assert_same
from tests.runtime import tiny

METHODS = ("sise", "ada-sise", "grad-cam", "layer-cam")
PADDED = 5
"""A batch size that neither the masks of the tiny network's blocks nor all of them fill."""


@pytest.fixture(scope="module")
def surface() -> Bundle:
    return sightline.load(demo.BUNDLE)


def tiny_bundle(folder: Path, network: tiny.Tiny | None = None, layout: bundles.Layout = "NCHW") -> Bundle:
    return tiny.write(folder / "tiny.sightline", network, layout=layout)


def batch(image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return image[None]


@pytest.mark.parametrize(("engine", "float64"), [("onnxruntime", True), ("openvino", True), ("onnxruntime", False)])
@pytest.mark.parametrize("method", METHODS)
def test_the_demo_network(surface: Bundle, method: str, engine: str, float64: bool, tmp_path: Path) -> None:
    file = SingleFile(export_single_file(surface, tmp_path / "x.onnx", method=method, float64=float64), engine)
    with Explainer(surface, method, "onnxruntime-cpu", 16) as explainer:
        for sample in demo.samples()[:2]:
            want = explainer(sample.image)
            got = file(batch(prepare(sample.image, surface.input).array))
            assert_same(got, want)
            assert got.probabilities[0, got.target] == pytest.approx(want.score, abs=1e-5)
            assert got.saliency.max() == 1


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("target", range(tiny.CLASSES))
def test_a_class_that_is_given(target: int, engine: str, tmp_path: Path) -> None:
    source = tiny_bundle(tmp_path)
    file = SingleFile(export_single_file(source, tmp_path / "x.onnx", batch_size=PADDED), engine)
    with Explainer(source, engine="onnxruntime-cpu", batch_size=4) as explainer:
        assert_same(file(batch(tiny.image()), target), explainer(tiny.image(), target))


def test_every_negative_target_is_the_predicted_class(tmp_path: Path) -> None:
    file = SingleFile(export_single_file(tiny_bundle(tmp_path), tmp_path / "x.onnx"))
    predicted = file(batch(tiny.image()), -1)
    assert predicted.target == predicted.logits.argmax()
    for target in (-2, -100):  # -2 asks the attribution graph for another thing
        got = file(batch(tiny.image()), target)
        assert got.target == predicted.target
        np.testing.assert_array_equal(got.saliency, predicted.saliency)


def test_onnxruntime_refuses_a_class_that_does_not_exist(tmp_path: Path) -> None:
    file = SingleFile(export_single_file(tiny_bundle(tmp_path), tmp_path / "x.onnx"))
    with pytest.raises(Exception, match="out of data bounds"):
        file(batch(tiny.image()), tiny.CLASSES)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 24), st.integers(0, 50), st.sampled_from([0.0, 0.2, 0.6, 0.95]))
def test_any_batch_size_image_and_mu(
    tmp_path_factory: pytest.TempPathFactory, batch_size: int, seed: int, mu: float
) -> None:
    folder = tmp_path_factory.mktemp("any")
    source = tiny_bundle(folder, tiny.Tiny(seed))
    file = SingleFile(export_single_file(source, folder / "x.onnx", batch_size=batch_size))
    with Explainer(source, SISE(mu), engine="onnxruntime-cpu", batch_size=4) as explainer:
        assert_same(file(batch(tiny.image(seed)), mu=mu), explainer(tiny.image(seed)))


def test_the_files_own_mu(tmp_path: Path) -> None:
    source = tiny_bundle(tmp_path)
    with Explainer(source, SISE(0.5), engine="onnxruntime-cpu", batch_size=4) as explainer:
        want = explainer(tiny.image())
    own = SingleFile(export_single_file(source, tmp_path / "own.onnx", mu=0.5))
    assert_same(own(batch(tiny.image())), want)
    assert own(batch(tiny.image()), mu=0.0).passes > want.passes
    fixed = SingleFile(export_single_file(source, tmp_path / "fixed.onnx", mu=0.5, inputs=()))
    assert fixed.inputs == ["image"]
    assert_same(fixed(batch(tiny.image())), want)


def twins() -> tiny.Tiny:
    """A network whose maps come in equal pairs: α and α/β tie within a block."""
    network = tiny.Tiny(1)
    with torch.no_grad():
        for weights in (network.conv1.weight, network.conv1.bias, network.conv2.weight, network.conv2.bias):
            assert weights is not None
            weights[1::2] = weights[0::2]
        network.conv2.weight[:, 1::2] = network.conv2.weight[:, 0::2]
        network.head.weight[:, 1::2] = network.head.weight[:, 0::2]
    return network


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("network", [tiny.Tiny, twins])
def test_a_limit_on_the_passes(network: Callable[[], tiny.Tiny], engine: str, tmp_path: Path) -> None:
    source = tiny_bundle(tmp_path, network())
    file = SingleFile(export_single_file(source, tmp_path / "x.onnx", inputs=("max_passes",)), engine)
    with Explainer(source, SISE(predict=False), engine="onnxruntime-cpu", batch_size=4) as explainer:
        everything = explainer(tiny.image(1))
        assert_same(file(batch(tiny.image(1))), everything)
        for limit in range(1, everything.passes + 3):
            assert_same(file(batch(tiny.image(1)), max_passes=limit), explainer(tiny.image(1), max_passes=limit))


def test_the_files_own_limit(tmp_path: Path) -> None:
    source = tiny_bundle(tmp_path)
    file = SingleFile(export_single_file(source, tmp_path / "x.onnx", method="ada-sise", max_passes=3))
    with Explainer(source, AdaSISE(predict=False), engine="onnxruntime-cpu", batch_size=4) as explainer:
        assert_same(file(batch(tiny.image())), explainer(tiny.image(), max_passes=3))


def unloved(blocks: str) -> tiny.Tiny:
    """A network in which no map of some blocks speaks for class 0."""
    network = tiny.Tiny()
    with torch.no_grad():
        network.head.weight[0] = -network.head.weight.abs().sum()
        network.conv2.weight[:] = network.conv2.weight.abs() if blocks == "all" else network.conv2.weight
        if blocks == "early":  # the late maps speak for it, and every early one against all late ones
            network.head.weight[0] *= -1
            network.conv2.weight[:] = -network.conv2.weight.abs() / 100
            network.conv2.bias[:] = 3.0  # type: ignore[index]
        if blocks == "late":  # every late map against it, and every early one against those
            network.head.weight[0] = -0.05  # p_0 must not vanish
            network.head.weight[1:] *= 0.001
            network.conv2.weight[:] = -network.conv2.weight.abs() / 100
            network.conv2.bias[:] = 3.0  # type: ignore[index]
    return network


def test_nothing_is_kept_below_zero_whatever_mu(tmp_path: Path) -> None:
    file = SingleFile(export_single_file(tiny_bundle(tmp_path, unloved("all")), tmp_path / "x.onnx"))
    got = file(batch(tiny.image()), 0, mu=0.5)  # β lies below zero, and so does μ·β
    assert got.passes == 0
    assert not got.saliency.any()


def flat() -> tiny.Tiny:
    """A network whose early maps are constant, and so its late ones but for the padding."""
    network = tiny.Tiny()
    with torch.no_grad():
        network.conv1.weight.zero_()
        network.conv1.bias[:] = 1.0  # type: ignore[index]
    return network


def blank() -> tiny.Tiny:
    """A network all of whose maps are constant."""
    network = flat()
    with torch.no_grad():
        network.conv2.weight.zero_()
        network.conv2.bias[:] = 1.0  # type: ignore[index]
    return network


BLACK = ((0 - np.array(tiny.INPUT.mean)) / np.array(tiny.INPUT.std)).astype(np.float32)[:, None, None]
ODD_CASES: dict[str, tuple[tiny.Tiny, npt.NDArray[np.float32], int | None]] = {
    "no map of any block": (unloved("all"), tiny.image(), 0),
    "no early map": (unloved("early"), tiny.image(), 0),
    "no late map": (unloved("late"), tiny.image(), 0),
    "constant early maps": (flat(), tiny.image(), None),
    "constant maps": (blank(), tiny.image(), None),
    "a black image": (tiny.Tiny(), np.broadcast_to(BLACK, tiny.INPUT.shape).copy(), None),
    "an image of zeros": (tiny.Tiny(), np.zeros(tiny.INPUT.shape, np.float32), None),
    "one bright pixel": (
        tiny.Tiny(),
        np.eye(tiny.HEIGHT * tiny.WIDTH * 3, dtype=np.float32)[700].reshape(tiny.INPUT.shape) * 1e4,
        None,
    ),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", ODD_CASES)
def test_odd_images_and_networks(case: str, method: str, tmp_path: Path) -> None:
    network, image, target = ODD_CASES[case]
    source = tiny_bundle(tmp_path, network)
    path = export_single_file(source, tmp_path / "x.onnx", method=method, batch_size=PADDED)
    with Explainer(source, method, engine="onnxruntime-cpu", batch_size=4) as explainer:
        want = explainer(image, target)
    if method == "sise":
        expected: dict[str, set[str]] = {
            "no map of any block": set(),
            "constant maps": set(),
            "no early map": {"late"},
            "no late map": {"early"},
        }
        assert set(want.layer_maps) == expected.get(case, set(want.layer_maps))  # the case is what it says
    for engine in ENGINES:
        assert_same(SingleFile(path, engine)(batch(image), -1 if target is None else target), want)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("method", METHODS)
def test_an_image_that_is_not_finite_gives_a_map_that_is(method: str, value: float, tmp_path: Path) -> None:
    file = SingleFile(export_single_file(tiny_bundle(tmp_path), tmp_path / "x.onnx", method=method))
    image = tiny.image()
    image[0, 3, 4] = value
    saliency = file(batch(image)).saliency
    assert np.isfinite(saliency).all()
    assert 0 <= saliency.min() <= saliency.max() <= 1


@pytest.mark.parametrize("method", ["sise", "layer-cam"])
def test_channels_last(method: str, tmp_path: Path) -> None:
    source = tiny_bundle(tmp_path, layout="NHWC")
    image = tiny.image()
    with Explainer(source, method, engine="onnxruntime-cpu", batch_size=4) as explainer:
        want = explainer(image)
    path = export_single_file(source, tmp_path / "x.onnx", method=method, batch_size=PADDED)
    for engine in ENGINES:
        assert_same(SingleFile(path, engine)(batch(np.moveaxis(image, 0, 2).copy())), want)


def coloured(source: Bundle, folder: Path, colour: Colour, scale: float) -> Bundle:
    """The same graphs, another view of what a pixel is."""

    def save(place: Path) -> bundles.Manifest:
        for file in (source.classifier, source.attribution):
            (place / file.name).write_bytes(file.read_bytes())
        return replace(source.manifest, input=replace(source.input, colour=colour, range=scale))

    return bundles.write(folder / f"{colour}.sightline", save)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize(("colour", "scale"), [("RGB", 1.0), ("BGR", 255.0)])
def test_pixels_are_preprocessed_inside(colour: Colour, scale: float, layout: bundles.Layout, tmp_path: Path) -> None:
    source = coloured(tiny_bundle(tmp_path, layout=layout), tmp_path, colour, scale)
    pixels = np.random.default_rng(0).integers(0, 256, (tiny.HEIGHT, tiny.WIDTH, 3)).astype(np.uint8)
    path = export_single_file(source, tmp_path / "x.onnx", uint8=True, batch_size=PADDED)
    with Explainer(source, engine="onnxruntime-cpu", batch_size=4) as explainer:
        want = explainer(pixels)
    for engine in ENGINES:
        assert_same(SingleFile(path, engine)(pixels), want)


class Grey(nn.Module):
    """One channel in, and strided convolutions of as many channels in as out: the trap in bindings/openvino.py."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU())
        self.down = nn.Sequential(nn.Conv2d(16, 16, 3, stride=2, padding=1), nn.ReLU())
        self.apart = nn.Sequential(nn.Conv2d(16, 16, 3, stride=2, padding=1, groups=16), nn.ReLU())
        self.head = nn.Linear(16, 3)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        maps = self.apart(self.down(self.stem(image)))
        logits: torch.Tensor = self.head(maps.mean(dim=(2, 3))) * 30
        return logits


def test_a_grey_network_with_strided_square_convolutions(tmp_path: Path) -> None:
    source = sightline.export(Grey(), tmp_path / "grey.sightline", input_shape=(1, 32, 40), mean=0.4, std=0.2)
    pixels = np.random.default_rng(0).integers(0, 256, (32, 40)).astype(np.uint8)
    picture = np.asarray(Image.fromarray(pixels))[:, :, None]
    path = export_single_file(source, tmp_path / "x.onnx", uint8=True)
    for target in range(3):
        with Explainer(source, engine="onnxruntime-cpu", batch_size=4) as explainer:
            want = explainer(pixels, target)
        assert want.passes > 3
        for engine in ENGINES:
            assert_same(SingleFile(path, engine)(picture, target), want)
