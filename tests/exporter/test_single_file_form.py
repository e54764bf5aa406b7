"""What the single file is made of: standard operators, weights where engines want them, facts for whoever opens it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import sightline
from sightline import SISE, Explainer, demo, export_single_file
from sightline import bundle as bundles
from sightline.bundle import Bundle
from sightline.cli import main
from sightline.errors import BundleError, ExportError, MethodError
from sightline.exporter import single_file
from tests.exporter.explaining import SingleFile, assert_same
from tests.runtime import tiny


@pytest.fixture
def source(tmp_path: Path) -> Bundle:
    return tiny.write(tmp_path / "tiny.sightline")


@pytest.fixture(scope="module")
def surface() -> Bundle:
    return sightline.load(demo.BUNDLE)


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and those inside it."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from graphs(attribute.g)


@pytest.mark.parametrize("uint8", [False, True])
@pytest.mark.parametrize("method", single_file.METHODS)
def test_it_is_an_ordinary_onnx_file(source: Bundle, method: str, uint8: bool, tmp_path: Path) -> None:
    path = export_single_file(source, tmp_path / "x.onnx", method=method, uint8=uint8)
    onnx.checker.check_model(path, full_check=True)
    model = onnx.load(path)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", source.manifest.opset)]
    assert not model.functions
    every = list(graphs(model.graph))
    assert {node.domain for graph in every for node in graph.node} == {""}
    masked = method.endswith("sise")
    assert len(every) == 1 + masked
    assert [node.op_type for node in model.graph.node if node.op_type in ("Loop", "If", "Scan")] == ["Loop"] * masked
    names = ["image", "target", "mu"] if method == "sise" else ["image", "target"]
    assert [value.name for value in model.graph.input] == names
    assert [value.name for value in model.graph.output] == [
        "logits",
        "probabilities",
        "explained",
        "saliency",
        "passes",
    ]
    assert str(tmp_path).encode() not in path.read_bytes()


@pytest.mark.parametrize("method", single_file.METHODS)
def test_it_can_do_without_float64(source: Bundle, method: str, tmp_path: Path) -> None:
    path = export_single_file(source, tmp_path / "x.onnx", method=method, float64=False, inputs=("target",))
    model = onnx.shape_inference.infer_shapes(onnx.load(path), strict_mode=True)
    for graph in graphs(model.graph):
        assert onnx.TensorProto.DOUBLE not in {value.type.tensor_type.elem_type for value in graph.value_info}
        assert onnx.TensorProto.DOUBLE not in {tensor.data_type for tensor in graph.initializer}
        casts = [node.attribute[0].i for node in graph.node if node.op_type == "Cast"]
        assert onnx.TensorProto.DOUBLE not in casts
    assert {entry.key: entry.value for entry in model.metadata_props}["sightline.precision"] == "float32"
    with Explainer(source, method, engine="onnxruntime-cpu", batch_size=4) as explainer:
        assert_same(SingleFile(path)(tiny.image()[None]), explainer(tiny.image()))


def test_the_loop_has_weights_of_its_own(surface: Bundle, tmp_path: Path) -> None:
    model = onnx.load(export_single_file(surface, tmp_path / "x.onnx"))
    outer, body = graphs(model.graph)
    own = {tensor.name for tensor in body.initializer}
    for node in body.node:
        if node.op_type in ("Conv", "Gemm"):
            assert set(node.input[1:]) <= own
    assert sum(node.op_type == "Conv" for node in body.node) == 13
    assert not own & {tensor.name for tensor in outer.initializer}


def test_its_size(surface: Bundle, tmp_path: Path) -> None:
    classifier = surface.classifier.stat().st_size + (surface.path / bundles.WEIGHTS).stat().st_size
    whole = export_single_file(surface, tmp_path / "whole.onnx")
    assert whole.stat().st_size <= 2.05 * classifier
    apart = export_single_file(surface, tmp_path / "apart.onnx", external_data=True)
    beside = tmp_path / "apart.onnx.data"
    assert apart.stat().st_size + beside.stat().st_size <= 1.05 * classifier


def test_weights_beside_it_are_stored_once(source: Bundle, tmp_path: Path) -> None:
    path = export_single_file(source, tmp_path / "x.onnx", external_data=True)
    model = onnx.load(path, load_external_data=False)
    places = [
        [
            tuple((entry.key, entry.value) for entry in tensor.external_data if entry.key != "checksum")
            for tensor in graph.initializer
            if tensor.data_location == onnx.TensorProto.EXTERNAL
        ]
        for graph in graphs(model.graph)
    ]
    outer, body = places
    assert body
    assert set(body) <= set(outer)
    with Explainer(source, engine="onnxruntime-cpu", batch_size=4) as explainer:
        want = explainer(tiny.image())
    for engine in ("onnxruntime", "openvino"):
        assert_same(SingleFile(path, engine)(tiny.image()[None]), want)


def test_it_tells_what_it_is(source: Bundle, tmp_path: Path) -> None:
    path = export_single_file(source, tmp_path / "x.onnx", mu=0.25, max_passes=40, batch_size=8, uint8=True)
    model = onnx.load(path)
    facts = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(facts.pop("sightline.input")) == json.loads(json.dumps(asdict(source.input)))
    assert json.loads(facts.pop("sightline.labels")) == list(tiny.LABELS)
    assert json.loads(facts.pop("sightline.method")) == {
        "name": "sise",
        "parameters": {"mu": 0.25, "predict": False, "max_passes": 40},
        "batch_size": 8,
    }
    assert facts == {
        "sightline.single_file": "1",
        "sightline.version": sightline.__version__,
        "sightline.bundle": source.hash,
        "sightline.pixels": "uint8",
        "sightline.precision": "float64",
        "sightline.activation": "softmax",
    }
    assert model.producer_name == "sightline"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"method": "rise"}, "sise, ada-sise, grad-cam, layer-cam"),
        ({"mu": 1.0}, "0 <= mu < 1"),
        ({"mu": -0.1}, "0 <= mu < 1"),
        ({"mu": 0.5, "method": "ada-sise"}, "belongs to sise"),
        ({"max_passes": 0}, "max_passes=0"),
        ({"max_passes": 9, "method": "grad-cam"}, "no masked passes"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"inputs": ("mu", "label")}, "label"),
        ({"inputs": ("mu",), "method": "ada-sise"}, "choose among target, max_passes"),
    ],
)
def test_what_cannot_be_asked_for(source: Bundle, options: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(MethodError, match=said):
        export_single_file(source, tmp_path / "x.onnx", **options)
    assert not (tmp_path / "x.onnx").exists()


def test_channels_that_are_no_colours_are_no_pixels(source: Bundle, tmp_path: Path) -> None:
    strange = replace(source, manifest=replace(source.manifest, input=replace(source.input, colour="NONE")))
    with pytest.raises(ExportError, match="uint8"):
        export_single_file(strange, tmp_path / "x.onnx", uint8=True)
    export_single_file(strange, tmp_path / "x.onnx")


def test_a_file_is_replaced_only_if_asked_to(source: Bundle, tmp_path: Path) -> None:
    for taken in ("x.onnx", "y.onnx.data"):
        (tmp_path / taken).write_text("mine")
        with pytest.raises(ExportError, match="--force"):
            export_single_file(source, tmp_path / taken.removesuffix(".data"), external_data=taken.endswith("data"))
        assert (tmp_path / taken).read_text() == "mine"
    export_single_file(source, tmp_path / "x.onnx", overwrite=True)
    onnx.checker.check_model(tmp_path / "x.onnx")


def test_it_is_written_whole_or_not_at_all(source: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    before = sorted(tmp_path.iterdir())
    with monkeypatch.context() as patched:
        patched.setattr(ir, "save", full)
        with pytest.raises(ExportError, match="No space left"):
            export_single_file(source, tmp_path / "x.onnx", external_data=True)
    assert sorted(tmp_path.iterdir()) == before


def test_weights_too_large_for_one_file(source: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(single_file, "LARGEST", 1000)
    with pytest.raises(ExportError, match="--external-data"):
        export_single_file(source, tmp_path / "x.onnx")
    export_single_file(source, tmp_path / "x.onnx", external_data=True)


def test_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no bundle"):
        export_single_file(tmp_path, tmp_path / "x.onnx")


def test_the_command_line(source: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "explainer.onnx"
    options = "--method sise --mu 0.4 --max-passes 7 --batch-size 3 --inputs target,max-passes --uint8"
    command = ["export", str(source.path), "--single-file", str(path), *options.split()]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert f"takes image: uint8 {tiny.HEIGHT}×{tiny.WIDTH}×3" in said
    assert f"gives saliency: float {tiny.HEIGHT}×{tiny.WIDTH}" in said
    file = SingleFile(path)
    assert file.inputs == ["image", "target", "max_passes"]
    pixels = np.random.default_rng(0).integers(0, 256, (tiny.HEIGHT, tiny.WIDTH, 3)).astype(np.uint8)
    with Explainer(source, SISE(0.4, predict=False), engine="onnxruntime-cpu", batch_size=4) as explainer:
        assert_same(file(pixels), explainer(pixels, max_passes=7))
    assert main(command) == 1
    assert "--force" in capsys.readouterr().err
    assert main([*command, "--force", "--external-data"]) == 0


def test_the_command_line_from_a_network(source: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network, path = str(source.classifier), tmp_path / "explainer.onnx"
    options = ["--output", "logits", "--single-file", str(path)]
    assert main(["export", network, *options, "--method", "grad-cam", "--inputs", "none"]) == 0
    assert SingleFile(path).inputs == ["image"]
    assert main(["export", network, str(tmp_path / "new.sightline"), *options, "--force"]) == 0
    facts = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert facts["sightline.bundle"] == sightline.load(tmp_path / "new.sightline").hash
    capsys.readouterr()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("model.onnx model.sightline --mu 0.3", "--mu belongs to --single-file"),
        ("model.onnx model.sightline --uint8", "--uint8 belongs to --single-file"),
        ("{bundle} other.sightline --single-file x.onnx", "is a bundle already"),
        ("{bundle} --single-file x.onnx --mean 0.5", "--mean is for making a bundle"),
        ("{bundle} --single-file x.onnx --stages", "--stages is for making a bundle"),
        ("{bundle} --single-file x.onnx --inputs label", "label cannot be an input"),
    ],
)
def test_wrong_command_lines(source: Bundle, arguments: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        main(["export", *arguments.format(bundle=source.path).split()])
    assert exit.value.code == 2
    assert said in capsys.readouterr().err
