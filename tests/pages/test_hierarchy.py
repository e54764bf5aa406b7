"""The page of a hierarchy in a browser: what it shows agrees with the document, and every way to use it works."""

from __future__ import annotations

import base64
import copy
import io
import json
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from sightline.errors import PageError
from sightline.pages.hierarchy import page
from sightline.runtime.rendering import colours
from sightline.runtime.saving import save
from tests.pages.browser import Browser
from tests.pages.documents import SIDE, hierarchy
from tests.pages.test_document import HOSTILE

Document = dict[str, Any]
SMALL = hierarchy()
SCALE = "return d3.zoomTransform(document.getElementById('viewport')).k"


@pytest.fixture(scope="session")
def show(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Document]:
    """Open the page of a document; the same document is written once."""
    folder = tmp_path_factory.mktemp("pages")
    written: dict[int, Path] = {}

    def opening(document: Document = SMALL, **window: Any) -> Document:
        if id(document) not in written:
            written[id(document)] = folder / f"{len(written)}.html"
            save(written[id(document)], page(document))
        browser.open(written[id(document)], **window)
        return document

    return opening


def unit(browser: Browser, name: str) -> WebElement:
    return browser.driver.find_element(By.CSS_SELECTOR, f'.unit[data-id="{name}"]')


def shown(browser: Browser) -> list[str]:
    return list(browser.run("return [...document.querySelectorAll('.unit')].map((unit) => unit.dataset.id)"))


def focused(browser: Browser) -> str:
    return str(browser.run("return document.activeElement.dataset.id"))


def children(document: Document, name: str) -> list[Document]:
    return sorted((edge for edge in document["edges"] if edge["parent"] == name), key=lambda edge: -edge["share"])


def strongest(document: Document) -> list[str]:
    """The decision, its strongest child, that one's, …"""
    path = ["d"]
    while below := children(document, path[-1]):
        path.append(below[0]["child"])
    return path


def node(document: Document, name: str) -> Document:
    return next(node for node in document["nodes"] if node["id"] == name)


def rectangle(browser: Browser, selector: str) -> dict[str, float]:
    script = "const r = document.querySelector(arguments[0]).getBoundingClientRect(); return r.toJSON()"
    return dict(browser.run(script, selector))


def test_it_opens_quietly_and_loads_nothing(browser: Browser, show: Callable[..., Document]) -> None:
    document = show()
    assert browser.complaints() == []
    assert browser.requests() == []
    assert browser.text("h1") == "crack 0.983"
    assert browser.run("return document.querySelector('#image').naturalWidth") == SIDE
    path = strongest(document)
    expected = {"d"} | {edge["child"] for name in path for edge in children(document, name)}
    assert set(shown(browser)) == expected, "the strongest path is unfolded, and nothing else"
    columns = [re.sub(r"\s+", " ", column.text) for column in browser.all(".column")]
    assert columns[0] == "decision"
    assert [column.split()[0] for column in columns[1:]] == ["stages.3", "stages.1", "stages.0", "stem"]


def test_the_layers_carry_what_reaches_them(browser: Browser, show: Callable[..., Document]) -> None:
    document = show()
    for level, column in enumerate(browser.all(".column")[1:], 1):
        mass = sum(node["path_weight"] for node in document["nodes"] if node["level"] == level)
        said = re.search(r"carries ([\d.]+) %", column.text)
        assert said is not None
        assert float(said[1]) == pytest.approx(100 * mass, abs=0.5)


