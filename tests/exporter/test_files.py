"""ONNX files from anywhere, made by hand: what must export, and what must be refused with an error that says why."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from onnx import NodeProto, TensorProto, helper, numpy_helper
from onnxruntime.transformers.float16 import convert_float_to_float16

from sightline import bundle
from sightline.errors import (
    BundleError,
    ExportError,
    NoBlocksError,
    SelfCheckError,
    SightlineError,
    UnsupportedOperatorError,
)
from sightline.exporter import check, export, inspect_onnx
from sightline.exporter.rules import RULES
from tests.exporter.conftest import attribute, relative_error, run
from tests.zoo import fitted

SIDE, CLASSES = 16, 5
BLOCKS = [("early", 8, 8), ("late", 12, 4)]


@dataclass
class Cnn:
    """image → conv 8 stride 2, ReLU "early" → conv 12 stride 2, ReLU "late" → mean → linear → ending."""

    opset: int = 21
    batch: int | str = "N"
    image: str = "image"
    output: str = "scores"
    ending: str = ""
    pooling: str = "GlobalAveragePool"
    flattening: str = "Flatten"
    shape: Sequence[int | str] = (3, SIDE, SIDE)
    dtype: int = TensorProto.FLOAT

    def nodes(self) -> list[NodeProto]:
        node = helper.make_node
        first: dict[str, Any] = {"strides": [2, 2], "pads": [1, 1, 1, 1]}
        reduced = {
            "GlobalAveragePool": lambda: node("GlobalAveragePool", ["late"], ["mean"]),
            "ReduceMean": lambda: node("ReduceMean", ["late"], ["mean"], axes=[2, 3], keepdims=1),
        }[self.pooling]()
        flat = {
            "Flatten": lambda: node("Flatten", ["mean"], ["vector"]),
            "Reshape": lambda: node("Reshape", ["mean", "baked"], ["vector"]),
            "Squeeze": lambda: node("Squeeze", ["mean"], ["vector"], axes=[2, 3]),
        }[self.flattening]()
        last = "before" if self.ending else self.output
        return [
            node("Conv", [self.image, "w1", "b1"], ["z1"], **first),
            node("Relu", ["z1"], ["early"]),
            node("Conv", ["early", "w2", "b2"], ["z2"], **first),
            node("Relu", ["z2"], ["late"]),
            reduced,
            flat,
            node("Gemm", ["vector", "w3", "b3"], [last], transB=1),
            *([node(self.ending, ["before"], [self.output], axis=1)] if self.ending.endswith("Softmax") else []),
            *([node("Sigmoid", ["before"], [self.output])] if self.ending == "Sigmoid" else []),
        ]

    def model(self, nodes: Sequence[NodeProto] | None = None, **more: npt.NDArray[Any]) -> onnx.ModelProto:
        nodes = self.nodes() if nodes is None else nodes
        used = {name for node in nodes for name in node.input}
        constants = {**weights(), **more}
        graph = helper.make_graph(
            list(nodes),
            "cnn",
            [helper.make_tensor_value_info(self.image, self.dtype, [self.batch, *self.shape])],
            [helper.make_tensor_value_info(self.output, TensorProto.FLOAT, [self.batch, CLASSES])],
            [numpy_helper.from_array(value, name) for name, value in constants.items() if name in used],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)

    def save(self, folder: Path, nodes: Sequence[NodeProto] | None = None, **more: npt.NDArray[Any]) -> Path:
        path = folder / "cnn.onnx"
        onnx.save(self.model(nodes, **more), path)
        return path


def weights() -> dict[str, npt.NDArray[Any]]:
    random = np.random.default_rng(0)

    def normal(*shape: int) -> npt.NDArray[np.float32]:
        return np.asarray(random.standard_normal(shape) / max(math.prod(shape[1:]), 1) ** 0.5, np.float32)

    return {
        "w1": normal(8, 3, 3, 3) * 2,
        "b1": normal(8) * 0.3,
        "w2": normal(12, 8, 3, 3) * 2,
        "b2": normal(12) * 0.3,
        "w3": normal(CLASSES, 12) * 2,
        "b3": normal(CLASSES),
        "baked": np.array([1, 12], np.int64),
    }


def images(count: int = 1, side: int = SIDE) -> npt.NDArray[np.float32]:
    return np.random.default_rng(1).standard_normal((count, 3, side, side)).astype(np.float32)


def logits(x: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
    """What the network computes, by its plainest file."""
    model = Cnn().model()
    evaluator = onnx.reference.ReferenceEvaluator(model)
    (result,) = evaluator.run(None, {"image": x})
    return np.asarray(result)


def softmax(z: npt.NDArray[Any]) -> npt.NDArray[Any]:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return np.asarray(e / e.sum(axis=1, keepdims=True))


def found(made: bundle.Bundle) -> list[tuple[str, int, int]]:
    return [(block.name, block.channels, block.height) for block in made.blocks]


def assert_works(made: bundle.Bundle) -> None:
    """The bundle has the network's two blocks, classifies a batch, and its gradient is that of the plain file."""
    assert [block[1:] for block in found(made)] == [block[1:] for block in BLOCKS]
    x = images(3)
    result = run(made.classifier, {made.input.name: x})
    assert relative_error(result["logits"], logits(x)) <= 1e-5
    gradient = attribute(made, x[:1], 2)["gradient.1"]
    # z = w3·mean(late) + b3, so ∂/∂late is the seed times w3, spread evenly.
    seed = -softmax(np.delete(logits(x[:1]), 2, axis=1))
    seed = np.insert(seed, 2, 1.0, axis=1)
    want = np.broadcast_to((seed @ weights()["w3"]).reshape(1, 12, 1, 1) / 16, (1, 12, 4, 4))
    if made.manifest.activation == "softmax":
        assert relative_error(gradient, want) <= 1e-5


