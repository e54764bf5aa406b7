"""The same file in JavaScript: in Node, and on the page in headless Chromium without a server and a network."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageFilter

import sightline
from sightline import demo
from sightline.runtime import rendering
from tests.embed.conftest import Case, assert_same_map, sample
from tests.embed.tools import EMBED, run, skip, tool

WEB = EMBED / "web"


@pytest.fixture(scope="module")
def node() -> str:
    found = tool("node")
    if not (WEB / "node_modules").is_dir():
        skip("the page's packages are not installed: run 'npm ci' in embed/web")
    return found


@pytest.fixture(scope="module")
def site(node: str, files: Mapping[str, Path], place: Path) -> Path:
    """The built page, with the demo's explainer and pictures in it."""
    images = demo.samples()[0].image.parent
    words: list[str | Path] = ["--explainer", files["sise uint8"], "--samples", images, "--output", place / "site"]
    run(node, WEB / "build.mjs", *words)
    return place / "site"


def test_the_types_hold(node: str) -> None:
    run(node, WEB / "node_modules" / "typescript" / "bin" / "tsc", "-p", WEB)


def test_the_lock_file_names_no_registry() -> None:
    lock = json.loads((WEB / "package-lock.json").read_text(encoding="utf-8"))
    packages = {name: facts for name, facts in lock["packages"].items() if name}
    assert packages
    assert all("integrity" in facts and "resolved" not in facts for facts in packages.values())


def in_node(node: str, site: Path, file: Path, picture: Path, folder: Path) -> tuple[dict[str, Any], Any]:
    """What Node says, and its map."""
    image = Image.open(picture)
    (folder / "pixels.rgb").write_bytes(image.tobytes())
    sizes: list[str | Path] = [
        str(image.width),
        str(image.height),
        folder / "map.f32",
        folder / "sized.rgb",
        "150",
        "333",
    ]
    said = json.loads(run(node, WEB / "test" / "node.mjs", site, file, folder / "pixels.rgb", *sizes))
    return said, np.fromfile(folder / "map.f32", np.float32)


def test_node_makes_the_same_map_as_python(
    node: str,
    site: Path,
    files: Mapping[str, Path],
    picture: Path,
    wanted: sightline.Explanation,
    tmp_path: Path,
) -> None:
    said, found = in_node(node, site, files["sise uint8"], picture, tmp_path)
    assert_same_map(found, wanted.saliency)
    assert (said["label"], said["target"], said["passes"]) == (wanted.label, wanted.target, wanted.passes)
    assert said["score"] == pytest.approx(wanted.score, abs=1e-4)
    assert_regions(said["regions"], wanted)
    assert said["again"]
    assert said["after"], "what was refused changed the answer"
    assert said["other"]["target"] == said["other"]["wanted"]
    assert not said["other"]["same"]


def assert_regions(found: list[dict[str, Any]], wanted: sightline.Explanation) -> None:
    assert [tuple(region["box"]) for region in found] == [region.box for region in wanted.regions()]
    for one, region in zip(found, wanted.regions(), strict=True):
        assert [one["area"], one["mean"], one["peak"], one["mass"]] == pytest.approx(
            [region.area, region.mean, region.peak, region.mass], rel=1e-3
        )


def test_node_with_preprocessed_values(
    node: str, site: Path, files: Mapping[str, Path], picture: Path, quick: sightline.Explainer, tmp_path: Path
) -> None:
    said, found = in_node(node, site, files["grad-cam float32"], picture, tmp_path)
    assert_same_map(found, quick(picture).saliency)
    # byte for byte Pillow's, so that what is explained is what Python explains
    sized = Image.open(picture).resize((150, 333), Image.Resampling.BILINEAR)
    assert (tmp_path / "sized.rgb").read_bytes() == sized.tobytes()
    by_hand = said["byHand"]
    (split,) = by_hand["split"]  # both splits of three equal groups are as good: the first counts
    assert (split["box"], split["area"]) == ([10, 0, 30, 20], 400)
    assert [split["mean"], split["mass"]] == pytest.approx([0.625, 2.5 / 3], abs=1e-6)
    assert (by_hand["corner"], by_hand["apart"], by_hand["flat"]) == (1, 2, 0)
    refused = said["refused"]
    assert all(reason.startswith("SightlineError: ") for reason in refused.values()), refused
    for case, words in {
        "size": ["100×50", "224×224", "fitted"],
        "type": ["Uint8Array"],
        "bytes": [str(224 * 224 * 3 - 5)],
        "values": ["5 values", str(3 * 224 * 224)],
        "target": ["1000", "0 to 4"],
        "next": ["no class 5"],
        "negative": ["-7"],
        "mu": ["1.5"],
        "input": ["maxPasses"],
        "file": ["no ONNX file"],
        "truncated": ["no ONNX file"],
        "closed": ["closed"],
    }.items():
        assert all(word in refused[case] for word in words), refused[case]