def test_hostile_names_stay_text(browser: Browser, show: Callable[..., Document]) -> None:
    document = json.loads(json.dumps(SMALL).replace("stages.1", "HOSTILE"))

    def renamed(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: renamed(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [renamed(inner) for inner in value]
        return value.replace("HOSTILE", HOSTILE) if isinstance(value, str) else value

    document = renamed(document) | {"label": HOSTILE}
    show(document)
    assert browser.text("h1").startswith(HOSTILE)
    assert HOSTILE in browser.run("return document.title")
    path = strongest(document)
    for name in path[1:3]:
        browser.run(
            "[...document.querySelectorAll('.unit')].find((unit) => unit.dataset.id === arguments[0]).click()", name
        )
    assert browser.text("#inspector h2") == f"{HOSTILE} · {node(document, path[2])['channel']}"
    assert len(browser.all("img")) == 1
    assert browser.run("return window.hacked === undefined")
    assert browser.complaints() == []


def test_bands_are_as_thick_as_shares(browser: Browser, show: Callable[..., Document]) -> None:
    document = show()
    drawn = browser.run("""
        return [...document.querySelectorAll('#bands path')].map((path) => {
          const link = path.__data__;
          return [link.parent, link.child, parseFloat(getComputedStyle(path).strokeWidth)];
        })""")
    shares = {(edge["parent"], edge["child"]): edge["share"] for edge in document["edges"]}
    side = rectangle(browser, ".thumb")["width"] / float(browser.run(SCALE))
    assert len(drawn) > 10
    for parent, child, thickness in drawn:
        assert thickness == pytest.approx(max(1, shares[parent, child] * side), abs=0.01)


def test_bands_end_at_their_thumbnails(browser: Browser, show: Callable[..., Document]) -> None:
    show()
    for ends in browser.run("""
        return [...document.querySelectorAll('#bands path')].map((path) => {
          const at = (length) => path.getPointAtLength(length).matrixTransform(path.getScreenCTM());
          const [from, to] = [path.__data__.from, path.__data__.to].map((unit) =>
            document.querySelector(`.unit[data-id="${unit.id}"] .thumb`).getBoundingClientRect());
          const [first, last] = [at(0), at(path.getTotalLength())];
          return [first.x - from.right, last.x - to.left,
                  first.y - from.top, from.bottom - first.y, last.y - to.top, to.bottom - last.y];
        })"""):
        assert ends[:2] == pytest.approx([0, 0], abs=0.5)
        assert min(ends[2:]) >= -0.5


def canvas(browser: Browser, selector: str) -> npt.NDArray[np.uint8]:
    """The pixels of a canvas, RGBA."""
    url = browser.run("return document.querySelector(arguments[0]).toDataURL()", selector)
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))).convert("RGBA"))


def expected_overlay(map_: Document, size: tuple[int, int]) -> npt.NDArray[np.float64]:
    """As Explanation.overlay() covers an image: RGBA in [0, 255]."""
    values = np.frombuffer(base64.b64decode(map_["data"]), np.uint8).reshape(map_["height"], map_["width"]) / 255
    full = torch.nn.functional.interpolate(
        torch.from_numpy(values)[None, None], size, mode="bilinear", align_corners=False
    )[0, 0].numpy()
    cover = 255 * 0.8 * np.minimum(2 * full, 1)
    return np.concatenate([colours(full), cover[..., None]], axis=2)


@pytest.mark.parametrize("level", [1, 3])
def test_hovering_shows_the_heatmap_and_the_box(browser: Browser, show: Callable[..., Document], level: int) -> None:
    document = show()
    name = strongest(document)[level]
    before = browser.text("#inspector")
    browser.point(unit(browser, name).find_element(By.CLASS_NAME, "thumb"))
    found = canvas(browser, "#heat")
    wanted = expected_overlay(node(document, name)["heatmap"], found.shape[:2])
    assert np.abs(found[..., 3] - wanted[..., 3]).max() <= 2
    opaque = wanted[..., 3] > 60  # below, a canvas keeps colours coarsely: they are stored times their opacity
    assert np.abs(found[..., :3] - wanted[..., :3])[opaque].max() <= 6
    left, top, right, bottom = node(document, name)["box"]
    frame, box = rectangle(browser, "#frame"), rectangle(browser, "#box")
    scale = frame["width"] / SIDE
    assert box["left"] - frame["left"] == pytest.approx(left * scale, abs=0.6)
    assert box["top"] - frame["top"] == pytest.approx(top * scale, abs=0.6)
    assert (box["width"], box["height"]) == pytest.approx(((right - left) * scale, (bottom - top) * scale), abs=0.6)
    layer, channel = node(document, name)["layer"], node(document, name)["channel"]
    assert browser.text("#caption").startswith(f"{layer} · {channel} at ")
    assert browser.text("#inspector") == before, "pointing fixes nothing"
    browser.point(browser.one("h1"))
    assert browser.text("#caption").startswith("crack")