# -- what must export -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("opset", [11, 12, 13, 17, 18, 20, 21, 22])
def test_any_opset_from_11_up_is_read(tmp_path: Path, opset: int) -> None:
    made = export(Cnn(opset=opset).save(tmp_path), tmp_path / "a.sightline")
    assert_works(made)
    assert found(made) == BLOCKS
    assert made.manifest.opset >= 21


@pytest.mark.parametrize("flattening", ["Flatten", "Squeeze"])
def test_attributes_that_became_inputs_are_converted(tmp_path: Path, flattening: str) -> None:
    # axes of ReduceMean (until opset 17) and of Squeeze (until opset 12) were attributes.
    network = Cnn(opset=12, pooling="ReduceMean", flattening=flattening)
    assert_works(export(network.save(tmp_path), tmp_path / "a.sightline"))


def test_a_softmax_of_opset_11_is_recognised(tmp_path: Path) -> None:
    # Until opset 12 Softmax flattened what lies behind its axis.
    made = export(Cnn(opset=11, ending="Softmax").save(tmp_path), tmp_path / "a.sightline")
    assert_works(made)
    assert (made.manifest.activation, made.manifest.activation_found) == ("softmax", True)


@pytest.mark.parametrize("opset", [11, 21])
@pytest.mark.parametrize("flattening", ["Flatten", "Reshape"])
def test_a_batch_of_one_baked_into_the_file_becomes_free(tmp_path: Path, opset: int, flattening: str) -> None:
    network = Cnn(opset=opset, batch=1, flattening=flattening)
    assert_works(export(network.save(tmp_path), tmp_path / "a.sightline"))


def test_a_file_that_torch_writes_by_default(tmp_path: Path) -> None:
    """A batch of one, and Reshapes that would take a 0 for nothing."""
    layers = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, 2, 1), torch.nn.ReLU(), torch.nn.Conv2d(8, 6, 3, 2, 1), torch.nn.ReLU()
    )
    image = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    module = fitted(torch.nn.Sequential(layers, torch.nn.Flatten(), torch.nn.Linear(96, 5)), image)
    torch.onnx.export(module, (image,), tmp_path / "net.onnx", verbose=False)
    nodes = onnx.load(tmp_path / "net.onnx").graph.node
    assert any(found.name == "allowzero" and found.i for node in nodes for found in node.attribute)
    made = export(tmp_path / "net.onnx", tmp_path / "a.sightline")
    both = torch.cat([image, image.flip(3)])
    found = run(made.classifier, {made.input.name: both.numpy()})["logits"]
    with torch.no_grad():
        np.testing.assert_allclose(found, module(both).numpy(), atol=1e-4)


@pytest.mark.parametrize(
    "name",
    ["logits", "probabilities", "target", "seed", "rivals", "features.0", "gradient.1", "data:0", "input", "a b/c"],
)
def test_the_input_may_be_named_anything(tmp_path: Path, name: str) -> None:
    made = export(Cnn(image=name).save(tmp_path), tmp_path / "a.sightline")
    assert_works(made)
    assert made.input.name not in {bundle.LOGITS, bundle.PROBABILITIES, bundle.TARGET, bundle.RIVALS}


@pytest.mark.parametrize(
    "name", ["logits", "probabilities", "target", "seed", "rivals", "features.0", "alpha.1", "output:0"]
)
def test_the_output_may_be_named_anything(tmp_path: Path, name: str) -> None:
    assert_works(export(Cnn(output=name).save(tmp_path), tmp_path / "a.sightline"))


