"""The page of an evaluation in a browser: what it shows agrees with the summary, sorting, outlines, safety."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import sightline
from sightline.metrics import METRICS, Estimate
from sightline.metrics.evaluation import Contender
from sightline.metrics.summary import MethodSummary, Summary
from sightline.pages.evaluation import Map, Shown, page
from sightline.runtime.saving import save
from tests.pages.browser import Browser
from tests.pages.test_document import HOSTILE

SETTING = {
    "bundle": "steel.sightline",
    "bundle_hash": "0123456789abcdef",
    "annotations": "boxes.json",
    "target": "true",
    "steps": 50,
    "engine": "auto",
    "precision": "fp32",
    "seed": 0,
}
SIZE = (120, 80)
BEST = "return document.querySelector('tbody').rows[arguments[0]].cells[arguments[1]].matches('.best')"


def method(label: str, mean: float, difference: tuple[float, float] | None = None) -> MethodSummary:
    estimates = {name: Estimate(mean, mean - 0.1, mean + 0.05, 4) for name in METRICS}
    differences = (
        {} if difference is None else {name: Estimate(sum(difference) / 2, *difference, 4) for name in METRICS}
    )
    curve = np.linspace(1, mean, 51)
    return MethodSummary(
        Contender(label, sightline.SISE()),
        {},
        estimates,
        differences,
        {"deletion": curve, "insertion": curve[::-1]},
        passes=100 * mean,
        seconds=mean,
    )


def summary(*methods: MethodSummary, failures: dict[str, str] | None = None) -> Summary:
    images = tuple(f"part-{number}.png" for number in range(4))
    return Summary(tuple(METRICS), images, methods, {}, failures or {}, 4)


THREE = summary(method("sise", 0.5), method("rise:passes=9", 0.2, (-0.4, -0.2)), method("ada-sise", 0.7, (0.1, 0.3)))


def shown(count: int, *labels: str) -> list[Shown]:
    region = np.zeros((20, 30), np.bool_)
    region[5:10, 6:12] = region[8:15, 9:20] = True
    random = np.random.default_rng(0)
    return [
        Shown(
            f"part-{number}.png",
            Image.fromarray(random.integers(0, 256, (SIZE[1], SIZE[0], 3), dtype=np.uint8)),
            "crack",
            region if number else None,
            [
                Map(label, random.integers(0, 256, (20, 30), dtype=np.uint8), "crack", 0.9, {"ebpg": 0.25})
                for label in labels
            ],
        )
        for number in range(count)
    ]


@pytest.fixture
def show(browser: Browser, tmp_path: Path) -> Callable[..., Browser]:
    def opening(text: str, width: int = 1280) -> Browser:
        save(tmp_path / "page.html", text)
        browser.open(tmp_path / "page.html", width=width)
        return browser

    return opening


def column(browser: Browser, number: int) -> list[str]:
    script = "return [...document.querySelectorAll('tbody tr')].map((row) => row.cells[arguments[0]].innerText)"
    return list(browser.run(script, number))


def test_what_it_shows(show: Callable[..., Browser]) -> None:
    browser = show(page(THREE, SETTING, shown(2, "sise", "rise:passes=9", "ada-sise")))
    assert browser.complaints() == []
    assert browser.requests() == []
    assert column(browser, 0) == ["sise", "rise:passes=9", "ada-sise"]
    assert [text.split() for text in column(browser, 1)] == [
        ["50.0", "40.0", "–", "55.0"],
        ["▼20.0", "10.0", "–", "25.0"],
        ["▲70.0", "60.0", "–", "75.0"],
    ]
    # Of Drop less is better: the same difference is a gain.
    assert [text.split()[0] for text in column(browser, 4)] == ["50.0", "▲20.0", "▼70.0"]
    assert [text.split()[-3] for text in column(browser, 6)] == ["0.400", "0.100", "0.600"]
    best = [(row, column) for row in range(3) for column in range(1, 8) if browser.run(BEST, row, column)]
    assert best == [(1, 4), (1, 6), (2, 1), (2, 2), (2, 3), (2, 5), (2, 7)]
    assert len(browser.all("article")) == 2
    assert len(browser.all("article:first-of-type .outline")) == 0
    assert len(browser.all("article:last-of-type .outline")) == 4
    pictures = browser.run("return [...document.images].map((image) => [image.naturalWidth, image.naturalHeight])")
    assert pictures == [list(SIZE)] * 8


@pytest.mark.parametrize("name", ["deletion", "insertion"])
def test_the_curves_are_where_their_numbers_are(name: str, show: Callable[..., Browser]) -> None:
    browser = show(page(THREE, SETTING, []))
    figure = f".curve:nth-of-type({1 if name == 'deletion' else 2})"
    grid = browser.run(
        "return [...document.querySelectorAll(arguments[0] + ' .grid')].map((line) => Number(line.getAttribute('y1')))",
        figure,
    )
    bottom, top = max(grid), min(grid)
    lines = browser.run(
        "return [...document.querySelectorAll(arguments[0] + ' polyline')].map((line) => line.getAttribute('points'))",
        figure,
    )
    for text, expected in zip(lines, THREE.methods, strict=True):
        points = np.array([point.split(",") for point in text.split()], np.float64)
        heights = (bottom - points[:, 1]) / (bottom - top)
        np.testing.assert_allclose(heights, expected.curves[name], atol=1e-3)
        np.testing.assert_allclose(np.diff(points[:, 0]), np.diff(points[:, 0]).mean(), atol=0.11)


def test_the_headings_sort(show: Callable[..., Browser]) -> None:
    browser = show(page(THREE, SETTING, []))
    for number, orders in (
        (1, ["ada-sise sise rise:passes=9", "rise:passes=9 sise ada-sise"]),  # more is better: the largest first
        (4, ["rise:passes=9 sise ada-sise", "ada-sise sise rise:passes=9"]),  # less is better
        (0, ["sise rise:passes=9 ada-sise", "ada-sise rise:passes=9 sise"]),
    ):
        for order in orders:
            browser.all("thead button")[number].click()
            assert " ".join(column(browser, 0)) == order
    assert len(browser.all("th[aria-sort]")) == 1


def test_the_outline_goes_around_the_region(show: Callable[..., Browser]) -> None:
    given = shown(2, "sise")
    region = given[1].region
    assert region is not None
    text = page(THREE, SETTING, given)
    path = re.search(r'<path class="halo" d="([^"]*)"', text)
    assert path
    edges = set()
    for x, y, way, end in re.findall(r"M(\d+) (\d+)([HV])(\d+)", path[1]):
        for step in range(int(x if way == "H" else y), int(end)):
            edges.add(("H", step, int(y)) if way == "H" else ("V", int(x), step))
    padded = np.pad(region, 1)
    expected = set()
    for row in range(21):
        for col in range(31):
            if padded[row, col + 1] != padded[row + 1, col + 1] and col < 30:
                expected.add(("H", col, row))
            if padded[row + 1, col] != padded[row + 1, col + 1] and row < 20:
                expected.add(("V", col, row))
    assert edges == expected
    browser = show(text)
    picture, outline = (
        browser.run(
            "const box = document.querySelector(arguments[0]).getBoundingClientRect();"
            "return [box.left, box.top, box.width, box.height]",
            f"article:last-of-type figure:first-child {part}",
        )
        for part in ("img", "svg")
    )
    assert outline == pytest.approx(picture, abs=1)
    browser.one("#outlines").click()
    assert browser.style("article:last-of-type .outline", "display") == "none"


@pytest.mark.parametrize("width", [390, 800, 1280])
def test_nothing_sticks_out(width: int, show: Callable[..., Browser]) -> None:
    many = summary(*(method(f"rise:passes=1000:seed={i}", 0.3 + i / 50, (0.1, 0.2)) for i in range(9)))
    browser = show(page(many, SETTING, shown(3, *(m.label for m in many.methods))), width=width)
    assert browser.run("return document.documentElement.scrollWidth") <= width
    tiles = browser.run(
        "return [...document.querySelectorAll('.tiles figure')].map((tile) => tile.getBoundingClientRect().width)"
    )
    assert min(tiles) >= 100


def test_names_are_text(show: Callable[..., Browser]) -> None:
    first = method(HOSTILE, 0.5)
    given = shown(1, HOSTILE)
    hostile = Shown(HOSTILE, given[0].picture, HOSTILE, given[0].region, given[0].maps)
    found = summary(first, method("rise", 0.2, (-0.4, -0.2)), failures={HOSTILE: HOSTILE})
    browser = show(page(found, {**SETTING, "bundle": HOSTILE, "engine": HOSTILE}, [hostile]))
    assert browser.run("return window.hacked") is None
    assert browser.complaints() == []
    assert HOSTILE.split()[0] in browser.text("tbody th")
    assert browser.text(".failures b") == HOSTILE.strip()


def test_a_metric_that_nobody_has() -> None:
    bare = method("sise", 0.5)
    other = MethodSummary(bare.contender, {}, {"drop": Estimate(0, 0, 0, 4)}, {}, {}, 3, 0.1)
    text = page(Summary(("drop",), ("a",), (other,), {}, {}, 0), {**SETTING, "annotations": None}, [])
    assert "<h2>Curves" not in text
    assert "<h2>Maps" not in text
    assert "EBPG" not in text
    assert "the predicted class explained" in text
