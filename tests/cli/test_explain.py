"""sightline explain: files, lines, JSON, and images that cannot be explained."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import sightline
from sightline.cli import main
from sightline.cli.explain import distinct_names
from sightline.cli.method import opened
from sightline.errors import UngatedError


def test_one_picture_per_image(
    bundle: Path, images: list[Path], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", str(bundle), *map(str, images)]) == 0
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == 2
    assert said.err == ""
    written = sorted((folder / "explanations").iterdir())
    assert [file.name for file in written] == ["part-2.sise.png", "part.sise.png"]
    assert all(min(Image.open(file).size) > 32 for file in written)


def test_every_format(bundle: Path, images: list[Path], folder: Path) -> None:
    options = ["--method", "ada-sise", "--save", "png,npz,json", "-o", "out"]
    assert main(["explain", str(bundle), str(images[1]), *options]) == 0
    assert sorted(file.name for file in (folder / "out").iterdir()) == [
        "part.ada-sise.json",
        "part.ada-sise.npz",
        "part.ada-sise.png",
    ]
    with np.load(folder / "out" / "part.ada-sise.npz") as arrays:
        assert arrays["saliency"].shape == (32, 32)
        assert arrays["image_saliency"].shape == (40, 60)
    assert json.loads((folder / "out" / "part.ada-sise.json").read_text())["method"] == "ada-sise"


def test_json_lines(bundle: Path, images: list[Path], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", str(bundle), *map(str, images), "--json", "--target", "scratch", "--mu", "0.3"]) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["target"], first["label"], first["parameters"]) == (1, "scratch", {"mu": 0.3, "predict": True})
    assert [first["file"], second["file"]] == [str(image) for image in images]
    assert Path(second["written"][0]).is_file()


@pytest.mark.parametrize(("target", "expected"), [("2", 2), ("3", 2), ("good", 0)])
def test_targets(
    target: str,
    expected: int,
    bundle: Path,
    images: list[Path],
    folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["explain", str(bundle), str(images[0]), "--target", target, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["target"] == expected


def test_several_targets_have_a_picture_each(
    bundle: Path, images: list[Path], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", str(bundle), str(images[0]), "--target", "scratch", "--target", "3", "--json"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["target"] for one in found] == [1, 2]
    assert found[0]["passes"] == found[1]["passes"]
    assert all(Path(one["written"][0]).is_file() for one in found)
    assert found[0]["written"][0].endswith(".sise.1-scratch.png")


def test_a_budget(bundle: Path, images: list[Path], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for budget in (["--max-passes", "3"], ["--deadline", "1e-9", "--batch-size", "3"]):
        assert main(["explain", str(bundle), str(images[0]), *budget]) == 0
        assert re.search(r": \w+ 0\.\d+, 3 passes, .* s, \d+% complete", capsys.readouterr().out)


def test_presets(bundle: Path, images: list[Path], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, mu in ((["--preset", "speed"], 0.5), (["--preset", "balance", "--mu", "0.1"], 0.1)):
        assert main(["explain", str(bundle), str(images[0]), "--json", *arguments]) == 0
        assert json.loads(capsys.readouterr().out)["parameters"] == {"mu": mu, "predict": True}


@pytest.mark.parametrize("target", ["rust", "7"])
def test_a_class_that_does_not_exist(
    target: str, bundle: Path, images: list[Path], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", str(bundle), *map(str, images), "--target", target]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1, "once, not once per image"
    assert target in said
    assert not (folder / "explanations").exists()


def test_a_bad_image_does_not_stop_the_others(
    bundle: Path, images: list[Path], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "text.png").write_text("no picture")
    paths = ["missing.png", "text.png", str(images[0]), str(folder)]
    assert main(["explain", str(bundle), *paths]) == 1
    said = capsys.readouterr()
    assert [line.split(": ")[2] for line in said.err.splitlines()] == ["missing.png", "text.png", str(folder)]
    assert said.out.startswith(str(images[0]))
    assert [file.name for file in (folder / "explanations").iterdir()] == ["part.sise.png"]


def test_a_lower_precision_is_compared_on_images_that_can_be_read(
    bundle: Path, images: list[Path], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "text.png").write_text("no picture")
    gates: list[Any] = []

    def ungated(*given: object, gate: Any, **options: object) -> SimpleNamespace:
        gates.append(gate)
        if gate is None:
            raise UngatedError("no gate")
        return SimpleNamespace(gate="accepted")

    monkeypatch.setattr(sightline, "Explainer", ungated)
    asked = argparse.Namespace(engine="auto", batch_size=None, precision="int8", threads=None)
    text = folder / "text.png"
    for given in ([text, *images], [text, text]):
        opened(sightline.load(bundle), sightline.SISE(), asked, given, lambda done, total: None)
    assert gates == [None, images, None, [text]]  # the last one: its error says what is wrong


def test_the_image_itself_is_never_overwritten(bundle: Path, images: list[Path], folder: Path) -> None:
    shutil.copy(images[0], folder / "part.png")
    before = (folder / "part.png").read_bytes()
    assert main(["explain", str(bundle), "part.png", "-o", "."]) == 0
    assert (folder / "part.png").read_bytes() == before
    assert (folder / "part.sise.png").is_file()


def test_a_folder_that_cannot_be_written(
    bundle: Path, images: list[Path], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "out").write_text("a file")
    for command in (["explain", str(bundle), str(images[0])], ["stream", str(bundle), str(images[0].parent)], ["demo"]):
        assert main([*command, "-o", "out"]) == 1
        assert "sightline: error: out cannot be written (File exists)" in capsys.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="names of 255 bytes")
def test_names_as_long_as_names_can_be(bundle: Path, images: list[Path], folder: Path) -> None:
    names = ["n" * 251 + ".png", "n" * 250 + "m.png", "ä" * 125 + ".png"]
    for name in names:
        shutil.copy(images[0], images[0].with_name(name))
    given = [str(images[0].with_name(name)) for name in names]
    assert main(["explain", str(bundle), *given, "--save", "png,json"]) == 0
    assert len(list((folder / "explanations").iterdir())) == 6
    assert main(["stream", str(bundle), str(images[0].parent), "-o", "frames"]) == 0
    assert len(list((folder / "frames").iterdir())) == 4


def test_an_engine_that_does_not_exist(
    bundle: Path, images: list[Path], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", str(bundle), str(images[0]), "--engine", "steam"]) == 1
    assert "steam" in capsys.readouterr().err


def test_distinct_names() -> None:
    given = ["a/x.png", "b/x.png", "x-2.png", "X.jpg", "y.tar.png"]
    assert distinct_names([Path(name) for name in given]) == ["x", "x-2", "x-2-2", "X-3", "y.tar"]