@pytest.mark.parametrize(
    ("ending", "activation", "recognised"),
    [
        ("", "softmax", False),
        ("Softmax", "softmax", True),
        ("LogSoftmax", "softmax", True),
        ("Sigmoid", "sigmoid", True),
    ],
)
def test_the_final_activation_is_recognised(tmp_path: Path, ending: str, activation: str, recognised: bool) -> None:
    made = export(Cnn(ending=ending).save(tmp_path), tmp_path / "a.sightline")
    assert_works(made)
    assert (made.manifest.activation, made.manifest.activation_found) == (activation, recognised)
    z = logits(images())
    result = run(made.classifier, {made.input.name: images()})
    want = softmax(z) if activation == "softmax" else 1 / (1 + np.exp(-z))
    assert relative_error(result["probabilities"], want) <= 1e-5


@pytest.mark.parametrize("ending", ["", "Sigmoid"])
def test_one_logit_whose_axis_was_squeezed(tmp_path: Path, ending: str) -> None:
    nodes = [*Cnn(output="row").nodes(), helper.make_node("Gather", ["row", "second"], ["one"], axis=1)]
    nodes.append(helper.make_node(ending or "Identity", ["one"], ["scores"]))
    model = Cnn().model(nodes, second=np.array(1))
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N"]))
    onnx.save(model, tmp_path / "cnn.onnx")
    made = export(tmp_path / "cnn.onnx", tmp_path / "a.sightline")
    assert (made.classes, made.manifest.activation) == (1, "sigmoid")
    result = run(made.classifier, {made.input.name: images(3)})
    assert result["logits"].shape == (3, 1)
    assert relative_error(result["logits"], logits(images(3))[:, 1:2]) <= 1e-5
    want = np.broadcast_to(weights()["w3"][1].reshape(1, 12, 1, 1) / 16, (1, 12, 4, 4))
    assert relative_error(attribute(made, images(), 0)["gradient.1"], want) <= 1e-5


def test_a_row_without_its_batch_is_refused(tmp_path: Path) -> None:
    nodes = [*Cnn(output="row").nodes(), helper.make_node("Squeeze", ["row", "axis"], ["scores"])]
    model = Cnn().model(nodes, axis=np.array([0]))
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("scores", TensorProto.FLOAT, [CLASSES]))
    onnx.save(model, tmp_path / "cnn.onnx")
    refused(tmp_path / "cnn.onnx", ExportError, r"'scores' has shape \(5,\) for one image")


def test_the_activation_can_be_overridden(tmp_path: Path) -> None:
    file = Cnn().save(tmp_path)
    z = logits(images())
    sigmoid = export(file, tmp_path / "sigmoid.sightline", activation="sigmoid")
    assert relative_error(run(sigmoid.classifier, {"image": images()})["probabilities"], 1 / (1 + np.exp(-z))) <= 1e-5
    none = export(file, tmp_path / "none.sightline", activation="none")
    assert none.manifest.activation == "none"
    assert relative_error(run(none.classifier, {"image": images()})["probabilities"], z) <= 1e-5


def test_a_sigmoid_seeds_the_bare_logit(tmp_path: Path) -> None:
    made = export(Cnn(ending="Sigmoid").save(tmp_path), tmp_path / "a.sightline")
    gradient = attribute(made, images(), 3)["gradient.1"]
    want = np.broadcast_to(weights()["w3"][3].reshape(1, 12, 1, 1) / 16, (1, 12, 4, 4))
    assert relative_error(gradient, want) <= 1e-5


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("opset", [13, 21])
def test_a_file_that_computes_in_float16_is_raised_to_float32(tmp_path: Path, kept: bool, opset: int) -> None:
    """As onnxruntime's converter writes it, with float32 (kept) or float16 images and classes."""
    half = convert_float_to_float16(Cnn(opset=opset).model(), keep_io_types=kept, disable_shape_infer=True)
    assert any(tensor.data_type == TensorProto.FLOAT16 for tensor in half.graph.initializer)
    onnx.save(half, tmp_path / "half.onnx")
    made = export(tmp_path / "half.onnx", tmp_path / "half.sightline")
    for path in (made.classifier, made.attribution):
        model = onnx.shape_inference.infer_shapes(onnx.load(path))
        typed = [*model.graph.input, *model.graph.output, *model.graph.value_info]
        assert {value.type.tensor_type.elem_type for value in typed} <= {TensorProto.FLOAT, TensorProto.INT64, 9}
        assert not any(tensor.data_type == TensorProto.FLOAT16 for tensor in model.graph.initializer)
    x = images(3)
    assert relative_error(run(made.classifier, {made.input.name: x})["logits"], logits(x)) <= 2e-3
    whole = export(Cnn().save(tmp_path), tmp_path / "whole.sightline")
    ours, theirs = (attribute(each, x[:1], 2)["gradient.0"] for each in (made, whole))
    assert relative_error(ours, theirs) <= 5e-3


