"""The classifier in lower precisions: what the files hold, how far they are from float32, what is refused."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sightline import bundle, demo
from sightline.bindings import openvino_package
from sightline.bundle import Bundle
from sightline.errors import BundleError, ImageError, PrecisionError
from sightline.exporter import add_precision
from sightline.exporter.int8 import masked
from sightline.runtime.image import prepare
from tests.exporter.conftest import relative_error, run
from tests.runtime import tiny

Floats = npt.NDArray[np.float32]
pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning", "error::UserWarning")


def files(opened: Bundle) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in opened.path.iterdir() if file.name != bundle.MANIFEST}


def by_openvino(path: Path, feed: npt.NDArray[Any]) -> npt.NDArray[Any]:
    compiled = openvino_package.core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return np.asarray(compiled(feed)[bundle.LOGITS])


@pytest.fixture(scope="module")
def pictures() -> list[Floats]:
    """The demo's images, preprocessed, and turned versions of them."""
    expected = bundle.load(demo.BUNDLE).input
    plain = [prepare(sample.image, expected).array for sample in demo.samples()]
    return [np.ascontiguousarray(np.rot90(image, turn, (1, 2))) for turn in (0, 1) for image in plain]


@pytest.fixture(scope="module")
def surface(tmp_path_factory: pytest.TempPathFactory, pictures: list[Floats]) -> Bundle:
    """The demo with both variants."""
    path = tmp_path_factory.mktemp("precision") / "surface.sightline"
    shutil.copytree(demo.BUNDLE, path)
    add_precision(path, "fp16", images=pictures)
    return add_precision(path, "int8", images=pictures)


@pytest.fixture
def small(tmp_path: Path) -> Bundle:
    return tiny.write(tmp_path / "tiny.sightline")


def images(count: int = 6) -> list[Floats]:
    return [tiny.image(seed) for seed in range(count)]


def test_everything_else_stays_byte_for_byte(surface: Bundle) -> None:
    before, after = files(bundle.load(demo.BUNDLE)), files(surface)
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {"classifier.fp16.onnx", "classifier.int8.onnx"}
    assert surface.variants == ("fp32", "fp16", "int8")


@pytest.mark.parametrize(
    ("variant", "dtype", "tolerance"), [("fp16", np.float16, 3e-3), ("int8", np.float32, 0.12)], ids=["fp16", "int8"]
)
def test_the_demo_in_every_precision(
    surface: Bundle, pictures: list[Floats], variant: str, dtype: type[np.generic], tolerance: float
) -> None:
    batch, name = np.stack(pictures), surface.input.name
    want = run(surface.classifier, {name: batch})
    path = surface.graph(variant)
    got = run(path, {name: batch.astype(dtype)})
    for logits in (got["logits"], by_openvino(path, batch.astype(dtype))):
        assert logits.dtype == np.float32
        assert relative_error(logits, want["logits"]) < tolerance
        assert (logits.argmax(1) == want["logits"].argmax(1)).all()
    assert got["probabilities"].dtype == np.float32
    np.testing.assert_allclose(got["probabilities"].sum(axis=1), 1, atol=1e-6)
    facts = surface.manifest.variants[variant]
    assert facts["agreement"] == 1
    assert 0 < facts["error"] < 3 * tolerance
    assert set(facts["versions"]) == {"onnx", "onnxruntime"}


def test_scores_of_masked_images_in_int8(surface: Bundle, pictures: list[Floats]) -> None:
    random = np.random.default_rng(5)
    batch = np.stack([masked(image, surface.input, random) for image in pictures for _ in range(4)])
    want, got = (run(surface.graph(variant), {surface.input.name: batch}) for variant in ("fp32", "int8"))
    target = want["probabilities"].argmax(axis=1)[:, None]
    scores = [np.take_along_axis(each["probabilities"], target, 1).ravel() for each in (want, got)]
    assert np.abs(scores[0] - scores[1]).mean() < 0.03
    assert np.corrcoef(scores)[0, 1] > 0.98


