"""A small network of random weights as an ONNX file and as a bundle, and pictures for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import sightline

LABELS = ("good", "scratch", "3")


@pytest.fixture(scope="session")
def onnx_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two convolutional blocks, 3×32×32 -> 8×16×16 -> 12×8×8, and a classifier of three classes."""
    rng = np.random.default_rng(0)

    def weights(name: str, *shape: int) -> onnx.TensorProto:
        scale = np.sqrt(2 / np.prod(shape[1:]))
        return numpy_helper.from_array((scale * rng.standard_normal(shape)).astype(np.float32), name)

    def convolution(inputs: list[str], output: str) -> onnx.NodeProto:
        return helper.make_node("Conv", inputs, [output], output, strides=[2, 2], pads=[1, 1, 1, 1])

    nodes = [
        convolution(["image", "w1"], "a1"),
        helper.make_node("Relu", ["a1"], ["block1"], "relu1"),
        convolution(["block1", "w2"], "a2"),
        helper.make_node("Relu", ["a2"], ["block2"], "relu2"),
        helper.make_node("GlobalAveragePool", ["block2"], ["pooled"], "pool"),
        helper.make_node("Flatten", ["pooled"], ["flat"], "flatten"),
        helper.make_node("Gemm", ["flat", "w3"], ["logits"], "classifier", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 32, 32])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 3])],
        [weights("w1", 8, 3, 3, 3), weights("w2", 12, 8, 3, 3), weights("w3", 3, 12)],
    )
    path = tmp_path_factory.mktemp("network") / "small.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


@pytest.fixture(scope="session")
def bundle(onnx_file: Path) -> Path:
    path = onnx_file.with_name("small.sightline")
    sightline.export(onnx_file, path, labels=LABELS)
    return path


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    """Two pictures of one name in two folders, of different sizes."""
    rng = np.random.default_rng(1)
    paths = [tmp_path / "left" / "part.png", tmp_path / "right" / "part.png"]
    for path, size in zip(paths, ((32, 32), (40, 60)), strict=True):
        path.parent.mkdir()
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
    return paths


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    path = tmp_path / "work"
    path.mkdir()
    monkeypatch.chdir(path)
    return path