def test_a_float16_file_is_checked_as_precisely_as_it_computes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "CLASSIFIER_TOLERANCE", 1e-6)
    half = convert_float_to_float16(Cnn().model(), disable_shape_infer=True)
    onnx.save(half, tmp_path / "half.onnx")
    made = export(tmp_path / "half.onnx", tmp_path / "half.sightline")
    assert 1e-6 < made.manifest.checks["classifier"] < 1e-2


def test_a_batch_of_eight_baked_into_the_file_becomes_free(tmp_path: Path) -> None:
    assert_works(export(Cnn(batch=8, flattening="Flatten").save(tmp_path), tmp_path / "a.sightline"))


def test_a_batch_that_the_file_fixes_deep_inside_is_refused(tmp_path: Path) -> None:
    nodes = [each for each in Cnn(batch=8).nodes() if each.op_type != "Gemm"]
    nodes.append(helper.make_node("Add", ["vector", "rows"], ["moved"]))
    nodes.append(helper.make_node("Gemm", ["moved", "w3", "b3"], ["scores"], transB=1))
    path = Cnn(batch=8, output="scores").save(tmp_path, nodes, rows=np.ones((8, 12), np.float32))
    refused(path, ExportError, r"'scores' has shape \(8, 5\) for a single image.*dynamic batch")


def test_a_batch_of_one_that_the_file_fixes_deep_inside_is_refused(tmp_path: Path) -> None:
    nodes = [each for each in Cnn(batch=1).nodes() if each.op_type != "Gemm"]
    nodes.append(helper.make_node("Expand", ["vector", "size"], ["same"]))
    nodes.append(helper.make_node("Reshape", ["same", "flat"], ["line"]))
    nodes.append(helper.make_node("Unsqueeze", ["line", "first"], ["row"]))
    nodes.append(helper.make_node("Gemm", ["row", "w3", "b3"], ["scores"], transB=1))
    constants = {"size": np.array([1, 12]), "flat": np.array([12]), "first": np.array([0])}
    refused(
        Cnn(batch=1, output="scores").save(tmp_path, nodes, **constants),
        SelfCheckError,
        "(?s)batch of 3.*dynamic batch",
    )


def test_a_file_that_onnxruntime_does_not_open(tmp_path: Path) -> None:
    model = Cnn().model()
    model.ir_version = 99
    onnx.save(model, tmp_path / "cnn.onnx")
    refused(tmp_path / "cnn.onnx", ExportError, "ONNX Runtime.*cannot open .*cnn.onnx")


def test_a_file_of_integers_is_refused(tmp_path: Path) -> None:
    nodes = Cnn().nodes()
    nodes[2].input[0] = "again"
    nodes.insert(2, helper.make_node("QuantizeLinear", ["early", "scale", "zero"], ["bytes"], name="quantize"))
    nodes.insert(3, helper.make_node("DequantizeLinear", ["bytes", "scale", "zero"], ["again"]))
    path = Cnn().save(tmp_path, nodes, scale=np.array(0.1, np.float32), zero=np.array(0, np.uint8))
    refused(path, ExportError, "8-bit integers.*'quantize'.*--precision int8")


@pytest.mark.parametrize("opset", [18, 20, 21])
def test_group_normalisation_of_any_opset(tmp_path: Path, opset: int) -> None:
    """Until opset 20 its scale has an entry for each group."""
    nodes = Cnn(opset=opset).nodes()
    nodes[1].input[0] = "n1"
    nodes.insert(1, helper.make_node("GroupNormalization", ["z1", "scale", "shift"], ["n1"], num_groups=4))
    entries = np.arange(1, 1 + (4 if opset < 21 else 8), dtype=np.float32)
    path = Cnn(opset=opset).save(tmp_path, nodes, scale=entries, shift=entries / 4)
    made = export(path, tmp_path / "groups.sightline")
    assert [block[1:] for block in found(made)] == [block[1:] for block in BLOCKS]
    assert made.manifest.checks["classifier"] <= 1e-5


def test_an_operator_that_the_standard_does_not_have(tmp_path: Path) -> None:
    nodes = Cnn().nodes()
    nodes[1].op_type = "Softsignal"
    refused(Cnn().save(tmp_path, nodes), UnsupportedOperatorError, "'Softsignal'")