def test_the_decision_shows_its_children_together(browser: Browser, show: Callable[..., Document]) -> None:
    document = show()
    found = canvas(browser, "#heat")
    total = np.zeros((14, 14))
    for edge in children(document, "d"):
        map_ = node(document, edge["child"])["heatmap"]
        values = np.frombuffer(base64.b64decode(map_["data"]), np.uint8).reshape(14, 14)
        total += values / 255 * map_["max"]
    full = torch.nn.functional.interpolate(
        torch.from_numpy(total / total.max())[None, None], found.shape[:2], mode="bilinear", align_corners=False
    )[0, 0].numpy()
    assert np.abs(found[..., 3] - 255 * 0.8 * np.minimum(2 * full, 1)).max() <= 2
    assert float(browser.text("#most")) == pytest.approx(total.max(), rel=0.01)


def test_a_click_fixes_and_unfolds_and_escape_releases(browser: Browser, show: Callable[..., Document]) -> None:
    document = show()
    name = children(document, "d")[1]["child"]
    assert unit(browser, name).get_attribute("aria-expanded") == "false"
    unit(browser, name).find_element(By.CLASS_NAME, "thumb").click()
    browser.point(browser.one("h1"))
    about = node(document, name)
    assert browser.text("#caption").startswith(f"stages.3 · {about['channel']}"), "it stays when the pointer leaves"
    assert unit(browser, name).get_attribute("aria-selected") == "true"
    assert unit(browser, name).get_attribute("aria-expanded") == "true"
    assert {edge["child"] for edge in children(document, name)} <= set(shown(browser))
    facts = dict(zip(texts(browser, ".facts dt"), texts(browser, ".facts dd"), strict=True))
    assert float(facts["Activation"]) == pytest.approx(about["value"], rel=0.01)
    assert percentage(facts["Share of the decision"]) == pytest.approx(about["path_weight"], abs=0.006)
    assert percentage(facts["Kept in its children"]) == pytest.approx(about["kept"], abs=0.006)
    left, top, right, bottom = about["box"]
    assert facts["Sees"] == f"{right - left} × {bottom - top} pixels"
    assert [entry.split(" · ")[0] for entry in texts(browser, "ol .entry span:nth-child(2)")] == ["crack", "stages.3"]
    on_path = browser.run("return [...document.querySelectorAll('#bands .on-path')].map((p) => p.__data__.child)")
    assert on_path == [name]
    browser.press(Keys.ESCAPE)
    assert browser.text("#inspector h2") == "crack"
    assert not browser.all(".is-fixed")


def texts(browser: Browser, selector: str) -> list[str]:
    return list(browser.run("return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent)", selector))


def slide(browser: Browser, percent: int) -> None:
    script = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))"
    browser.run(script, browser.one("#share"), percent)


def percentage(text: str) -> float:
    return float(text.removeprefix("< ").removesuffix(" %")) / 100


def test_a_click_beside_the_units_releases(browser: Browser, show: Callable[..., Document]) -> None:
    document = show()
    unit(browser, strongest(document)[2]).click()
    assert browser.all(".is-fixed")
    ActionChains(browser.driver).move_to_element_with_offset(browser.one("#viewport"), 5, 280).click().perform()
    assert not browser.all(".is-fixed")


