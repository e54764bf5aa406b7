"""sightline build: the graph that a precision needs, the gate, and what is remembered of both."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import sightline
from sightline.cli import main

pytest.importorskip("openvino", reason="the precisions below are OpenVINO's")


@pytest.fixture
def own(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the bundle that may change, and a cache that knows nothing of it."""
    monkeypatch.setenv("SIGHTLINE_CACHE", str(tmp_path / "cache"))
    return Path(shutil.copytree(bundle, tmp_path / "own.sightline"))


def test_int8_adds_the_graph_and_is_remembered(
    own: Path, images: list[Path], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--engine", "openvino", "--precision", "int8", "--batch-size", "4"]
    assert "int8" not in sightline.load(own).variants
    command = ["build", str(own), *options, "--images", *map(str, images), "--gate-threshold", "0.5"]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "int8 on openvino accepted" in said
    assert "int8" in sightline.load(own).variants
    before = (own / "manifest.json").read_bytes()
    assert main(command) == 0
    assert (own / "manifest.json").read_bytes() == before  # the graph is there already


def test_a_precision_without_images(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", str(own), "--precision", "bf16"]) == 1
    assert "--images" in capsys.readouterr().err


def test_a_precision_that_the_engine_lacks(own: Path, images: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    command = ["build", str(own), "--engine", "onnxruntime-cpu", "--precision", "fp16", "--images", str(images[0])]
    assert main(command) == 1
    assert "fp16" in capsys.readouterr().err
    assert "fp16" not in sightline.load(own).variants


def test_a_gate_that_is_not_passed_is_an_error(
    own: Path, images: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--engine", "openvino", "--precision", "int8", "--gate-threshold", "1.1"]
    assert main(["build", str(own), *options, "--images", str(images[0])]) == 1
    assert "refused" in capsys.readouterr().err


def test_float32_is_compared_with_nothing(own: Path, images: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["build", str(own), "--images", str(images[0])])
    assert "--images are for a lower --precision" in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--gate-images", "3"], ["--gate-threshold", "0.5"]])
def test_float32_has_no_gate(option: list[str], own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["build", str(own), *option])
    assert f"{option[0]} is for a lower --precision" in capsys.readouterr().err


def test_float32_measures_the_batch_size(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", str(own), "--engine", "onnxruntime-cpu"]) == 0
    said = capsys.readouterr().out
    assert "batch size" in said
    assert "for weights and the attribution pass" in said


def test_explain_passes_the_gate_on_its_own_images(
    own: Path, images: list[Path], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build = ["build", str(own), "--engine", "openvino", "--precision", "int8", "--images", *map(str, images)]
    assert main([*build, "--gate-threshold", "0.5", "--batch-size", "4"]) == 0
    capsys.readouterr()
    explain = ["explain", str(own), str(images[0]), "--engine", "openvino", "--precision", "int8", "--batch-size", "4"]
    code = main([*explain, "--json"])  # remembered, but the default threshold may be too much for this toy
    said = capsys.readouterr()
    assert ("refused" in said.err) if code else ('"precision": "int8"' in said.out)