def test_weights_may_be_external_data(tmp_path: Path) -> None:
    path = tmp_path / "cnn.onnx"
    onnx.save(Cnn().model(), path, save_as_external_data=True, location="cnn.data", size_threshold=0)
    made = export(path, tmp_path / "a.sightline")
    assert_works(made)
    (tmp_path / "cnn.data").unlink()
    path.unlink()
    assert_works(bundle.load(made.path))  # It stands on its own.


def test_a_size_left_open_is_taken_from_the_caller(tmp_path: Path) -> None:
    file = Cnn(shape=(3, "H", "W")).save(tmp_path)
    assert_works(export(file, tmp_path / "a.sightline", input_shape=(3, SIDE, SIDE)))
    made = export(file, tmp_path / "b.sightline", example=images(side=32))
    assert [(block.channels, block.height) for block in made.blocks] == [(8, 16), (12, 8)]


def test_an_image_stored_channels_last_keeps_channels_first_maps(tmp_path: Path) -> None:
    network = Cnn(image="pixels", shape=(SIDE, SIDE, 3))
    turn = helper.make_node("Transpose", ["pixels"], ["image"], perm=[0, 3, 1, 2])
    made = export(network.save(tmp_path, [turn, *Cnn().nodes()]), tmp_path / "a.sightline")
    assert (made.input.layout, made.input.shape) == ("NHWC", (3, SIDE, SIDE))
    assert [(block.channels, block.height) for block in made.blocks] == [(8, 8), (12, 4)]
    result = run(made.classifier, {made.input.name: images(2).transpose(0, 2, 3, 1)})
    assert relative_error(result["logits"], logits(images(2))) <= 1e-5


def test_an_operator_without_a_rule_before_the_first_block_does_no_harm(tmp_path: Path) -> None:
    network = Cnn(image="pixels")
    nodes = [helper.make_node("CumSum", ["pixels", "axis"], ["image"]), *Cnn().nodes()]
    made = export(network.save(tmp_path, nodes, axis=np.array(2)), tmp_path / "a.sightline")
    assert len(made.blocks) == 2


def test_one_of_several_outputs_can_be_named(tmp_path: Path) -> None:
    model = Cnn().model()
    model.graph.output.append(helper.make_tensor_value_info("vector", TensorProto.FLOAT, ["N", 12]))
    path = tmp_path / "cnn.onnx"
    onnx.save(model, path)
    with pytest.raises(ExportError, match="'scores', 'vector'"):
        export(path, tmp_path / "a.sightline")
    assert_works(export(path, tmp_path / "a.sightline", output="scores"))
    with pytest.raises(ExportError, match="'nothing'"):
        export(path, tmp_path / "b.sightline", output="nothing")


def test_blocks_can_be_named(tmp_path: Path) -> None:
    made = export(Cnn().save(tmp_path), tmp_path / "a.sightline", blocks=["late", "z1"])
    assert found(made) == [("z1", 8, 8), ("late", 12, 4)]


def test_inspecting_tells_what_an_export_would_hold(tmp_path: Path) -> None:
    manifest = inspect_onnx(Cnn(opset=13, ending="Sigmoid").save(tmp_path))
    assert [(block.name, block.channels, block.height) for block in manifest.blocks] == BLOCKS
    assert (manifest.activation, manifest.classes, manifest.input.shape) == ("sigmoid", CLASSES, (3, SIDE, SIDE))


# -- what must be refused ---------------------------------------------------------------------------------------------


def refused(path: Path, error: type[SightlineError], match: str, **options: Any) -> SightlineError:
    """The error, checked to leave nothing behind."""
    target = path.parent / "refused.sightline"
    before = set(path.parent.iterdir())
    with pytest.raises(error, match=match) as caught:
        export(path, target, **options)
    assert set(path.parent.iterdir()) == before
    return caught.value