@pytest.mark.parametrize("pixels", ["float32", "uint8"])
def test_other_kinds_of_images(pixels: str, node: str, site: Path, case: Case, tmp_path: Path) -> None:
    said, found = in_node(node, site, case.files[pixels], case.picture, tmp_path)
    with sightline.Explainer(case.bundle, sightline.GradCAM(), "onnxruntime-cpu", 1, threads=1) as explainer:
        wanted = explainer(case.picture)
    assert_same_map(found, wanted.saliency)
    assert (said["label"], said["target"]) == (wanted.label, wanted.target)


@pytest.fixture(scope="module")
def visit(node: str, site: Path, picture: Path, place: Path) -> tuple[dict[str, Any], Path]:
    """What happened on the page, and the folder of its pictures."""
    chromium = tool("chromium")
    folder = place / "visit"
    folder.mkdir()
    return json.loads(run(node, WEB / "test" / "browser.mjs", chromium, site, picture, folder)), folder


def test_chromium_makes_the_same_map_as_python(
    visit: tuple[dict[str, Any], Path], wanted: sightline.Explanation
) -> None:
    said, folder = visit
    assert_same_map(np.fromfile(folder / "map.f32", np.float32), wanted.saliency)
    assert (said["shown"], said["passes"]) == (wanted.label, wanted.passes)
    assert_regions(said["regions"], wanted)


def test_the_page_needs_no_network(visit: tuple[dict[str, Any], Path]) -> None:
    said, _ = visit
    assert said["elsewhere"] == []  # nothing was ever asked of another place
    assert said["later"] == []  # and nothing at all once the page was there
    assert said["said"] == []  # no warning, no error in the console
    policy = re.findall(r'content="(default-src[^"]*)"', (WEB / "index.html").read_text(encoding="utf-8"))[0]
    sources = {word for part in policy.split(";") for word in part.split()[1:]}
    assert sources <= {"'none'", "'self'", "blob:", "data:", "'wasm-unsafe-eval'"}


def test_the_screenshot_shows_the_right_region(visit: tuple[dict[str, Any], Path]) -> None:
    said, folder = visit
    with_map, without = (stage(folder / f"{name}-map.png", said["box"]) for name in ("with", "without"))
    change = Image.fromarray(np.abs(with_map - without).mean(axis=2).astype(np.uint8)).filter(
        ImageFilter.GaussianBlur(2)
    )
    values = np.asarray(change, np.float64)
    defect = np.asarray(Image.open(sample().truth).convert("L").resize(change.size)) > 127
    assert values[defect].mean() > 5 * values[~defect].mean()
    rows, columns = np.nonzero(defect)
    y, x = np.unravel_index(int(values.argmax()), values.shape)
    assert rows.min() <= y <= rows.max()
    assert columns.min() <= x <= columns.max()


def stage(screenshot: Path, box: Mapping[str, float]) -> npt.NDArray[np.float32]:
    """The square picture in the middle of its canvas, as it is on the screen."""
    side = min(box["width"], box["height"])
    left, top = box["x"] + (box["width"] - side) / 2, box["y"] + (box["height"] - side) / 2
    cut = Image.open(screenshot).convert("RGB").crop((round(left), round(top), round(left + side), round(top + side)))
    return np.asarray(cut, np.float32)


def test_the_overlay_that_is_saved(visit: tuple[dict[str, Any], Path], wanted: sightline.Explanation) -> None:
    _, folder = visit
    found = np.asarray(Image.open(folder / "saved.png").convert("RGB"), np.int16)
    expected = np.asarray(rendering.overlay(wanted.picture, wanted.image_saliency), np.int16)
    assert np.abs(found - expected).max() <= 3  # a canvas blends 8-bit colours and an 8-bit opacity


def test_what_a_person_does_on_the_page(
    visit: tuple[dict[str, Any], Path], wanted: sightline.Explanation, picture: Path
) -> None:
    said, folder = visit
    assert said["quiet"]  # a stopped run leaves neither an answer nor a complaint
    assert said["frames"] > 5  # the page went on drawing while the worker was at work
    assert said["other"]["target"] != wanted.target
    with sightline.Explainer(demo.BUNDLE, sightline.SISE(mu=0.5), "onnxruntime-cpu", 16, threads=1) as half:
        assert said["fewer"] == half(picture, target=said["other"]["target"]).passes
    assert said["filmed"] > 0
    assert "notes.png is no picture" in said["problem"]
    assert "no ONNX file" in said["noModel"]
    assert said["overflow"] <= 0  # nothing is cut off on a telephone
    for name, width in (("dark-1280", 1280), ("light-390", 390), ("dark-390", 390)):
        assert Image.open(folder / f"{name}.png").width == width
