"""sightline export and inspect."""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

import onnx
import pytest

import sightline
from sightline.cli import main
from sightline.cli.export import labels

NETWORK = """
import torch

def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, 2, 1), torch.nn.ReLU(), torch.nn.Conv2d(8, 12, 3, 2, 1), torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(12, 3),
    )

def broken():
    raise RuntimeError("no weights here")

text = "not a function"
"""


@pytest.fixture
def network(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (folder / "inspection_network.py").write_text(NETWORK)
    monkeypatch.delitem(sys.modules, "inspection_network", raising=False)
    return folder


def test_an_onnx_file(onnx_file: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "labels.txt").write_text("good\nscratch\ncrack\n")
    options = "--mean 0.5,0.4,0.3 --std 0.2,0.2,0.1 --range 255 --colour BGR --labels labels.txt --activation softmax"
    assert main(["export", str(onnx_file), "steel.sightline", *options.split()]) == 0
    said = capsys.readouterr().out
    assert "'image' 3×32×32 NCHW" in said
    assert re.search(r"total +20", said)
    assert "off the original" in said
    image = sightline.load("steel.sightline").input
    assert (image.mean, image.std, image.range, image.colour) == ((0.5, 0.4, 0.3), (0.2, 0.2, 0.1), 255.0, "BGR")
    assert sightline.load("steel.sightline").labels == ("good", "scratch", "crack")


def test_a_bundle_is_replaced_only_by_force(onnx_file: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["export", str(onnx_file), "steel.sightline"]
    assert main(command) == 0
    assert main(command) == 1
    assert "--force" in capsys.readouterr().err
    assert main([*command, "--force", "--labels", "a,b,c"]) == 0
    assert sightline.load("steel.sightline").labels == ("a", "b", "c")


def test_a_torch_module(network: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path_before = list(sys.path)
    assert main(["export", "inspection_network:network", "steel.sightline", "--input", "3x32x32"]) == 0
    assert sys.path == path_before
    assert [(block.channels, block.height) for block in sightline.load("steel.sightline").blocks] == [(8, 16), (12, 8)]


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("missing.onnx", "there is no file 'missing.onnx'"),
        ("missing", "there is no file 'missing'"),
        ("missing_module:network", "no module named 'missing_module'"),
        ("inspection_network:missing", "has no attribute 'missing'"),
        ("inspection_network:broken", "RuntimeError: no weights here"),
        ("inspection_network:text", "TypeError"),
        ("inspection_network.py", "inspection_network.py"),
    ],
)
def test_what_is_no_model(model: str, said: str, network: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", model, "steel.sightline", "--input", "3x32x32"]) == 1
    assert said in capsys.readouterr().err
    assert not (network / "steel.sightline").exists()


def test_inspecting_a_bundle(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(bundle)]) == 0
    said = capsys.readouterr().out
    assert "good, scratch, 3" in said
    assert re.search(r"12 +8×8", said)
    assert main(["inspect", str(bundle), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["hash"] == sightline.load(bundle).hash
    assert [block["channels"] for block in document["blocks"]] == [8, 12]


def test_inspecting_an_onnx_file(onnx_file: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(onnx_file)]) == 0
    assert re.search(r"12 +8×8", capsys.readouterr().out)
    assert main(["inspect", str(onnx_file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["classes"] == 3
    assert list(folder.iterdir()) == []


def test_inspecting_one_of_several_outputs(
    onnx_file: Path, folder: Path, capsys: pytest.CaptureFixture[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    model = onnx.load(onnx_file)
    (scores,) = model.graph.output
    model.graph.output.append(onnx.helper.make_tensor_value_info("row", 1, None))
    model.graph.node.append(onnx.helper.make_node("Identity", [scores.name], ["row"]))
    path = tmp_path_factory.mktemp("several") / "two.onnx"
    onnx.save(model, path)
    assert main(["inspect", str(path)]) == 1
    assert "--output" in capsys.readouterr().err
    assert main(["inspect", str(path), "--output", "row", "--activation", "none", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["classes"], document["activation"]) == (3, "none")


@pytest.mark.parametrize("option", ["--input=3x8x8", "--blocks=a", "--output=b", "--activation=none"])
def test_what_is_about_an_onnx_file_is_refused_for_a_bundle(
    bundle: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    assert main(["inspect", str(bundle), option]) == 1
    assert f"{option.split('=')[0]} is about an ONNX file" in capsys.readouterr().err


def test_inspecting_what_is_neither(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "notes.onnx").write_text("not a network")
    for path in ("missing", "notes.onnx", str(folder)):
        assert main(["inspect", path]) == 1
        assert path in capsys.readouterr().err


@pytest.mark.parametrize("command", ["inspect", "export"])
@pytest.mark.parametrize("name", ["boxes.json", "boxes.textproto", "boxes.onnx"])
def test_other_text_is_no_onnx_file(command: str, name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / name).write_text('{"images": []}')
    assert main([command, name, *(["x.sightline"] if command == "export" else [])]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"sightline: error: {name} is no ONNX file")
    assert [file.name for file in folder.iterdir()] == [name]


def test_labels_of_many_classes_and_of_other_encodings(folder: Path) -> None:
    many = [f"class number {number}" for number in range(1000)]
    assert labels(",".join(many)) == tuple(many)
    (folder / "latin.txt").write_bytes("gut\nblöd".encode("latin-1"))
    with pytest.raises(argparse.ArgumentTypeError, match=r"latin\.txt cannot be read .*UTF-8"):
        labels("latin.txt")


@pytest.mark.parametrize(
    "words",
    [["--single-file", "one.onnx", "--range", "255"], ["--stages", "--range", "1"], ["--stages", "--mean", "1"]],
)
def test_what_is_for_making_a_bundle_is_refused_for_one(
    words: list[str], bundle: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["export", str(bundle), *words])
    assert f"{words[-2]} is for making a bundle" in capsys.readouterr().err
    assert not list(folder.iterdir())


def test_a_bundle_is_no_onnx_file(bundle: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(bundle), "x.sightline"]) == 1
    assert "is a folder: give the ONNX file" in capsys.readouterr().err


def test_the_file_alone(onnx_file: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is said of the bundle that it is made from; a file that is there stops the export before it begins."""
    assert main(["export", str(onnx_file), "--single-file", "one.onnx"]) == 0
    assert "network.sightline" not in capsys.readouterr().out
    assert [file.name for file in folder.iterdir()] == ["one.onnx"]
    assert main(["export", str(onnx_file), "x.sightline", "--single-file", "one.onnx"]) == 1
    assert "one.onnx exists already" in capsys.readouterr().err
    assert [file.name for file in folder.iterdir()] == ["one.onnx"]