def test_a_missing_file(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere.onnx", ExportError, r"there is no file .*nowhere\.onnx")


@pytest.mark.parametrize(
    "content", [b"", b"hello, I am text\n" * 50, b"\x89PNG\r\n\x1a\n" + bytes(range(256)), b"\0" * 4096]
)
def test_a_file_that_is_no_onnx(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "cnn.onnx"
    path.write_bytes(content)
    refused(path, ExportError, "no ONNX file")


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file(tmp_path: Path, kept: float) -> None:
    path = Cnn().save(tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    refused(path, ExportError, "truncated")


def test_a_folder_instead_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "cnn.onnx"
    path.mkdir()
    refused(path, ExportError, r"cnn\.onnx")


def external(folder: Path, location: str | None = None) -> Path:
    """The network with external data; where that is said to lie can be changed afterwards."""
    path = folder / "cnn.onnx"
    onnx.save(Cnn().model(), path, save_as_external_data=True, location="cnn.data", size_threshold=0)
    if location is not None:
        model = onnx.load(path, load_external_data=False)
        for tensor in model.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = location
        path.write_bytes(model.SerializeToString())
    return path


def test_external_data_that_is_missing(tmp_path: Path) -> None:
    path = external(tmp_path)
    (tmp_path / "cnn.data").unlink()
    refused(path, ExportError, r"'cnn\.data' .*missing")


def test_external_data_that_is_too_short(tmp_path: Path) -> None:
    path = external(tmp_path)
    data = tmp_path / "cnn.data"
    data.write_bytes(data.read_bytes()[:-8])
    refused(path, ExportError, r"'cnn\.data' is too short")


@pytest.mark.parametrize("absolute", [False, True])
def test_external_data_outside_the_folder(tmp_path: Path, absolute: bool) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    secret = tmp_path / "secret.data"
    secret.write_bytes(bytes(1 << 16))
    path = external(folder, str(secret) if absolute else "../secret.data")
    refused(path, ExportError, "outside the model's folder")


def test_external_data_behind_a_link_that_leaves_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret.data").write_bytes(bytes(1 << 16))
    (folder / "link.data").symlink_to(tmp_path / "secret.data")
    refused(external(folder, "link.data"), ExportError, "outside the model's folder")


def test_two_image_inputs(tmp_path: Path) -> None:
    model = Cnn(image="sum").model(
        [helper.make_node("Add", ["left", "right"], ["sum"]), *Cnn(image="sum").nodes()],
    )
    del model.graph.input[:]
    for name in ("left", "right"):
        model.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3, SIDE, SIDE]))
    path = tmp_path / "cnn.onnx"
    onnx.save(model, path)
    refused(path, ExportError, "2 inputs .*'left'.*'right'")


@pytest.mark.parametrize("shape", [(3, 8, SIDE, SIDE), (SIDE, SIDE), (48,)])
def test_an_input_that_is_no_image(tmp_path: Path, shape: tuple[int, ...]) -> None:
    refused(Cnn(shape=shape).save(tmp_path), ExportError, r"'image' has shape")


@pytest.mark.parametrize("dtype", [TensorProto.UINT8, TensorProto.DOUBLE])
def test_an_input_that_is_not_float32(tmp_path: Path, dtype: int) -> None:
    cast = helper.make_node("Cast", ["pixels"], ["image"], to=TensorProto.FLOAT)
    path = Cnn(image="pixels", dtype=dtype).save(tmp_path, [cast, *Cnn().nodes()])
    refused(path, ExportError, "'pixels' is .*float32")


def test_a_size_that_nobody_gives(tmp_path: Path) -> None:
    refused(Cnn(shape=(3, "H", "W")).save(tmp_path), ExportError, "leaves its size open.*--input CxHxW")


def test_a_size_that_the_file_contradicts(tmp_path: Path) -> None:
    refused(Cnn().save(tmp_path), ExportError, r"\(3, 16, 16\), not \(3, 32, 32\)", input_shape=(3, 32, 32))


def test_an_opset_that_is_too_old(tmp_path: Path) -> None:
    refused(Cnn(opset=9).save(tmp_path), ExportError, "opset 9.*11 and newer")


def test_a_network_of_matrix_products_alone_has_no_block(tmp_path: Path) -> None:
    # A mixer: patches by reshaping, two mixed products, a mean over the tokens.
    node = helper.make_node
    nodes = [
        node("Reshape", ["image", "split"], ["split_image"]),
        node("Transpose", ["split_image"], ["patches"], perm=[0, 2, 4, 1, 3, 5]),
        node("Reshape", ["patches", "tokens"], ["embedded"]),
        node("MatMul", ["embedded", "w"], ["mixed"]),
        node("Softmax", ["mixed"], ["attended"], axis=1),
        node("ReduceMean", ["attended", "axes"], ["scores"], keepdims=0),
    ]
    path = Cnn().save(
        tmp_path,
        nodes,
        split=np.array([0, 3, 4, 4, 4, 4], np.int64),
        tokens=np.array([0, 16, 48], np.int64),
        w=np.ones((48, CLASSES), np.float32),
        axes=np.array([1], np.int64),
    )
    refused(path, NoBlocksError, "no convolutional block was found.*--blocks")


