"""The page of feature cards: crops, the whole image, anchors, and the links of a hierarchy to it."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image
from selenium.webdriver.common.keys import Keys

import sightline
from sightline import demo
from sightline.bundle import ImageInput
from sightline.errors import PageError
from sightline.pages import hierarchy as hierarchy_page
from sightline.pages.features import links, page
from sightline.runtime.features import Excitation, FeatureCard, FeatureCards
from sightline.runtime.saving import save
from sightline.runtime.tree import Unit
from tests.pages.browser import Browser
from tests.pages.documents import hierarchy
from tests.pages.test_document import HOSTILE
from tests.pages.test_hierarchy import canvas, rectangle


def made_up(folder: Path, *, label: str = "crack", layer: str = "stages.1") -> FeatureCards:
    """A card of two images, the strongest units of which see a quarter of them; and one that nothing excites."""
    images = []
    for number in range(2):
        images.append(folder / f"line {number}" / "part.png")
        images[-1].parent.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(number)
        Image.fromarray(rng.integers(0, 256, (7, 7, 3), np.uint8)).resize((64, 64)).save(images[-1])
    map_ = np.zeros((8, 8), np.uint8)
    map_[2, 3] = 255
    found = tuple(
        Excitation(image, label, 0.9, Unit(layer, 4, (2, 3)), 3.5 - rank, (16, 0, 48, 32), map_)
        for rank, image in enumerate(images)
    )
    cards = (FeatureCard(layer, 4, 0.25, 1.0, found), FeatureCard(layer, 7, 0.0, 0.0, ()))
    return FeatureCards(cards, ImageInput("x", 3, 64, 64), 5, (Path("gone.png"),), "0123456789abcdef", "openvino")


def test_cards_open_quietly(browser: Browser, tmp_path: Path) -> None:
    save(tmp_path / "cards.html", page(made_up(tmp_path)))
    browser.open(tmp_path / "cards.html")
    assert browser.complaints() == []
    assert browser.requests() == []
    assert browser.text("h1") == "What stages.1 looks for"
    assert "5 images looked at · 1 could not be read" in browser.text(".page-head")
    assert len(browser.all(".card")) == 2
    assert [len(card.find_elements("css selector", ".crop")) for card in browser.all(".card")] == [2, 0]
    assert browser.text(".card .labels") == "crack 2"
    assert "nothing in these images excites it" in browser.all(".card")[1].text
    assert "25.0 % of the decisions" in browser.text(".card .page-note")
    assert str(tmp_path) not in (tmp_path / "cards.html").read_text(), "no path of this machine"


def test_a_crop_is_the_receptive_field(browser: Browser, tmp_path: Path) -> None:
    cards = made_up(tmp_path)
    save(tmp_path / "cards.html", page(cards))
    browser.open(tmp_path / "cards.html")
    browser.until("return document.querySelector('.crop canvas').drawn")
    assert browser.run("return !document.getElementById('where').checked")
    found = canvas(browser, ".crop canvas")[..., :3].astype(float)
    expected = (
        cards.picture(cards.cards[0].excitations[0].image)
        .crop((16, 0, 48, 32))
        .resize((192, 192), Image.Resampling.BILINEAR)
    )
    # JPEG, and another filter at the edges of pixels.
    assert np.abs(found - np.asarray(expected, float)).mean() < 8
    other = np.asarray(
        cards.picture(cards.cards[0].excitations[1].image).crop((16, 0, 48, 32)).resize((192, 192)), float
    )
    assert np.abs(found - other).mean() > 30
    browser.one("#where").click()
    shown = canvas(browser, ".crop canvas")[..., :3].astype(float)
    changed = np.abs(shown - found).mean(axis=2) > 20
    rows, columns = np.nonzero(changed)
    # Unit (2, 3) of 8×8 is at pixels (20, 28) of 64×64: at (20, 12) of the crop's 32×32.
    assert rows.mean() == pytest.approx(20 * 6, abs=12)
    assert columns.mean() == pytest.approx(12 * 6, abs=12)


def test_the_whole_image_opens_and_closes(browser: Browser, tmp_path: Path) -> None:
    save(tmp_path / "cards.html", page(made_up(tmp_path)))
    browser.open(tmp_path / "cards.html")
    browser.run("document.querySelectorAll('.crop')[1].focus()")
    browser.press(Keys.ENTER)
    assert browser.run("return document.getElementById('whole').open")
    assert browser.text("#which") == "stages.1 · 4"
    facts = browser.text("#facts")
    assert "line 1/part.png" in facts
    assert "crack, 0.900" in facts
    assert "2.5" in facts
    assert "32 × 32 pixels" in facts
    frame, box = rectangle(browser, "dialog .frame"), rectangle(browser, "#box")
    assert (box["left"] - frame["left"]) / frame["width"] == pytest.approx(0.25, abs=0.01)
    assert (box["top"] - frame["top"]) / frame["height"] == pytest.approx(0, abs=0.01)
    assert box["width"] / frame["width"] == pytest.approx(0.5, abs=0.01)
    browser.press(Keys.ESCAPE)
    assert browser.run("return !document.getElementById('whole').open")
    assert browser.run("return document.activeElement === document.querySelectorAll('.crop')[1]")


def test_hostile_names_stay_text(browser: Browser, tmp_path: Path) -> None:
    save(tmp_path / "cards.html", page(made_up(tmp_path, label=HOSTILE, layer=HOSTILE)))
    browser.open(tmp_path / "cards.html")
    assert browser.text(".card h2") == f"{HOSTILE} · 4"
    assert browser.text(".card .labels") == f"{HOSTILE} 2"
    browser.one(".crop").click()
    assert HOSTILE in browser.text("#facts")
    assert browser.run("return window.hacked === undefined")
    assert len(browser.all("img")) == 1
    assert browser.complaints() == []


@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_the_width(browser: Browser, tmp_path: Path, width: int) -> None:
    save(tmp_path / "cards.html", page(made_up(tmp_path)))
    browser.open(tmp_path / "cards.html", width=width, height=844)
    assert browser.run("return document.documentElement.scrollWidth") <= width
    browser.one(".crop").click()
    assert rectangle(browser, "dialog")["right"] <= width


@pytest.mark.parametrize("layer", ["stages.1", 'odd # name:"é"'])
def test_a_hierarchy_leads_to_its_cards(browser: Browser, tmp_path: Path, layer: str) -> None:
    """By a click: from the tree's node to the card of its channel, in another folder."""
    cards = tmp_path / "all cards" / "cards.html"
    cards.parent.mkdir()
    save(cards, page(made_up(tmp_path, layer=layer)))
    tree = tmp_path / "trees" / "tree.html"
    tree.parent.mkdir()
    document = json.loads(json.dumps(hierarchy(children=3)))
    node = next(node for node in document["nodes"] if node["level"] == 1)
    node |= {"layer": layer, "channel": 4}
    document["cards"] = links(cards, tree)
    assert set(document["cards"]) == {f"{layer}:4", f"{layer}:7"}
    assert all(unquote(address).startswith("./../all cards/cards.html#") for address in document["cards"].values())
    save(tree, hierarchy_page.page(document))
    browser.open(tree)
    browser.run("document.querySelector(`.unit[data-id='${arguments[0]}']`).click()", node["id"])
    browser.one("#inspector a").click()
    browser.until("return document.title.startsWith('What') && document.documentElement?.dataset.ready !== undefined")
    assert browser.text(".card:target h2") == f"{layer} · 4"


