"""The page of an explained set in a browser: it agrees with the rows, finds what is out of line, and is safe."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sightline.dataset import recipe, rows
from sightline.dataset.reading import ExplainedSet
from sightline.dataset.rows import Failure
from sightline.dataset.summary import SHOWN, Summary, summarise
from sightline.pages.explained_set import page
from tests.pages.browser import Browser
from tests.pages.test_document import HOSTILE

SIDE = 16
CLASSES = {"good": 7, "crack": 5, "pit": 2}
STRANGE = "crack-3.png"


def blob(row: int, column: int, seed: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    y, x = np.mgrid[:SIDE, :SIDE]
    spot = np.exp(-((y - row) ** 2 + (x - column) ** 2) / 8)
    return np.asarray(spot * np.random.default_rng(seed).uniform(0.8, 1, (SIDE, SIDE)), np.float32)


def row(path: str, label: str, score: float, saliency: Any, *, maps: bool = True) -> rows.Row:
    found: rows.Row = dict.fromkeys(rows.schema().names)
    found |= {"path": path, "sha256": "0", "width": 48, "height": 32, "target": list(CLASSES).index(label)}
    found |= {"label": label, "score": score, "method": "sise", "parameters": "{}", "passes": 10, "completeness": 1.0}
    found |= {"engine": "onnxruntime-cpu", "precision": "fp32", "bundle": "b", "regions": []}
    if maps:
        found |= {"map": rows.packed(saliency, "uint8"), "map_shape": [SIDE, SIDE], "map_dtype": "uint8"}
    return found


def write(out: Path, shards: list[list[rows.Row]], failures: list[Failure]) -> ExplainedSet:
    out.mkdir(exist_ok=True)
    settings = {"method": "sise", "max_passes": 10, "engine": "onnxruntime-cpu", "precision": "fp32", "bundle": "0123"}
    (out / recipe.RUN).write_text(json.dumps({"schema": 1, "settings": settings, "versions": {}}))
    for number, some in enumerate(shards):
        keys = [(one["path"], one["sha256"]) for one in some]
        content = rows.parquet(keys, some, failures if number == 0 else [])
        (out / f"part-{number:05d}.parquet").write_bytes(content)
    return ExplainedSet(out)


def all_rows() -> list[rows.Row]:
    """Maps of a class lie at one place, but for one."""
    found = []
    for number, (label, count) in enumerate(CLASSES.items()):
        for image in range(count):
            path = f"{label}-{image}.png"
            place = (13, 2) if path == STRANGE else (3 + 4 * number, 8)
            found.append(row(path, label, 0.99 - 0.05 * image, blob(*place, seed=image)))
    return found


@pytest.fixture
def explained(tmp_path: Path) -> ExplainedSet:
    some = all_rows()
    return write(tmp_path / "out", [some[:6], some[6:]], [Failure("bad.png", "1", "it is damaged")])


@pytest.fixture
def summary(explained: ExplainedSet) -> Summary:
    return summarise(explained)


def test_the_summary_is_what_the_rows_say(summary: Summary) -> None:
    kept = {one["path"]: np.frombuffer(one["map"], np.uint8).reshape(SIDE, SIDE) / 255 for one in all_rows()}
    assert summary.rows == 14
    assert [(one.label, one.count) for one in summary.classes] == list(CLASSES.items())
    for one in summary.classes:
        maps = [map for path, map in kept.items() if path.startswith(one.label)]
        assert one.mean_map is not None
        np.testing.assert_allclose(one.mean_map, np.mean(maps, axis=0), atol=1e-6)
        scores = [0.99 - 0.05 * image for image in range(one.count)]
        assert one.score == pytest.approx(np.mean(scores))
        assert one.lowest == pytest.approx(min(scores))
        assert list(one.histogram) == np.histogram(scores, np.linspace(0, 1, 21))[0].tolist()
    assert [failure.path for failure in summary.failures] == ["bad.png"]
    # Likeness by hand: the correlation with the mean of the others; pits are too few to tell.
    expected = {}
    for path, map in kept.items():
        label = path.partition("-")[0]
        others = [other for name, other in kept.items() if name.startswith(label) and name != path]
        if len(others) >= 2:
            expected[path] = np.corrcoef(map.ravel(), np.mean(others, axis=0).ravel())[0, 1]
    found = {one.row.path: one.likeness for one in summary.outliers}
    assert found == pytest.approx({path: expected[path] for path in found}, abs=1e-6)
    assert list(found) == sorted(expected, key=lambda path: expected[path])[:SHOWN]
    assert next(iter(found)) == STRANGE
    assert [one.row.path for one in summary.lowest][:3] == ["good-6.png", "good-5.png", "good-4.png"]
    assert len(summary.lowest) == SHOWN


def test_shards_make_no_difference(explained: ExplainedSet, summary: Summary, tmp_path: Path) -> None:
    other = summarise(write(tmp_path / "other", [[one] for one in all_rows()], []))
    assert [one.row.path for one in other.outliers] == [one.row.path for one in summary.outliers]
    assert [one.histogram for one in other.classes] == [one.histogram for one in summary.classes]


def test_sets_with_little_in_them(tmp_path: Path) -> None:
    nothing = summarise(write(tmp_path / "a", [[]], [Failure("a", "1", "no")]))
    assert (nothing.rows, nothing.classes, nothing.outliers) == (0, [], [])
    assert "could not be explained" in page(nothing, "nothing", lambda path: None)
    bare = summarise(write(tmp_path / "b", [[row("a", "good", 0.5, None, maps=False)]], []))
    assert bare.classes[0].mean_map is None
    assert bare.outliers == []
    text = page(bare, "bare", lambda path: None)
    assert "Mean maps" not in text
    assert "Out of line" not in text
    flat = np.zeros((SIDE, SIDE), np.float32)
    dark = summarise(write(tmp_path / "c", [[row(f"{i}", "good", -3.0 + i, flat) for i in range(4)]], []))
    assert dark.flat == 4
    assert [one.likeness for one in dark.outliers] == [0.0] * 4
    assert dark.edges[0] == -3  # no probabilities: bins as far as the scores go
    assert dark.edges[-1] == 0
    assert "4 maps are all zero" in page(dark, "dark", lambda path: None)


def picture(path: str) -> Image.Image | None:
    return None if path.startswith("pit") else Image.new("RGB", (48, 32), (90, 140, 90))


@pytest.fixture
def show(browser: Browser, tmp_path: Path) -> Callable[..., Browser]:
    def opening(text: str, width: int = 1280, *, dark: bool = False) -> Browser:
        (tmp_path / "page.html").write_text(text)
        browser.open(tmp_path / "page.html", width=width, dark=dark)
        return browser

    return opening


def test_what_it_shows(summary: Summary, show: Callable[..., Browser]) -> None:
    browser = show(page(summary, "month", picture))
    assert browser.complaints() == []
    assert browser.requests() == []
    assert browser.text("h1") == "Explanations of month"
    assert browser.text(".page-note") == (
        "14 explanations · 1 image failed · sise, at most 10 passes · engine onnxruntime-cpu, fp32 · bundle 0123"
    )
    cells = "[...row.cells].map((cell) => cell.innerText)"
    table = browser.run(f"return [...document.querySelectorAll('tbody tr')].map((row) => {cells})")
    assert [texts[:5] for texts in table] == [
        ["good", "7", "50.0%", "0.840", "0.690"],
        ["crack", "5", "35.7%", "0.890", "0.790"],
        ["pit", "2", "14.3%", "0.965", "0.940"],
    ]
    counts = browser.run(
        "return [...document.querySelectorAll('rect')].map((r) => [r.dataset.class, Number(r.dataset.count), "
        "Number(r.getAttribute('height'))])"
    )
    for number, one in enumerate(summary.classes):
        assert sum(count for name, count, _ in counts if name == str(number)) == one.count
    scales = [height / count for _, count, height in counts]
    assert scales == pytest.approx([scales[0]] * len(scales), rel=1e-2)
    titles = browser.run("return [...document.querySelectorAll('.mosaic figcaption')].map((f) => f.innerText)")
    assert len(titles) == 3 + 2 * SHOWN
    assert titles[0].startswith("good")
    assert titles[3].startswith(STRANGE)
    sizes = browser.run("return [...document.images].map((i) => i.naturalWidth / i.naturalHeight)")
    assert sizes[:3] == [1, 1, 1]
    assert sizes[3:] == pytest.approx([1.5] * 2 * SHOWN, abs=0.01)
    assert browser.text(".failures b") == "bad.png"


def test_a_mean_map_is_where_its_maps_are(summary: Summary, show: Callable[..., Browser]) -> None:
    browser = show(page(summary, "month", picture))
    script = """
