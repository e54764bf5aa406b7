"""A two-block CNN small enough to differentiate by hand: as a bundle, without the exporter, and as a torch module.

image → conv 3×3 stride 2, ReLU (block "early") → average pool → conv 3×3, ReLU (block "late") → mean → linear.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from sightline import bundle
from sightline.bundle import Block, Bundle, ImageInput, Layout, Manifest, Memory

HEIGHT, WIDTH, CLASSES = 24, 20, 5
EARLY, LATE = Block("early", 0, 8, 12, 10), Block("late", 1, 12, 6, 5)
INPUT = ImageInput("pixels", 3, HEIGHT, WIDTH, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))
LABELS = ("good", "scratch", "pit", "crack", "stain")
TAPS = ("early", "late")


class Tiny(nn.Module):
    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv1 = nn.Conv2d(3, EARLY.channels, 3, stride=2, padding=1)
        self.early = nn.ReLU()
        self.conv2 = nn.Conv2d(EARLY.channels, LATE.channels, 3, padding=1)
        self.late = nn.ReLU()
        self.head = nn.Linear(LATE.channels, CLASSES)
        with torch.no_grad():
            self.head.weight *= 20  # scores far from uniform

    def forward(self, image: Tensor) -> Tensor:
        maps = self.early(self.conv1(image))
        maps = self.late(self.conv2(nn.functional.avg_pool2d(maps, 2)))
        logits: Tensor = self.head(maps.mean(dim=(2, 3)))
        return logits


def image(seed: int = 0) -> npt.NDArray[np.float32]:
    """A preprocessed image."""
    return np.random.default_rng(seed).normal(size=INPUT.shape).astype(np.float32)


def write(path: Path, network: Tiny | None = None, *, layout: Layout = "NCHW", labels: bool = True) -> Bundle:
    """Write the bundle of a network."""
    network = network or Tiny()
    spec = replace(INPUT, layout=layout)
    manifest = Manifest(
        input=spec,
        classes=CLASSES,
        activation="softmax",
        activation_found=False,
        blocks=(EARLY, LATE),
        opset=18,
        memory=Memory(
            weights=4 * sum(value.size for value in _weights(network).values()), classifier=24_000, attribution=48_000
        ),
        labels=LABELS if labels else None,
    )

    def save(folder: Path) -> Manifest:
        onnx.save(_classifier(network, spec), folder / bundle.CLASSIFIER)
        onnx.save(_attribution(network, spec), folder / bundle.ATTRIBUTION)
        return manifest

    return bundle.write(path, save)


def _forward(spec: ImageInput) -> list[onnx.NodeProto]:
    node = helper.make_node
    transposed = [node("Transpose", [spec.name], ["image"], perm=[0, 3, 1, 2])]
    return [
        *(transposed if spec.layout == "NHWC" else [node("Identity", [spec.name], ["image"])]),
        node("Conv", ["image", "conv1.weight", "conv1.bias"], ["z0"], strides=[2, 2], pads=[1, 1, 1, 1]),
        node("Relu", ["z0"], ["features.0"]),
        node("AveragePool", ["features.0"], ["pooled"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", ["pooled", "conv2.weight", "conv2.bias"], ["z1"], pads=[1, 1, 1, 1]),
        node("Relu", ["z1"], ["features.1"]),
        node("GlobalAveragePool", ["features.1"], ["mean"]),
        node("Flatten", ["mean"], ["vector"]),
        node("Gemm", ["vector", "head.weight", "head.bias"], ["logits"], transB=1),
        node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]


def _backward() -> list[onnx.NodeProto]:
    node = helper.make_node
    return [
        node("ArgMax", ["logits"], ["best"], axis=1, keepdims=0),
        node("Less", ["target", "zero"], ["open"]),
        node("Where", ["open", "best", "target"], ["class"]),
        node("OneHot", ["class", "classes", "off_on"], ["onehot"]),
        node("Mul", ["onehot", "huge"], ["away"]),
        node("Sub", ["logits", "away"], ["others"]),
        node("Softmax", ["others"], ["shares"], axis=1),
        node("Mul", ["shares", "rivals"], ["rivalry"]),
        node("Sub", ["onehot", "rivalry"], ["of_class"]),
        node("Less", ["target", "predicted"], ["seeded"]),
        node("Where", ["seeded", "seed", "of_class"], ["of_logits"]),
        node("MatMul", ["of_logits", "head.weight"], ["of_vector"]),
        node("Mul", ["of_vector", "per_pixel"], ["of_pixel"]),
        node("Reshape", ["of_pixel", "as_maps"], ["of_mean"]),
        node("Expand", ["of_mean", "late_shape"], ["gradient.1"]),
        node("Sign", ["features.1"], ["alive"]),
        node("Mul", ["gradient.1", "alive"], ["of_z1"]),
        node("ConvTranspose", ["of_z1", "conv2.weight"], ["of_pooled"], pads=[1, 1, 1, 1]),
        node("Resize", ["of_pooled", "", "twice"], ["spread"], mode="nearest", nearest_mode="floor",
             coordinate_transformation_mode="asymmetric"),
        node("Mul", ["spread", "quarter"], ["gradient.0"]),
        *(
            node("ReduceMean", [f"gradient.{i}", "axes"], [f"alpha.{i}"], keepdims=0) for i in (0, 1)
        ),
    ]  # fmt: skip


def _weights(network: Tiny) -> dict[str, npt.NDArray[Any]]:
    return {name: value.numpy() for name, value in network.state_dict().items()}


def _constants() -> dict[str, npt.NDArray[Any]]:
    return {
        "zero": np.zeros(1, np.int64),
        "predicted": np.full(1, bundle.PREDICTED, np.int64),
        "classes": np.array([CLASSES], np.int64),
        "off_on": np.array([0, 1], np.float32),
        "huge": np.array([1e30], np.float32),
        "per_pixel": np.array([1 / (LATE.height * LATE.width)], np.float32),
        "as_maps": np.array([1, -1, 1, 1], np.int64),
        "late_shape": np.array([1, LATE.channels, LATE.height, LATE.width], np.int64),
        "twice": np.array([1, 1, 2, 2], np.float32),
        "quarter": np.array([0.25], np.float32),
        "axes": np.array([2, 3], np.int64),
    }


def _classifier(network: Tiny, spec: ImageInput) -> onnx.ModelProto:
    outputs = [_float("logits", "N", CLASSES), _float("probabilities", "N", CLASSES)]
    return _model(_forward(spec), [_float(spec.name, "N", *_shape(spec))], outputs, _weights(network))


def _attribution(network: Tiny, spec: ImageInput) -> onnx.ModelProto:
    inputs = [
        _float(spec.name, 1, *_shape(spec)),
        helper.make_tensor_value_info("target", TensorProto.INT64, [1]),
        _float("seed", 1, CLASSES),
        _float("rivals", 1),
    ]
    outputs = [_float("logits", 1, CLASSES), _float("probabilities", 1, CLASSES)]
    for block in (EARLY, LATE):
        shape = (1, block.channels, block.height, block.width)
        outputs += [_float(block.features, *shape), _float(block.gradient, *shape), _float(block.alpha, *shape[:2])]
    nodes = [*_forward(spec), *_backward()]
    return _model(nodes, inputs, outputs, {**_weights(network), **_constants()})


def _shape(spec: ImageInput) -> tuple[int, ...]:
    return spec.shape if spec.layout == "NCHW" else (spec.height, spec.width, spec.channels)


def _float(name: str, *shape: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def _model(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    tensors: dict[str, npt.NDArray[Any]],
) -> onnx.ModelProto:
    initializers = [numpy_helper.from_array(value, name) for name, value in tensors.items()]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model