@pytest.mark.parametrize("variant", ["fp16", "int8"])
def test_a_file_is_whole_and_says_nothing_of_this_machine(surface: Bundle, variant: str) -> None:
    model = onnx.load(surface.graph(variant), load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    shapes = [
        (value.name, [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim])
        for value in (*model.graph.input, *model.graph.output)
    ]
    assert shapes == [("x", ["N", 3, 224, 224]), ("logits", ["N", 5]), ("probabilities", ["N", 5])]
    content = surface.graph(variant).read_bytes()
    assert b"/tmp" not in content
    assert b"sightline.input" in content
    assert len(content) < 0.6 * sum(map(len, files(bundle.load(demo.BUNDLE)).values()))


@pytest.mark.parametrize("symmetric", [False, True])
def test_no_product_overflows_on_a_cpu_without_vnni(small: Bundle, symmetric: bool) -> None:
    """Such CPUs add two products of a uint8 and a weight in 16 bits: 2·255·64 is the most that fits."""
    graph = onnx.load(add_precision(small, "int8", images=images(), symmetric=symmetric).graph("int8")).graph
    producers = {name: node for node in graph.node for name in node.output}
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    matrices = [node for node in graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    weights = [constants[producers[node.input[1]].input[0]] for node in matrices]
    assert weights
    for each in weights:
        assert each.dtype == np.int8
        assert 48 <= np.abs(each.astype(int)).max() <= 64


def test_the_logits_are_not_rounded_to_8_bits(surface: Bundle) -> None:
    graph = onnx.load(surface.graph("int8")).graph
    producers = {name: node for node in graph.node for name in node.output}
    identity = producers[bundle.LOGITS]
    assert (identity.op_type, producers[identity.input[0]].op_type) == ("Identity", "Gemm")
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    assert convolutions
    assert all(producers[name].op_type == "DequantizeLinear" for node in convolutions for name in node.input)


@pytest.mark.parametrize("symmetric", [False, True])
def test_what_the_activations_are(small: Bundle, symmetric: bool) -> None:
    opened = add_precision(small, "int8", images=images(), symmetric=symmetric)
    kind = "int8" if symmetric else "uint8"
    assert opened.manifest.variants["int8"]["activations"] == kind
    graph = onnx.load(opened.graph("int8")).graph
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    zeros = [tensors[node.input[2]] for node in graph.node if node.op_type == "QuantizeLinear"]
    assert zeros
    assert all(zero.dtype == kind for zero in zeros)
    # The first is the image's. What follows ReLUs has no negative half that 8 bits should be spent on.
    assert not any(zero.any() for zero in (zeros if symmetric else zeros[1:3]))
    (scale,) = (tensors[name] for name in tensors if name.startswith("conv2.weight") and name.endswith("_scale"))
    assert scale.shape == (tiny.LATE.channels,), "weights have a scale for each channel"


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_either_layout_of_the_network_and_of_the_images(tmp_path: Path, layout: bundle.Layout, precision: Any) -> None:
    opened = tiny.write(tmp_path / "tiny.sightline", layout=layout)
    taken = [image if layout == "NCHW" else np.moveaxis(image, 0, 2) for image in images(40)]
    first = add_precision(opened, precision, images=images(40))
    content = first.graph(precision).read_bytes()
    assert add_precision(opened, precision, images=taken, overwrite=True).graph(precision).read_bytes() == content
    batch = np.stack(taken).astype(np.float16 if precision == "fp16" else np.float32)
    want = run(first.classifier, {"pixels": np.stack(taken)})["logits"]
    assert relative_error(run(first.graph(precision), {"pixels": batch})["logits"], want) < 0.05
    assert relative_error(by_openvino(first.graph(precision), batch), want) < 0.05


def test_images_are_read_one_by_one(small: Bundle) -> None:
    buffer = np.empty(tiny.INPUT.shape, np.float32)

    def reusing() -> Iterator[Floats]:
        for image in images(3):
            buffer[:] = image
            yield buffer

    want = add_precision(small, "int8", images=images(3))
    facts, content = want.manifest.variants, want.graph("int8").read_bytes()
    got = add_precision(small, "int8", images=reusing(), overwrite=True)
    assert (got.manifest.variants, got.graph("int8").read_bytes()) == (facts, content)
    assert add_precision(small, "fp16", images=np.stack(images(2))).manifest.variants["fp16"]["images"] == 2


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_large_graphs_keep_their_weights_beside_them(
    surface: Bundle, pictures: list[Floats], precision: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "surface.sightline"
    shutil.copytree(surface.path, path)
    inline, feed = surface.graph(precision), np.stack(pictures[:2])
    feeds = {surface.input.name: feed.astype(np.float16) if precision == "fp16" else feed}
    monkeypatch.setattr("sightline.exporter.variant.EXTERNAL_BYTES", 0)
    opened = add_precision(path, precision, images=pictures, overwrite=True)
    weights = f"classifier.{precision}.onnx.bin"
    assert set(files(opened)) - set(files(surface)) == {weights}
    assert opened.graph(precision).stat().st_size < inline.stat().st_size / 2
    np.testing.assert_array_equal(run(opened.graph(precision), feeds)["logits"], run(inline, feeds)["logits"])
    monkeypatch.undo()
    assert weights not in files(add_precision(path, precision, images=pictures[:2], overwrite=True))


def test_few_images_are_warned_of(small: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    add_precision(small, "int8", images=images(1))
    assert "calibrated on 1 images: 32 or more" in caplog.text
    caplog.clear()
    add_precision(small, "int8", images=images(32), overwrite=True)
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_nothing_is_printed(small: Bundle, capfd: pytest.CaptureFixture[str]) -> None:
    add_precision(small, "int8", images=images(2))
    add_precision(small, "fp16")
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(
    ("precision", "options", "match"),
    [
        ("bf16", {}, "bf16.*choose fp16 or int8"),
        ("int8", {}, "pass at least one"),
        ("int8", {"images": []}, "pass at least one"),
        ("fp16", {"symmetric": True}, "pass it with int8"),
    ],
)
def test_what_cannot_be_added(small: Bundle, precision: Any, options: dict[str, Any], match: str) -> None:
    with pytest.raises(PrecisionError, match=match):
        add_precision(small, precision, **options)
    assert bundle.load(small.path).hash == small.hash


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((3, 24, 21), np.float32),
        np.zeros((24, 20, 3), np.float32),
        np.zeros((3, 24, 20), np.uint8),
        np.zeros((1, 3, 24, 20), np.float32),
        np.full((3, 24, 20), np.inf, np.float32),
    ],
    ids=["size", "layout", "pixels", "batch", "infinite"],
)
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_bad_image_leaves_the_bundle_as_it_was(small: Bundle, image: npt.NDArray[Any], precision: Any) -> None:
    with pytest.raises(ImageError, match="calibration image"):
        add_precision(small, precision, images=[tiny.image(), image])
    assert bundle.load(small.path).hash == small.hash
    assert list(small.path.parent.iterdir()) == [small.path]


def test_a_variant_is_replaced_only_on_request(small: Bundle) -> None:
    first = add_precision(small, "int8", images=images(4))
    with pytest.raises(PrecisionError, match="already: pass overwrite=True"):
        add_precision(small, "int8", images=images(2))
    second = add_precision(small, "int8", images=images(2), overwrite=True)
    assert [each.manifest.variants["int8"]["images"] for each in (first, second)] == [4, 2]
    assert second.variants == ("fp32", "int8")


def test_a_damaged_bundle_is_not_blessed(small: Bundle) -> None:
    small.attribution.write_bytes(b"damaged")
    with pytest.raises(BundleError, match=r"attribution\.onnx was changed"):
        add_precision(small, "fp16")


def scaled(source: Bundle, factors: Sequence[float]) -> Bundle:
    """The same classifier, its first convolution scaled by one factor and the second by another."""
    model = onnx.load(source.classifier)
    for tensor in model.graph.initializer:
        for layer, factor in zip(("conv1", "conv2.weight"), factors, strict=True):
            if tensor.name.startswith(layer):
                value = numpy_helper.to_array(tensor) * np.float32(factor)
                tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))

    def save(folder: Path) -> bundle.Manifest:
        shutil.copyfile(source.attribution, folder / bundle.ATTRIBUTION)
        onnx.save(model, folder / bundle.CLASSIFIER)
        return source.manifest

    return bundle.write(source.path, save, overwrite=True)