def test_the_small_sign_folds_and_unfolds(browser: Browser, show: Callable[..., Document]) -> None:
    document = show()
    path = strongest(document)
    before = shown(browser)
    where = rectangle(browser, f'.unit[data-id="{path[2]}"] .thumb')
    browser.point(unit(browser, path[2]))
    unit(browser, path[2]).find_element(By.CLASS_NAME, "fold").click()
    gone = set(before) - set(shown(browser))
    assert gone == {e["child"] for name in path[2:] for e in children(document, name)} - {
        e["child"] for name in path[:2] for e in children(document, name)
    }
    after = rectangle(browser, f'.unit[data-id="{path[2]}"] .thumb')
    assert after["top"] == pytest.approx(where["top"], abs=1), "what was clicked stays under the pointer"
    assert not browser.all(".is-fixed")
    unit(browser, path[2]).find_element(By.CLASS_NAME, "fold").click()
    assert set(shown(browser)) == set(before)


def test_what_was_unfolded_stays_where_it_was(browser: Browser, show: Callable[..., Document]) -> None:
    document = show()
    names = [children(document, "d")[-1]["child"], strongest(document)[1]]
    before = [rectangle(browser, f'.unit[data-id="{name}"] .thumb')["top"] for name in names]
    browser.point(unit(browser, names[0]))
    unit(browser, names[0]).find_element(By.CLASS_NAME, "fold").click()
    after = [rectangle(browser, f'.unit[data-id="{name}"] .thumb')["top"] for name in names]
    assert after[0] == pytest.approx(before[0], abs=1)
    assert abs(after[1] - before[1]) > 20, "others make room"


def test_the_slider_hides_small_shares(browser: Browser, show: Callable[..., Document]) -> None:
    document = show()
    browser.one("#unfold").click()
    for least in (0, 10, 25):
        slide(browser, least)
        reached = {"d"}
        for level in range(len(document["levels"])):  # edges lead from one level to the next
            reached |= {
                edge["child"]
                for edge in document["edges"]
                if edge["parent"] in reached
                and edge["share"] >= least / 100
                and node(document, edge["parent"])["level"] == level
            }
        assert set(shown(browser)) == reached
        assert browser.text("#least") == f"{least} %"
        links = browser.run("return [...document.querySelectorAll('#bands path')].map((path) => path.__data__.share)")
        assert min(links) >= least / 100
    assert len(reached) < len(document["nodes"])
    assert f"{len(document['nodes']) - len(reached)} below" in browser.text("#count")


def test_the_slider_by_keyboard(browser: Browser, show: Callable[..., Document]) -> None:
    show()
    browser.run("document.getElementById('share').focus()")
    before = len(shown(browser))
    browser.press(*[Keys.ARROW_RIGHT] * 30)
    assert browser.text("#least") == "30 %"
    assert len(shown(browser)) < before


def test_the_keyboard(browser: Browser, show: Callable[..., Document]) -> None:
    document = show()
    path = strongest(document)
    browser.run("document.querySelector('#larger').focus()")
    browser.press(Keys.TAB)
    assert focused(browser) == "d", "one stop for the whole tree"
    ring = browser.style('.unit[data-id="d"] .thumb', "boxShadow")
    browser.point(unit(browser, path[1]).find_element(By.CLASS_NAME, "thumb"))
    assert ring != browser.style(f'.unit[data-id="{path[1]}"] .thumb', "boxShadow"), "more than what is pointed at"
    browser.point(browser.one("h1"))
    assert browser.style('.unit[data-id="d"] .thumb', "boxShadow") == ring, "the focus is seen"
    for name in path[1:3]:
        browser.press(Keys.ARROW_RIGHT)
        assert focused(browser) in {edge["child"] for edge in children(document, focused_parent(document, name))}
        while focused(browser) != name:
            browser.press(Keys.ARROW_DOWN)
    assert browser.text("#caption").startswith(f"stages.1 · {node(document, path[2])['channel']}"), "as if pointed at"
    browser.press(Keys.ENTER)
    assert unit(browser, path[2]).get_attribute("aria-selected") == "true"
    assert browser.text("#inspector h2") == f"stages.1 · {node(document, path[2])['channel']}"
    browser.press(Keys.SPACE)
    assert unit(browser, path[2]).get_attribute("aria-expanded") == "false"
    assert focused(browser) == path[2]
    browser.press(Keys.ARROW_RIGHT)
    assert unit(browser, path[2]).get_attribute("aria-expanded") == "true", "the first press unfolds"
    assert focused(browser) == path[2]
    browser.press(Keys.ARROW_LEFT)
    assert focused(browser) == path[1]
    column = {edge["child"] for edge in children(document, "d")}
    seen = {focused(browser)}
    browser.press(Keys.ARROW_UP, Keys.ARROW_UP, Keys.ARROW_UP, Keys.ARROW_UP)
    for _ in column:
        seen.add(focused(browser))
        browser.press(Keys.ARROW_DOWN)
    assert seen == column
    browser.press(Keys.HOME)
    assert focused(browser) == "d"
    browser.press(Keys.ESCAPE)
    assert browser.text("#inspector h2") == "crack"