def test_links_need_a_page_of_cards(tmp_path: Path) -> None:
    with pytest.raises(PageError, match="cannot be read"):
        links(tmp_path / "gone.html", tmp_path / "tree.html")
    save(tmp_path / "tree.html", hierarchy_page.page(hierarchy(children=2, levels=1)))
    with pytest.raises(PageError, match="no page of feature cards"):
        links(tmp_path / "tree.html", tmp_path / "other.html")


def test_a_real_hierarchy_and_its_real_cards(browser: Browser, tmp_path: Path) -> None:
    """What the product makes of the demo, from the network to the browser."""
    bundle = demo.BUNDLE
    images = [sample.image for sample in demo.samples()]
    cards = sightline.feature_cards(bundle, images, ["stages.3", "stem"], top=500, per_channel=2)
    assert len(cards.cards) == 112 + 16
    save(tmp_path / "cards.html", page(cards))
    browser.open(tmp_path / "cards.html")
    assert browser.complaints() == []
    taken = sightline.decompose(bundle, images[0], top_k=3, min_share=0.0)
    document = copy.deepcopy(taken.document()) | {"cards": links(tmp_path / "cards.html", tmp_path / "tree.html")}
    save(tmp_path / "tree.html", hierarchy_page.page(document))
    browser.open(tmp_path / "tree.html")
    browser.one("#unfold").click()
    assert browser.complaints() == []
    assert len(browser.all(".unit")) == len(taken.nodes)
    drawn = browser.run(
        "return [...document.querySelectorAll('#bands path')].map((p) => [p.__data__.parent, p.__data__.child])"
    )
    assert {tuple(link) for link in drawn} == {(edge.parent, edge.child) for edge in taken.edges}
    browser.run("arguments[0].click()", browser.one('.unit[aria-level="2"]'))
    address = browser.one("#inspector a").get_dom_attribute("href")
    assert re.fullmatch(r"\./cards\.html#stages\.3%3A\d+", address)