def test_an_operator_without_a_rule_on_the_gradients_path(tmp_path: Path) -> None:
    nodes = Cnn().nodes()
    nodes[-1].input[0] = "summed"
    nodes.insert(-1, helper.make_node("CumSum", ["vector", "axis"], ["summed"], name="running_total"))
    path = Cnn().save(tmp_path, nodes, axis=np.array(1))
    error = refused(path, UnsupportedOperatorError, "'CumSum' .*'running_total'.*--blocks")
    assert isinstance(error, UnsupportedOperatorError)
    assert (error.operator, error.node) == ("CumSum", "running_total")


def test_an_operator_of_a_foreign_domain_on_the_gradients_path(tmp_path: Path) -> None:
    model = Cnn().model()
    model.graph.node[3].domain = "com.example"
    model.graph.node[3].name = "own_activation"
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    path = tmp_path / "cnn.onnx"
    onnx.save(model, path)
    refused(path, ExportError, "com.example|own_activation")


def test_probabilities_whose_softmax_cannot_be_taken_off(tmp_path: Path) -> None:
    """Written as exp(z) / Σ exp(z): another softmax over them would be far flatter."""
    node = helper.make_node
    nodes = [*Cnn(output="z").nodes(), node("Exp", ["z"], ["e"]), node("ReduceSum", ["e", "axis"], ["sum"])]
    file = Cnn().save(tmp_path, [*nodes, node("Div", ["e", "sum"], ["scores"])], axis=np.array([1]))
    refused(file, ExportError, "probabilities already.*activation='none'")
    made = export(file, tmp_path / "a.sightline", activation="none")
    result = run(made.classifier, {made.input.name: images(3)})
    assert relative_error(result["probabilities"], softmax(logits(images(3)))) <= 1e-5
    assert export(file, tmp_path / "b.sightline", activation="softmax").manifest.activation == "softmax"  # as they say


def test_scores_in_the_unit_interval_are_no_probabilities_yet(tmp_path: Path) -> None:
    nodes = [*Cnn(output="z").nodes(), helper.make_node("HardSigmoid", ["z"], ["scores"])]
    assert export(Cnn().save(tmp_path, nodes), tmp_path / "a.sightline").manifest.activation == "softmax"


def test_an_output_of_class_numbers(tmp_path: Path) -> None:
    nodes = [*Cnn(output="z").nodes(), helper.make_node("ArgMax", ["z"], ["scores"], axis=1)]
    model = Cnn().model(nodes)
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("scores", TensorProto.INT64, ["N", 1]))
    onnx.save(model, tmp_path / "cnn.onnx")
    refused(tmp_path / "cnn.onnx", ExportError, "'scores' is INT64.*without its ArgMax")


def test_an_output_that_is_no_row_of_classes(tmp_path: Path) -> None:
    model = Cnn().model()
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("late", TensorProto.FLOAT, ["N", 12, 4, 4]))
    path = tmp_path / "cnn.onnx"
    onnx.save(model, path)
    refused(path, ExportError, r"'late' has shape \(1, 12, 4, 4\)")


def test_a_block_that_does_not_exist(tmp_path: Path) -> None:
    refused(Cnn().save(tmp_path), ExportError, "no block 'lates'.*late", blocks=["lates"])


def test_a_block_that_is_no_feature_map(tmp_path: Path) -> None:
    refused(Cnn().save(tmp_path), ExportError, "'vector' has shape", blocks=["vector"])


def test_an_empty_list_of_blocks(tmp_path: Path) -> None:
    refused(Cnn().save(tmp_path), ExportError, "no block was named", blocks=[])


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"labels": ["a", "b"]}, "2 labels for 5 classes"),
        ({"labels": ["a", "b", "c", "d", "a"]}, "more than once: a"),
        ({"mean": [0.5, 0.5]}, "mean is .*3 channels"),
        ({"std": [0.5, 0.0, 0.5]}, "std is"),
        ({"std": float("nan")}, "std is"),
        ({"range": 0.0}, "range is 0"),
        ({"colour": "GRAY"}, "GRAY has 1 channels"),
        ({"example": np.full((3, SIDE, SIDE), np.nan, np.float32)}, "NaN"),
        ({"example": np.zeros((3, SIDE, SIDE), np.uint8)}, "uint8"),
        ({"example": np.zeros((SIDE, SIDE), np.float32)}, "shape"),
    ],
)
def test_options_that_do_not_fit(tmp_path: Path, options: dict[str, Any], match: str) -> None:
    refused(Cnn().save(tmp_path), ExportError, match, **options)


def test_something_that_is_no_network(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="a dict cannot be exported"):
        export({"weights": 1}, tmp_path / "a.sightline")  # type: ignore[arg-type]