def focused_parent(document: Document, name: str) -> str:
    return str(max((e for e in document["edges"] if e["child"] == name), key=lambda e: e["share"])["parent"])


def test_the_focus_survives_what_hides_its_unit(browser: Browser, show: Callable[..., Document]) -> None:
    document = show()
    unit(browser, strongest(document)[-1]).click()
    assert focused(browser) == strongest(document)[-1]
    slide(browser, 50)
    assert focused(browser) in shown(browser)


def test_assistive_technology_finds_a_tree(browser: Browser, show: Callable[..., Document]) -> None:
    document = show()
    assert browser.one("#units").get_attribute("role") == "tree"
    items = browser.run("""return [...document.querySelectorAll('[role=treeitem]')].map((item) => [
        item.dataset.id, +item.ariaLevel, +item.ariaPosInSet, +item.ariaSetSize, item.ariaExpanded, item.ariaLabel,
        item.tabIndex])""")
    assert [item for item in items if item[6] == 0] == [items[0]], "one of them takes the focus"
    for name, level, place, size, expanded, label, _ in items:
        about = node(document, name)
        assert level == about["level"] + 1
        assert 1 <= place <= size <= 4
        assert (expanded is None) == (not children(document, name))
        assert label.startswith("crack" if name == "d" else f"{about['layer']} · {about['channel']}, ")
        assert name == "d" or re.search(r"\d % of ", label)
    # Read in order, a unit comes after the one it stands under.
    levels = [item[1] for item in items]
    assert all(after <= before + 1 for before, after in pairwise(levels))
    tree = browser.command("Accessibility.getFullAXTree")
    names = {(found["role"]["value"], found.get("name", {}).get("value")) for found in tree["nodes"] if "role" in found}
    for role, name in (
        ("slider", "Share at least"),
        ("button", "Smaller"),
        ("button", "Fit"),
        ("button", "Light or dark"),
    ):
        assert (role, name) in names


def test_entries_of_the_inspector_lead_on(browser: Browser, show: Callable[..., Document]) -> None:
    document = show()
    weak = children(document, children(document, "d")[-1]["child"])[-1]["child"]
    assert weak not in shown(browser)
    unit(browser, children(document, "d")[-1]["child"]).click()
    rows = browser.all("ul:last-of-type .entry")
    browser.run("arguments[0].click()", rows[-1])
    assert unit(browser, weak).get_attribute("aria-selected") == "true"
    assert focused(browser) == weak


def test_several_parents_are_listed(browser: Browser, show: Callable[..., Document]) -> None:
    document = show()
    browser.one("#unfold").click()
    counts: dict[str, int] = {}
    for edge in document["edges"]:
        counts[edge["child"]] = counts.get(edge["child"], 0) + 1
    name = max(counts, key=lambda name: counts[name])
    assert counts[name] > 1
    browser.run("document.querySelector(`.unit[data-id='${arguments[0]}']`).click()", name)
    assert "It supports" in texts(browser, "#inspector h3")
    listed = browser.run("""
        const head = [...document.querySelectorAll('#inspector h3')].find((h) => h.textContent === 'It supports');
        return head.nextElementSibling.children.length""")
    assert listed == counts[name]