const image = document.querySelectorAll('.mosaic img')[arguments[0]];
const canvas = new OffscreenCanvas(16, 16);
canvas.getContext('2d').drawImage(image, 0, 0, 16, 16);
const data = canvas.getContext('2d').getImageData(0, 0, 16, 16).data;
let best = 0;
for (let at = 0; at < 256; at++) if (data[4 * at] + data[4 * at + 1] > data[4 * best] + data[4 * best + 1]) best = at;
return [Math.floor(best / 16), best % 16];
"""
    for number, one in enumerate(summary.classes):
        assert one.mean_map is not None
        expected = np.unravel_index(one.mean_map.argmax(), one.mean_map.shape)
        assert browser.run(script, number) == pytest.approx(list(expected), abs=1)


def test_the_headings_sort(summary: Summary, show: Callable[..., Browser]) -> None:
    browser = show(page(summary, "month", picture))
    browser.all("thead button")[3].click()
    assert browser.text("tbody th") == "pit"
    browser.all("thead button")[1].click()
    assert browser.text("tbody th") == "good"


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("dark", [False, True])
def test_nothing_sticks_out(width: int, dark: bool, summary: Summary, show: Callable[..., Browser]) -> None:
    browser = show(page(summary, "a-name-without-any-place-to-break-" * 4, picture), width, dark=dark)
    assert browser.run("return document.documentElement.scrollWidth") <= width
    paper = browser.run("return getComputedStyle(document.body).backgroundColor")
    assert paper == ("rgb(16, 21, 26)" if dark else "rgb(255, 255, 255)")
    text = browser.run("return getComputedStyle(document.querySelector('.scores text')).fill")
    assert text == ("rgb(157, 169, 179)" if dark else "rgb(89, 101, 111)")


def test_names_are_text(tmp_path: Path, show: Callable[..., Browser]) -> None:
    label = {**row(HOSTILE, "good", 0.5, blob(3, 3, 0)), "label": HOSTILE}
    broken = Failure(HOSTILE + "\udcff", "1", HOSTILE)
    found = summarise(write(tmp_path / "out", [[label, label, label]], [broken]))
    browser = show(page(found, HOSTILE, lambda path: None))
    assert browser.run("return window.hacked") is None
    assert browser.complaints() == []
    assert browser.text("tbody th") == HOSTILE.strip()
    assert browser.text(".failures b") == HOSTILE.strip() + "\\udcff"
