"""sightline features: folders, options, the page, and what it says."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from sightline import demo
from sightline.cli import main
from sightline.cli.features import files
from sightline.pages.features import links


@pytest.fixture(scope="module")
def steel() -> Path:
    return demo.BUNDLE


@pytest.fixture
def line(folder: Path) -> Path:
    """A folder of images, one of them broken, and what is no image."""
    line = folder / "line"
    (line / "monday").mkdir(parents=True)
    for sample in demo.samples()[:3]:
        shutil.copy(sample.image, line / "monday")
    shutil.copy(demo.samples()[3].image, line / "A.JPG")
    (line / "broken.png").write_text("no picture")
    (line / "notes.txt").write_text("no picture, and not named like one")
    return line


def test_a_page_of_cards(steel: Path, line: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["features", str(steel), str(line), "--layer", "stages.3", "--top", "3"]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("4 images looked at, 1 skipped; 3 cards → cards.html")
    assert said.err.count("\n") == 1
    assert "broken.png" in said.err
    assert len(links(folder / "cards.html", folder / "tree.html")) == 3


def test_the_channels_asked_for(steel: Path, line: Path, folder: Path) -> None:
    options = ["--layer", "stem", "--channels", "5,2,5", "--per-channel", "2", "-o", "stem.html"]
    assert main(["features", str(steel), str(line), *options]) == 0
    assert list(links(folder / "stem.html", folder / "tree.html")) == ["stem:5", "stem:2"]


def test_several_blocks(steel: Path, line: Path, folder: Path) -> None:
    assert main(["features", str(steel), str(line), "--layer", "stem,stages.0", "--top", "1"]) == 0
    assert [name.split(":")[0] for name in links(folder / "cards.html", folder / "tree.html")] == ["stem", "stages.0"]


def test_files_in_a_fixed_order(line: Path) -> None:
    for name in ("report.pdf", "._A.JPG", "line.mpg"):
        (line / name).write_bytes(b"x")
    names = [path.name for path in files([line, line / "notes.txt"])]
    assert names == ["A.JPG", "broken.png", *sorted(s.image.name for s in demo.samples()[:3]), "notes.txt"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--layer", "stem,stages.0", "--channels", "1"], "one block"),
        (["--layer", "stem", "--channels", "1,two"], "whole numbers"),
        (["--layer", "stem", "--channels", "1", "--top", "3"], "not allowed"),
        (["--layer", "stem", "-o", "cards.json"], ".html"),
        ([], "--layer"),
    ],
)
def test_a_wrong_command_line(
    steel: Path, line: Path, options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["features", str(steel), str(line), *options])
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(("given", "said"), [("gone", "there is no gone"), ("empty", "no image to look at")])
def test_no_images(steel: Path, folder: Path, given: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "empty").mkdir()
    assert main(["features", str(steel), given, "--layer", "stem"]) == 1
    assert said in capsys.readouterr().err
    assert not (folder / "cards.html").exists()