def test_panning_and_zooming(browser: Browser, show: Callable[..., Document]) -> None:
    show()
    before = browser.run(SCALE)
    browser.one("#larger").click()
    assert browser.run(SCALE) > before
    browser.one("#fit").click()
    assert browser.run(SCALE) == pytest.approx(before)
    place = rectangle(browser, ".thumb")
    ActionChains(browser.driver).scroll_from_origin(scroll_origin(browser), 40, 60).perform()
    moved = rectangle(browser, ".thumb")
    assert (moved["left"] - place["left"], moved["top"] - place["top"]) == pytest.approx((-40, -60), abs=1)
    column, thumb = rectangle(browser, ".column"), rectangle(browser, '.unit[data-id="d"] .thumb')
    assert column["left"] + column["width"] / 2 == pytest.approx(thumb["left"] + thumb["width"] / 2, abs=1)
    ActionChains(browser.driver).drag_and_drop_by_offset(browser.one("#columns"), 0, 0).perform()
    ActionChains(browser.driver).move_to_element_with_offset(
        browser.one("#viewport"), 0, 250
    ).click_and_hold().move_by_offset(30, -20).release().perform()
    dragged = rectangle(browser, ".thumb")
    assert (dragged["left"] - moved["left"], dragged["top"] - moved["top"]) == pytest.approx((30, -20), abs=1)


def scroll_origin(browser: Browser) -> Any:
    from selenium.webdriver.common.actions.wheel_input import ScrollOrigin

    return ScrollOrigin.from_element(browser.one("#viewport"))


def test_cards_are_linked(browser: Browser, show: Callable[..., Document]) -> None:
    document = copy.deepcopy(SMALL)
    name = strongest(document)[1]
    about = node(document, name)
    document["cards"] = {f"{about['layer']}:{about['channel']}": "cards.html#stages.3-7"}
    show(document)
    assert not browser.all("#inspector a")
    unit(browser, name).click()
    assert browser.one("#inspector a").get_dom_attribute("href") == "cards.html#stages.3-7"


@pytest.fixture(scope="session")
def large() -> Document:
    document = hierarchy(children=6, seed=3)
    assert len(document["nodes"]) >= 500
    return document


def test_hundreds_of_units(browser: Browser, show: Callable[..., Document], large: Document) -> None:
    show(large)
    assert len(shown(browser)) < 40, "calm at first"
    browser.one("#unfold").click()
    assert len(shown(browser)) == len(large["nodes"])
    assert len(browser.all("#bands path")) == len(large["edges"])
    places = browser.run("""return [...document.querySelectorAll('.thumb')].map((thumb) => {
        const { left, top, width } = thumb.getBoundingClientRect();
        return [left, top, width]; })""")
    width = places[0][2]
    columns: dict[int, list[float]] = {}
    for left, top, _ in places:
        columns.setdefault(round(left), []).append(top)
    assert len(columns) == len(large["levels"]), "a column per layer"
    for tops in columns.values():
        gaps = np.diff(np.sort(tops))
        assert gaps.size == 0 or gaps.min() > width, "no thumbnail lies on another"
    browser.one('[id="fold"]').click()
    assert len(shown(browser)) < 40
    assert browser.complaints() == []
    assert browser.requests() == []


@pytest.mark.parametrize("width", [390, 768, 1280, 1920])
def test_it_fits_the_width(browser: Browser, show: Callable[..., Document], width: int) -> None:
    document = show(width=width, height=844)
    assert browser.run("return document.documentElement.scrollWidth") <= width
    for selector in ("#frame", "#viewport", ".toolbar", "#inspector", "[data-theme-toggle]"):
        box = rectangle(browser, selector)
        assert box["left"] >= 0, selector
        assert box["right"] <= width, selector
        assert box["width"] > 0, selector
        assert box["height"] > 0, selector
    assert rectangle(browser, "#frame")["width"] >= min(300, width * 0.7), "the image is large"
    ring = rectangle(browser, "#viewport")
    decision = rectangle(browser, '.unit[data-id="d"] .thumb')
    assert ring["left"] <= decision["left"] < ring["right"], "the decision is in view"
    assert ring["top"] <= decision["top"] < ring["bottom"]
    unit(browser, strongest(document)[1]).click()
    assert browser.text("#inspector h2").startswith("stages.3")


