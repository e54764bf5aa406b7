"""The gradient graph of every family against torch autograd in float64."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from sightline.bundle import Bundle
from sightline.exporter import export
from tests.exporter.conftest import Exported, attribute, relative_error, run
from tests.reference import seeded_gradient
from tests.zoo import fitted

TOLERANCE = 1e-4
PLAIN_OPERATORS = {
    *("Abs", "Add", "And", "ArgMax", "AveragePool", "BatchNormalization", "Cast", "Clip", "Concat"),
    *("Conv", "ConvTranspose", "DepthToSpace", "Div", "Elu", "Equal", "Erf", "Exp", "Expand"),
    *("Flatten", "Gather", "Gelu", "Gemm", "GlobalAveragePool", "GlobalMaxPool", "Greater", "HardSigmoid", "HardSwish"),
    *("Identity", "InstanceNormalization", "LRN", "LayerNormalization", "LeakyRelu", "Less", "Log", "MatMul", "Max"),
    *("MaxPool", "Min", "Mish", "Mul", "Neg", "Not", "Or", "Pad", "Pow"),
    *("PRelu", "Reciprocal", "ReduceMax", "ReduceMean", "ReduceSum", "Relu", "Reshape", "Resize", "Selu"),
    *("Sigmoid", "Sign", "Slice", "Softmax", "Softplus", "Split", "Sqrt", "Squeeze", "Sub"),
    *("Tanh", "Transpose", "Unsqueeze", "Where"),
}
"""What every inference engine has; TensorRT lacks MaxUnpool, Col2Im and ScatterND with a reduction."""


def test_every_gradient_agrees_with_float64_autograd(exported: Exported) -> None:
    errors = {
        block.name: relative_error(exported.attribution[block.gradient][0], want.numpy())
        for block, want in zip(exported.bundle.blocks, exported.reference.gradients, strict=True)
    }
    assert max(errors.values()) <= TOLERANCE, errors


def test_every_feature_map_agrees_with_float64(exported: Exported) -> None:
    errors = {
        block.name: relative_error(exported.attribution[block.features][0], want.numpy())
        for block, want in zip(exported.bundle.blocks, exported.reference.features, strict=True)
    }
    assert max(errors.values()) <= TOLERANCE, errors


def test_alpha_is_the_spatial_mean_of_the_gradient(exported: Exported) -> None:
    for block, want in zip(exported.bundle.blocks, exported.reference.alphas, strict=True):
        got = exported.attribution[block.alpha]
        assert got.shape == (1, block.channels)
        assert relative_error(got[0], want.numpy()) <= 1e-3, block.name


def test_the_classifier_takes_a_batch_and_agrees_with_float64(exported: Exported) -> None:
    image = exported.family.image().numpy()
    other = np.flip(image, axis=3)
    result = run(exported.bundle.classifier, {exported.bundle.input.name: np.concatenate([other, image])})
    logits = exported.reference.logits
    assert result["logits"].shape == (2, len(logits))
    assert relative_error(result["logits"][1], logits.numpy()) <= TOLERANCE
    assert relative_error(result["probabilities"][1], torch.softmax(logits, 0).numpy()) <= TOLERANCE
    assert relative_error(exported.attribution["logits"][0], logits.numpy()) <= TOLERANCE
    assert relative_error(exported.attribution["probabilities"][0], torch.softmax(logits, 0).numpy()) <= TOLERANCE


def test_the_reference_is_no_trivial_one(exported: Exported) -> None:
    # A gradient that is zero, or of one sign everywhere, would hide errors.
    for gradient, alphas in zip(exported.reference.gradients, exported.reference.alphas, strict=True):
        assert 1e-6 < gradient.norm().item() < 1e6
        assert 0.2 < (alphas > 0).double().mean().item() < 0.8


def test_the_graphs_hold_plain_operators_of_static_shape(exported: Exported) -> None:
    model = onnx.load(exported.bundle.attribution, load_external_data=False)
    assert {node.op_type for node in model.graph.node} <= PLAIN_OPERATORS
    assert not [node.name for node in model.graph.node if node.op_type == "MaxPool" and len(node.output) > 1]
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        assert all(axis.HasField("dim_value") for axis in value.type.tensor_type.shape.dim), value.name


def test_the_bundle_holds_no_local_path_and_no_stack_trace(exported: Exported) -> None:
    for file in exported.bundle.path.glob("*.onnx"):
        content = file.read_bytes()
        for secret in (b"stack_trace", b'File "', b"site-packages", str(Path.home()).encode() + b"/"):
            assert secret not in content, f"{secret!r} in {file.name}"
    assert not re.search(r'"/|\\\\', (exported.bundle.path / "manifest.json").read_text())


# -- what holds of one small network holds of all ---------------------------------------------------------------------


class Small(torch.nn.Module):
    """Two blocks, 16 and 8 maps wide, and 7 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3, 2, 1), torch.nn.ReLU())
        self.second = torch.nn.Sequential(torch.nn.Conv2d(16, 8, 3, 2, 1), torch.nn.ReLU())
        self.head = torch.nn.Linear(8, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.second(self.first(x))
        y: torch.Tensor = self.head(x.mean((2, 3)))
        return y


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    return torch.randn(1, 3, 20, 28, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def small(image: torch.Tensor) -> torch.nn.Module:
    return fitted(Small(), image)


@pytest.fixture(scope="module")
def bundle(small: torch.nn.Module, image: torch.Tensor, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return export(small, tmp_path_factory.mktemp("small") / "small.sightline", example=image)


def test_the_module_is_left_in_the_modes_of_its_parts(tmp_path: Path, image: torch.Tensor) -> None:
    module = Small().train()
    module.second.eval()  # frozen, as in fine-tuning
    export(module, tmp_path / "modes.sightline", example=image)
    assert (module.training, module.first.training, module.second.training) == (True, True, False)


@pytest.mark.parametrize("value", [0.0, 2.5])
def test_an_example_with_a_plain_background_is_no_reason_to_refuse(
    tmp_path: Path, image: torch.Tensor, value: float
) -> None:
    """There values tie in the max-pool, and the self-check's difference quotients do not exist."""
    network = Small()
    network.first.append(torch.nn.MaxPool2d(3, 2, 1))
    module = fitted(network, image)
    plain = torch.full_like(image, value)
    plain[:, :, 4:9, 6:12] = image[:, :, 4:9, 6:12]
    made = export(module, tmp_path / "plain.sightline", example=plain)
    got = attribute(made, plain.numpy(), 2)
    want = seeded_gradient(module.double(), plain.double(), 2, ["second"])
    assert relative_error(got[made.blocks[-1].gradient][0], want.gradients[0].numpy()) <= TOLERANCE


def test_group_normalisation_in_every_block(tmp_path: Path, image: torch.Tensor) -> None:
    """onnx infers no shape behind a GroupNormalization; what batch there is must not be lost there."""
    network = Small()
    network.first.insert(1, torch.nn.GroupNorm(4, 16))
    network.second.insert(1, torch.nn.GroupNorm(1, 8))
    module = fitted(network, image)
    made = export(module, tmp_path / "groups.sightline", example=image)
    assert [(block.name, block.channels) for block in made.blocks] == [("first", 16), ("second", 8)]
    got = attribute(made, image.numpy(), 2)
    want = seeded_gradient(module.double(), image.double(), 2, ["first", "second"])
    for block, gradient in zip(made.blocks, want.gradients, strict=True):
        assert relative_error(got[block.gradient][0], gradient.numpy()) <= TOLERANCE


@pytest.mark.parametrize("size", [(3, 5), (4, 3)])
def test_an_adaptive_pooling_whose_windows_differ_in_size(
    tmp_path: Path, image: torch.Tensor, size: tuple[int, int]
) -> None:
    """VGG on anything but 224×224; torch writes it as GatherND."""
    network = Small()
    network.second.append(torch.nn.AdaptiveAvgPool2d(size))
    network.second.append(torch.nn.Conv2d(8, 8, 1))
    module = fitted(network, image)
    made = export(module, tmp_path / "pooled.sightline", example=image, blocks=["first", "second.0"])
    assert "GatherND" in {node.op_type for node in onnx.load(made.classifier).graph.node}
    got = attribute(made, image.numpy(), 2)
    want = seeded_gradient(module.double(), image.double(), 2, ["first", "second.0"])
    for block, gradient in zip(made.blocks, want.gradients, strict=True):
        assert relative_error(got[block.gradient][0], gradient.numpy()) <= TOLERANCE
    assert len(made.stages) == 2  # each checked with two gradients at once


@pytest.mark.parametrize("target", range(7))
def test_any_class_can_be_the_target(bundle: Bundle, small: torch.nn.Module, image: torch.Tensor, target: int) -> None:
    got = attribute(bundle, image.numpy(), target)
    want = seeded_gradient(small.double(), image.double(), target, ["first", "second"])
    small.float()
    for block, gradient in zip(bundle.blocks, want.gradients, strict=True):
        assert relative_error(got[block.gradient][0], gradient.numpy()) <= TOLERANCE


@pytest.mark.parametrize("rivals", [0.0, 1.0, 0.25])
def test_rivals_weighs_the_other_classes(
    bundle: Bundle, small: torch.nn.Module, image: torch.Tensor, rivals: float
) -> None:
    got = attribute(bundle, image.numpy(), 2, rivals)
    module, x = small.double(), image.double()
    with torch.enable_grad():
        maps = module.get_submodule("first")(x).requires_grad_()
        (z,) = module.get_submodule("head")(module.get_submodule("second")(maps).mean((2, 3)))
        objective = z[2] - rivals * torch.logsumexp(torch.cat([z[:2], z[3:]]), 0)
        (want,) = torch.autograd.grad(objective, maps)
    small.float()
    assert relative_error(got[bundle.blocks[0].gradient], want.numpy()) <= TOLERANCE


def test_any_function_of_the_logits_can_be_seeded(bundle: Bundle, small: torch.nn.Module, image: torch.Tensor) -> None:
    seed = np.random.default_rng(5).normal(size=(1, 7)).astype(np.float32)
    got = attribute(bundle, image.numpy(), seed=seed)
    module, x = small.double(), image.double()
    with torch.enable_grad():
        maps = module.get_submodule("first")(x).requires_grad_()
        (z,) = module.get_submodule("head")(module.get_submodule("second")(maps).mean((2, 3)))
        (want,) = torch.autograd.grad(z @ torch.from_numpy(seed[0]).double(), maps)
    small.float()
    assert relative_error(got[bundle.blocks[0].gradient], want.numpy()) <= TOLERANCE


def test_the_seed_is_the_probability_gradient_up_to_a_factor(
    bundle: Bundle, small: torch.nn.Module, image: torch.Tensor
) -> None:
    got = attribute(bundle, image.numpy(), 4)["gradient.0"]
    module, x = small.double(), image.double()
    with torch.enable_grad():
        maps = module.get_submodule("first")(x).requires_grad_()
        (z,) = module.get_submodule("head")(module.get_submodule("second")(maps).mean((2, 3)))
        probability = torch.softmax(z, 0)[4]
        (gradient,) = torch.autograd.grad(probability, maps)
    small.float()
    p = probability.item()
    assert relative_error(got * p * (1 - p), gradient.numpy()) <= TOLERANCE


@pytest.mark.parametrize("sure", [1e3, 1e4, -1e4])
def test_a_network_however_sure_has_a_finite_gradient(tmp_path: Path, image: torch.Tensor, sure: float) -> None:
    module = Small()
    fitted(module, image)
    module.head.bias[1] = sure
    bundle = export(module, tmp_path / "sure.sightline", example=image)
    got = attribute(bundle, image.numpy(), 1)
    assert got["probabilities"][0, 1] in (0, 1)
    want = seeded_gradient(module.double(), image.double(), 1, ["first", "second"])
    for block, gradient in zip(bundle.blocks, want.gradients, strict=True):
        assert gradient.norm() > 0
        assert relative_error(got[block.gradient][0], gradient.numpy()) <= TOLERANCE


@pytest.mark.parametrize("classes", [1, 5])
def test_a_sigmoid_network_is_seeded_with_the_bare_logit(tmp_path: Path, image: torch.Tensor, classes: int) -> None:
    module = Small()
    module.head = torch.nn.Linear(8, classes)
    fitted(module, image)
    bundle = export(module, tmp_path / "sigmoid.sightline", example=image, activation="sigmoid")
    got = attribute(bundle, image.numpy(), classes - 1)
    want = seeded_gradient(module.double(), image.double(), classes - 1, ["first", "second"], activation="sigmoid")
    for block, gradient in zip(bundle.blocks, want.gradients, strict=True):
        assert relative_error(got[block.gradient][0], gradient.numpy()) <= TOLERANCE
    assert relative_error(got["probabilities"][0], torch.sigmoid(want.logits).numpy()) <= TOLERANCE
