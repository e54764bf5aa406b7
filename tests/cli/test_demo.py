"""sightline demo: the pictures, and what is said about them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

from sightline import demo
from sightline.bundle import load
from sightline.cli import demo as command
from sightline.cli import main
from sightline.cli.method import METHODS


def test_every_method_has_a_title() -> None:
    assert command._TITLES.keys() == set(METHODS)


def test_the_packaged_data() -> None:
    samples = demo.samples()
    assert len(samples) == 6
    labels = load(demo.BUNDLE).labels
    assert labels is not None
    for sample in samples:
        assert sample.label in labels
        image, truth = Image.open(sample.image), Image.open(sample.truth).convert("L")
        assert image.size == truth.size
        assert truth.getextrema() == (0, 255)
    files = [file for file in Path(demo.__file__).parent.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 4e6


@pytest.mark.parametrize("method", ["sise", "ada-sise"])
def test_the_demo(method: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--method", method]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    for sample in demo.samples():
        picture = Image.open(folder / "sightline-demo" / f"{sample.name}.png")
        assert picture.width > 2 * picture.height
        # The network is right about its own demo, and the map lies in the defect far more than chance would have it.
        row = re.search(rf"^{sample.name} +{sample.label} +[01]\.\d+ +(\d+)%", said.out, re.MULTILINE)
        assert row
        assert int(row[1]) >= 10
    sheet = Image.open(folder / "sightline-demo" / "contact-sheet.png")
    assert min(sheet.size) > 1000
    assert "sightline export" in said.out