def test_a_tall_and_a_wide_image_keep_their_shape(browser: Browser, show: Callable[..., Document]) -> None:
    for width, height in ((96, 224), (224, 96)):
        document = copy.deepcopy(SMALL)
        buffer = io.BytesIO()
        Image.new("RGB", (width, height), "grey").save(buffer, "PNG")
        png = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
        document["image"] = {"width": width, "height": height, "png": png}
        for each in document["nodes"]:
            left, top, right, bottom = each["box"]
            each["box"] = [
                left * width // SIDE,
                top * height // SIDE,
                max(right * width // SIDE, 1),
                max(bottom * height // SIDE, 1),
            ]
        for window in (390, 1280):
            show(document, width=window, height=844)
            frame = rectangle(browser, "#frame")
            assert frame["width"] / frame["height"] == pytest.approx(width / height, rel=0.02)
            assert frame["right"] <= window
            assert browser.complaints() == []


def test_motion_ends_where_it_should(browser: Browser, show: Callable[..., Document]) -> None:
    document = show(still=False)
    name = children(document, "d")[-1]["child"]
    browser.run("document.querySelector(`.unit[data-id='${arguments[0]}']`).click()", name)
    browser.until("return !document.querySelector('#stage').__transition")
    moving = {u: rectangle(browser, f'.unit[data-id="{u}"]')["top"] for u in shown(browser)}
    origin = moving["d"]
    show(still=True)
    browser.run("document.querySelector(`.unit[data-id='${arguments[0]}']`).click()", name)
    still = {u: rectangle(browser, f'.unit[data-id="{u}"]')["top"] for u in shown(browser)}
    assert {u: top - origin for u, top in moving.items()} == pytest.approx(
        {u: top - still["d"] for u, top in still.items()}, abs=0.5
    )


def test_a_unit_can_be_the_decision(browser: Browser, show: Callable[..., Document]) -> None:
    document = copy.deepcopy(SMALL) | {"label": "layer4:7:1,2", "score": None}
    root = document["nodes"][0]
    root |= {"layer": "layer4", "channel": 7, "position": [1, 2], "box": [0, 0, 200, 180]}
    show(document)
    assert browser.text("h1") == "layer4:7:1,2"
    assert browser.text("#inspector h2") == "layer4:7:1,2"
    assert browser.complaints() == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kind": "sightline.evaluation"}, "sightline.evaluation"),
        ({"schema": 2}, "schema 2"),
        ({"image": {"width": 1, "height": 1, "png": "https://example.org/a.png"}}, "embedded PNG"),
        ({"nodes": []}, "exactly one decision"),
        ({"edges": [{"parent": "d", "child": "gone", "share": 1.0, "support": 1.0}]}, "gone"),
        ({"cards": {"stem:1": "javascript:alert(1)"}}, "relative"),
        ({"cards": {"stem:1": "//example.org/"}}, "relative"),
        ({"label": float("nan"), "score": float("nan")}, "JSON"),
    ],
)
def test_what_is_no_hierarchy(change: Document, said: str) -> None:
    with pytest.raises(PageError, match=said):
        page(SMALL | change)


def test_a_missing_part_is_named() -> None:
    with pytest.raises(PageError, match="lacks levels, settings"):
        page({name: part for name, part in SMALL.items() if name not in ("levels", "settings")})


def test_an_address_never_loads_anything() -> None:
    text = page(SMALL)
    assert not re.search(r"""(?:src|href)=["'](?!data:|#)""", text)
    assert not re.search(r"@import|url\(", text)