def test_a_place_that_is_taken(tmp_path: Path) -> None:
    file = Cnn().save(tmp_path)
    first = export(file, tmp_path / "a.sightline")
    with pytest.raises(BundleError, match="exists already"):
        export(file, tmp_path / "a.sightline", labels=list("abcde"))
    assert bundle.load(first.path).labels is None
    assert export(file, tmp_path / "a.sightline", labels=list("abcde"), overwrite=True).labels == tuple("abcde")


class Fading(torch.nn.Sequential):
    """Without trained statistics: maps are a millionth of the image behind eight layers, and the bias decides."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        layers: list[torch.nn.Module] = []
        for number in range(8):
            convolution = torch.nn.Conv2d(8 if number else 3, 8, 3, 2 if number in (1, 3) else 1, 1, bias=False)
            torch.nn.init.normal_(convolution.weight, std=0.03)
            layers += [convolution, torch.nn.ReLU()]
        super().__init__(*layers, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, 5))
        self.eval()


@pytest.mark.parametrize("wrong", [None, lambda s: s.gated(s.y > 0) * 0.9, lambda s: s.g])
def test_a_network_in_which_images_fade_is_checked_on_louder_noise(
    wrong: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    image = np.random.default_rng(0).normal(size=(1, 3, 32, 32)).astype(np.float32)
    if wrong is None:
        export(Fading(), tmp_path / "a.sightline", example=image)
        assert "says little" not in caplog.text
        monkeypatch.setattr(check, "LOUDER", ())
        export(Fading(), tmp_path / "b.sightline", example=image)
        assert "says little" in caplog.text
    else:
        monkeypatch.setitem(RULES, "Relu", wrong)
        with pytest.raises(SelfCheckError, match="gradient at block 0"):
            export(Fading(), tmp_path / "a.sightline", example=image)


def test_what_a_self_check_makes_of_its_comparisons() -> None:
    """Distance and rounding at the example, at noise, and at louder noise."""
    faint, sure, wrong = (0.2, 0.1), (0.01, 0.001), (0.06, 0.005)
    assert check._verdict([sure]) == (True, sure)
    assert check._verdict([wrong, sure]) == (True, sure)  # values tie on a plain background
    assert check._verdict([faint, faint, sure, faint]) == (True, sure)
    assert check._verdict([faint, faint, wrong, faint]) == (False, wrong)
    assert check._verdict([faint, faint, faint, faint]) == (True, faint)
    assert check._verdict([(0.5, 0.1), (float("nan"), 0.0)])[0] is False


def test_a_size_that_the_example_does_not_have(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"input_shape is \(3, 9, 9\), but the example is .*\(3, 8, 8\)"):
        export(Cnn().save(tmp_path), tmp_path / "a", example=np.zeros((1, 3, 8, 8), np.float32), input_shape=(3, 9, 9))


@pytest.mark.parametrize("factor", [0.5, -1.0, 2.0])
def test_a_wrong_gradient_is_caught_by_the_self_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factor: float
) -> None:
    monkeypatch.setitem(RULES, "Relu", lambda s: s.gated(s.y > 0) * factor)
    refused(Cnn().save(tmp_path), SelfCheckError, "gradient at block 0")


def test_a_relu_gradient_without_its_mask_is_caught_by_the_self_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RULES, "Relu", lambda s: s.g)
    refused(Cnn().save(tmp_path), SelfCheckError, "gradient at block 0")


def test_the_figures_of_the_self_check_stand_in_the_manifest(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="sightline"):
        made = export(Cnn().save(tmp_path), tmp_path / "a.sightline")
    assert set(made.manifest.checks) == {"classifier", "gradient.0", "gradient.1", "stage.0", "stage.1"}
    assert made.manifest.checks["classifier"] < 1e-5
    assert "self-check" in caplog.text


def test_a_step_of_the_self_check_that_overflows_is_not_the_best_one() -> None:
    class Steep:
        """Logits Σ x and 0, and NaN where a step is long."""

        def run(self, _names: list[str], feeds: dict[str, npt.NDArray[np.float32]]) -> list[npt.NDArray[np.float32]]:
            moved = feeds["delta.0"].reshape(len(feeds["delta.0"]), -1)
            rows = np.stack([moved.sum(axis=1), np.zeros(len(moved), np.float32)], axis=1)
            rows[np.abs(moved).max(axis=1) > 1.5e-4] = np.nan
            return [rows]

    maps = np.ones((1, 2, 3, 3), np.float32)
    network: Any = SimpleNamespace(image="image", activation="sigmoid")
    probe: Any = Steep()
    error, rounding = check._directional_error(
        probe, network, images(), [maps], 0, maps, 0, np.zeros((1, 2), np.float32), np.random.default_rng(0)
    )
    assert error < 1e-3
    assert np.isfinite(rounding)