def test_what_float16_cannot_hold(small: Bundle) -> None:
    large = scaled(small, (1e6, 1e-6))
    with pytest.raises(PrecisionError, match=r"the tensor 'z0' reaches \d\.\de\+06, which float16 cannot hold"):
        add_precision(large, "fp16")
    assert bundle.load(large.path).hash == large.hash


def test_what_float16_makes_nothing_of(small: Bundle) -> None:
    faint = scaled(small, (1e-7, 1e7))
    with pytest.raises(PrecisionError, match=r"differ from those in float32 by .*use bf16 or fp32"):
        add_precision(faint, "fp16")


def test_an_image_that_overflows_where_noise_does_not(small: Bundle) -> None:
    with pytest.raises(PrecisionError, match="cannot hold"):
        add_precision(small, "fp16", images=[tiny.image() * np.float32(1e6)])


@pytest.mark.parametrize("activation", ["sigmoid", "none"])
def test_other_endings(tmp_path: Path, activation: bundle.Activation) -> None:
    source = tiny.write(tmp_path / "tiny.sightline")
    model = onnx.load(source.classifier)
    last = model.graph.node[-1]
    end = helper.make_node("Sigmoid" if activation == "sigmoid" else "Identity", list(last.input), list(last.output))
    last.CopyFrom(end)

    def save(folder: Path) -> bundle.Manifest:
        shutil.copyfile(source.attribution, folder / bundle.ATTRIBUTION)
        onnx.save(model, folder / bundle.CLASSIFIER)
        return replace(source.manifest, activation=activation)

    bundle.write(source.path, save, overwrite=True)
    opened = add_precision(add_precision(source.path, "fp16"), "int8", images=images(32))
    batch = np.stack(images(8))
    want = run(opened.classifier, {"pixels": batch})["probabilities"]
    for variant, dtype in (("fp16", np.float16), ("int8", np.float32)):
        got = run(opened.graph(variant), {"pixels": batch.astype(dtype)})["probabilities"]
        assert relative_error(got, want) < 0.05
        first, *_ = onnx.load(opened.graph(variant)).graph.output
        assert first.type.tensor_type.elem_type == TensorProto.FLOAT


def test_masks_are_between_0_and_1() -> None:
    random = np.random.default_rng(0)
    ones = np.ones(tiny.INPUT.shape, np.float32)
    hidden = [masked(ones, tiny.INPUT, random) for _ in range(20)]
    assert all(each.dtype == np.float32 and each.min() == 0 and each.max() == 1 for each in hidden)
    assert all((each == each[:1]).all() for each in hidden), "the channels of a pixel share its mask"
