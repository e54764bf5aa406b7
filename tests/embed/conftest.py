"""The demo network as one file that explains, and what Python says of the same picture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import sightline
from sightline import demo
from sightline.bundle import Colour

Floats = npt.NDArray[np.float32]


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("embed")


@pytest.fixture(scope="session")
def files(place: Path) -> dict[str, Path]:
    """Explainers of the demo: with SISE or (quick ones) Grad-CAM inside, of preprocessed values or of pixels."""
    from sightline.exporter.single_file import export_single_file

    return {
        f"{method} {kind}": export_single_file(
            demo.BUNDLE, place / f"{method}-{kind}.onnx", method=method, uint8=kind == "uint8"
        )
        for method in ("sise", "grad-cam")
        for kind in ("float32", "uint8")
    }


@pytest.fixture(scope="session")
def picture(place: Path) -> Path:
    """A demo picture as PNG, so that no two JPEG decoders are compared."""
    path = place / "scratch.png"
    Image.open(sample().image).convert("RGB").save(path)
    return path


def sample() -> demo.Sample:
    (found,) = (each for each in demo.samples() if each.image.stem == "scratch")
    return found


@pytest.fixture(scope="session")
def explainer() -> Iterator[sightline.Explainer]:
    with sightline.Explainer(demo.BUNDLE, sightline.SISE(), "onnxruntime-cpu", 16, threads=1) as opened:
        yield opened


@pytest.fixture(scope="session")
def wanted(explainer: sightline.Explainer, picture: Path) -> sightline.Explanation:
    """What the runtime says of the picture."""
    return explainer(picture)


@pytest.fixture(scope="session")
def quick() -> Iterator[sightline.Explainer]:
    """The same with Grad-CAM."""
    with sightline.Explainer(demo.BUNDLE, sightline.GradCAM(), "onnxruntime-cpu", 1, threads=1) as opened:
        yield opened


def assert_same_map(found: Floats, wanted: Floats) -> None:
    """What issue 6 asks for: Pearson >= 0.9999 and at most 0.1 % of the pixels off by more than 1e-3."""
    found = found.reshape(wanted.shape)
    assert np.corrcoef(found.ravel(), wanted.ravel())[0, 1] >= 0.9999
    assert np.mean(np.abs(found - wanted) > 1e-3) <= 1e-3


@dataclass(frozen=True)
class Case:
    """A small network of random weights that takes another kind of image than the demo's."""

    picture: Path
    bundle: Path
    files: Mapping[str, Path]
    """By kind of pixels: float32 or uint8."""


@pytest.fixture(scope="session", params=["GRAY", "BGR", "NHWC"])
def case(request: pytest.FixtureRequest, place: Path) -> Case:
    """Grey pictures, BGR in [0, 255], channels last; labels that are no ASCII."""
    from sightline.exporter.single_file import export_single_file

    kind: str = request.param
    folder = place / kind
    folder.mkdir()
    colours: dict[str, Colour] = {"GRAY": "GRAY", "BGR": "BGR"}
    onnx.save(network(1 if kind == "GRAY" else 3, last=kind == "NHWC"), folder / "small.onnx")
    bundle = sightline.export(
        folder / "small.onnx",
        folder / "small.sightline",
        labels=["gut", "Kratzer „tief“", "凹み\n2"],
        colour=colours.get(kind, "RGB"),
        range=255.0 if kind == "BGR" else 1.0,
        mean=[100.0, 110.0, 120.0] if kind == "BGR" else [0.4],
        std=[50.0, 60.0, 70.0] if kind == "BGR" else [0.3],
    ).path
    random = np.random.default_rng(5)
    coarse = Image.fromarray(random.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    picture = folder / "part.png"
    coarse.resize((100, 70), Image.Resampling.BICUBIC).save(picture)
    files = {
        pixels: export_single_file(bundle, folder / f"{pixels}.onnx", method="grad-cam", uint8=pixels == "uint8")
        for pixels in ("float32", "uint8")
    }
    return Case(picture, bundle, files)


def network(channels: int, *, last: bool) -> onnx.ModelProto:
    """Two convolutional blocks, C×32×48 -> 8×16×24 -> 12×8×12, and three classes."""
    random = np.random.default_rng(0)

    def weights(name: str, *shape: int) -> onnx.TensorProto:
        scale = np.sqrt(2 / np.prod(shape[1:]))
        return numpy_helper.from_array((scale * random.standard_normal(shape)).astype(np.float32), name)

    first = [helper.make_node("Transpose", ["image"], ["planes"], perm=[0, 3, 1, 2])] if last else []
    nodes = [
        *first,
        helper.make_node("Conv", ["planes" if last else "image", "w1"], ["a1"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a1"], ["b1"]),
        helper.make_node("Conv", ["b1", "w2"], ["a2"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a2"], ["b2"]),
        helper.make_node("GlobalAveragePool", ["b2"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w3"], ["logits"], transB=1),
    ]
    shape: list[str | int | None] = ["N", 32, 48, channels] if last else ["N", channels, 32, 48]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 3])],
        [weights("w1", 8, channels, 3, 3), weights("w2", 12, 8, 3, 3), weights("w3", 3, 12)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
