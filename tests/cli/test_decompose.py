"""sightline decompose: the tree as text, as JSON and as a page; and stages added by sightline export."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from sightline import Hierarchy
from sightline import bundle as contract
from sightline.cli import main


@pytest.fixture
def bare(bundle: Path, tmp_path: Path) -> Path:
    """The bundle as it was before there were stages."""
    opened = contract.load(bundle)

    def save(folder: Path) -> contract.Manifest:
        for name in (contract.CLASSIFIER, contract.ATTRIBUTION, contract.WEIGHTS):
            shutil.copyfile(bundle / name, folder / name)
        return replace(opened.manifest, stages=())

    return contract.write(tmp_path / "bare.sightline", save).path


def test_the_tree_is_printed(bundle: Path, images: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["decompose", str(bundle), str(images[0]), "--target", "scratch"]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    first, _, header, decision, *_ = said.out.splitlines()
    assert first.startswith("scratch, ")
    assert "passes" in first
    assert header.split()[0] == "level"
    assert decision.split()[:4] == ["decision", "3", "1×1", "1"]
    assert "└─" in said.out
    assert "block2:" in said.out
    assert "block1:" in said.out


def test_json_and_page_are_written(
    bundle: Path, images: list[Path], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--top-k", "2", "--depth", "1", "--min-share", "0.1", "--json", "tree.json", "-o", "tree.html"]
    assert main(["decompose", str(bundle), str(images[0]), "--target", "1", *options]) == 0
    assert sorted(file.name for file in folder.iterdir()) == ["tree.html", "tree.json"]
    read = Hierarchy.from_json((folder / "tree.json").read_text())
    assert (read.label, len(read.levels)) == ("scratch", 2)
    assert {name: read.settings[name] for name in ("top_k", "depth", "min_share")} == {
        "top_k": 2,
        "depth": 1,
        "min_share": 0.1,
    }
    page = (folder / "tree.html").read_text()
    assert page.lstrip().lower().startswith("<!doctype html>")
    assert read.nodes[1].id in page
    assert "wrote tree.json" in capsys.readouterr().out


def test_a_unit(bundle: Path, images: list[Path], folder: Path) -> None:
    assert main(["decompose", str(bundle), str(images[0]), "--unit", "block2:3:4,5", "--json", "unit.json"]) == 0
    document = json.loads((folder / "unit.json").read_text())
    assert (document["label"], document["score"]) == ("block2:3:4,5", None)
    assert document["nodes"][0]["position"] == [4, 5]


def test_the_tree_is_cut_where_it_is_long(bundle: Path, images: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["decompose", str(bundle), str(images[0]), "--lines", "2"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "…"


@pytest.mark.parametrize(
    "options",
    [
        ["--unit", "block2:3:4,5", "--target", "1"],
        ["--min-share", "1"],
        ["--top-k", "0"],
        ["-o", "tree.png"],
        ["--json", "tree.html"],
    ],
)
def test_a_wrong_command_line(bundle: Path, images: list[Path], folder: Path, options: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["decompose", str(bundle), str(images[0]), *options])
    assert stopped.value.code == 2
    assert not list(folder.iterdir())


@pytest.mark.parametrize("options", [["--unit", "block9:3:4,5"], ["--target", "bent"], ["--engine", "abacus"]])
def test_errors_are_one_line(
    bundle: Path, images: list[Path], capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    assert main(["decompose", str(bundle), str(images[0]), *options]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("sightline: error: ")


def test_stages_are_added_to_a_bundle_without(
    bare: Path, images: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["decompose", str(bare), str(images[0])]) == 1
    assert f"sightline export {bare} --stages" in capsys.readouterr().err
    assert main(["export", str(bare), "--stages"]) == 0
    assert str(bare) in capsys.readouterr().out
    assert main(["decompose", str(bare), str(images[0])]) == 0


def test_export_needs_a_bundle_to_write_unless_it_adds_stages(bare: Path, onnx_file: Path) -> None:
    for command in (["export", str(onnx_file)], ["export", str(bare), "other.sightline", "--stages"]):
        with pytest.raises(SystemExit) as stopped:
            main(command)
        assert stopped.value.code == 2
