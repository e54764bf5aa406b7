"""The server's page in a browser, on a real server: it shows what the server says, and nothing else gets in or out."""

from __future__ import annotations

import base64
import io
import itertools
import json
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from selenium.webdriver.common.keys import Keys

from sightline import demo
from sightline.runtime.rendering import colours
from sightline.serving.keys import Keys as ApiKeys
from sightline.serving.page import page
from tests.pages.browser import Browser
from tests.serving.running import Running, running

Document = dict[str, Any]
IMAGES = {sample.name: sample.image for sample in demo.samples()}
HOSTILE = '</script><img src=x onerror="window.hacked=1">&amp;<!-- {} $& "\''
KEY = "a-key-of-the-tests"
DONE = "return document.getElementById('waiting').hidden"
EXPLAINED = f"{DONE} && document.querySelectorAll('.layer').length > 0"
PREDICTED = "return !document.getElementById('taken-for').hidden"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with the demo's network, and with the same one under hostile labels."""
    hostile = tmp_path_factory.mktemp("bundles") / "hostile.sightline"
    shutil.copytree(demo.BUNDLE, hostile)
    manifest = json.loads((hostile / "manifest.json").read_text())
    manifest["labels"] = [f"{HOSTILE}{number}" for number in range(len(manifest["labels"]))]
    (hostile / "manifest.json").write_text(json.dumps(manifest))
    with running([demo.BUNDLE, hostile]) as server:
        yield address(server)


def address(server: Running) -> str:
    return str(server.client.base_url) + "/"


def post(site: str, verb: str, image: bytes, model: str = "surface", target: Any = None, **parameters: Any) -> Document:
    """What the server answers to the same question; a refusal, too."""
    instance = {"b64": base64.b64encode(image).decode(), **({} if target is None else {"target": target})}
    body = json.dumps({"instances": [instance], "parameters": parameters}).encode()
    request = urllib.request.Request(f"{site}v1/models/{model}:{verb}", body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request) as answer:
            return dict(json.load(answer))
    except urllib.error.HTTPError as error:
        return dict(json.load(error))


@cache
def answer(site: str, name: str, **asked: Any) -> tuple[Document, Document]:
    """The explanation of an image of the demo, and what it is taken for."""
    said = post(site, "explain", IMAGES[name].read_bytes(), saliency=True, layers=True, **asked)
    return said["explanations"][0], said["predictions"][0]


def opened(browser: Browser, site: str, *images: Path | str, **window: Any) -> None:
    browser.open(site, **window)
    if images:
        browser.one("#files").send_keys("\n".join(map(str, images)))
        browser.until(PREDICTED)


def choose(browser: Browser, select: str, value: str) -> None:
    script = "Object.assign(arguments[0], { value: arguments[1] }).dispatchEvent(new Event('change'))"
    browser.run(script, browser.one(f"#{select}"), value)


def explain(browser: Browser) -> None:
    browser.one("#explain").click()
    browser.until(EXPLAINED)


def texts(browser: Browser, selector: str) -> list[str]:
    return list(browser.run("return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent)", selector))


def facts(browser: Browser) -> dict[str, str]:
    return dict(zip(texts(browser, "#facts dt"), texts(browser, "#facts dd"), strict=True))


def heat(browser: Browser) -> npt.NDArray[np.uint8]:
    """The pixels of the map, RGBA."""
    url = browser.run("return document.getElementById('heat').toDataURL()")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))).convert("RGBA"))


def agrees(found: npt.NDArray[np.uint8], map_: Document) -> None:
    """A canvas is covered as Explanation.overlay() covers an image with this map."""
    values = np.frombuffer(base64.b64decode(map_["data"]), "<f4").reshape(map_["height"], map_["width"])
    grown = torch.nn.functional.interpolate(
        torch.from_numpy(values.copy())[None, None], found.shape[:2], mode="bilinear", align_corners=False
    )[0, 0].numpy()
    cover = 255 * 0.8 * np.minimum(2 * grown, 1)
    assert np.abs(found[..., 3] - cover).max() <= 2
    opaque = cover > 60  # below, a canvas keeps colours coarsely: they are stored times their opacity
    assert opaque.any()
    assert np.abs(found[..., :3] - colours(grown))[opaque].max() <= 6


def test_it_opens_quietly_and_asks_nobody_else(browser: Browser, site: str) -> None:
    opened(browser, site)
    asked = set(browser.requests())
    assert asked == {f"{site}v1/models", f"{site}v1/models/surface", f"{site}v1/models/hostile"}
    assert browser.complaints() == []
    assert texts(browser, "#model option") == ["surface", "hostile"]
    assert texts(browser, "#target option") == ["What the network predicts", "good", "scratch", "pit", "crack", "stain"]
    assert browser.run("return document.getElementById('method').options.length") == 9
    assert not browser.one("#explain").is_enabled()
    assert browser.one("#empty").is_displayed()


class Elements(HTMLParser):
    """Tags and their attributes, as a browser reads them."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(markup)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))


def test_its_policy_names_every_script_and_one_origin() -> None:
    tags = Elements(page()).tags
    policy = next(given["content"] or "" for _, given in tags if given.get("http-equiv"))
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules.pop("connect-src") == "'self'"
    assert rules.pop("img-src") == "data: blob:"
    assert rules.pop("default-src") == rules.pop("base-uri") == rules.pop("form-action") == "'none'"
    assert re.fullmatch(r"('sha256-[A-Za-z0-9+/=]{44}' ?)+", rules.pop("script-src"))
    assert set(rules) == {"style-src"}
    assert not [
        given for _, given in tags if {"src", "onclick", "onload"} & set(given) and given.get("id") != "picture"
    ]
    assert not re.search(r"https?://(?!www\.w3\.org)", page())


def test_an_image_is_classified_as_it_comes_in(browser: Browser, site: str) -> None:
    opened(browser, site, IMAGES["crack"])
    said = post(site, "predict", IMAGES["crack"].read_bytes())["predictions"][0]
    order = np.argsort(said["probabilities"])[::-1]
    labels = ["good", "scratch", "pit", "crack", "stain"]
    assert texts(browser, ".bar span:first-child") == [labels[at] for at in order]
    assert texts(browser, ".bar .numbers") == [f"{100 * said['probabilities'][at]:.1f} %" for at in order]
    assert browser.text("#title") == f"crack {said['score']:.3f}"
    assert browser.run("return document.getElementById('picture').naturalWidth") == said_width(IMAGES["crack"])
    assert not browser.one("#explained").is_displayed()
    assert not browser.one("#tools").is_displayed()
    assert browser.complaints() == []


def said_width(path: Path) -> int:
    return Image.open(path).width


def test_class_and_method_are_asked_for_and_the_map_is_shown(browser: Browser, site: str) -> None:
    opened(browser, site, IMAGES["crack"])
    choose(browser, "target", "2")
    choose(browser, "method", "ada-sise")
    browser.one("#most").send_keys("30")
    explain(browser)
    expected, predicted = answer(site, "crack", target=2, method="ada-sise", max_passes=30)
    assert predicted["label"] == "crack"
    agrees(heat(browser), expected["saliency"])
    assert browser.text("#title") == f"pit {expected['score']:.3f}"
    assert "predicted: crack" in browser.text("#summary")
    assert browser.text(".bar[aria-current] span").startswith("pit")
    shown = facts(browser)
    assert shown["Method"] == "Ada-SISE"
    assert shown["Passes"] == str(expected["passes"]) == "30"
    assert shown["Complete"] == f"{100 * expected['completeness']:.1f} %, ended by the budget"
    assert shown["Engine"] == f"{expected['engine']}, {expected['precision']}"
    assert re.fullmatch(r"\d+ ms|[\d.]+ s", shown["Time"])
    assert browser.complaints() == []


def test_the_maps_of_the_blocks_and_their_opacity(browser: Browser, site: str) -> None:
    opened(browser, site, IMAGES["crack"])
    explain(browser)
    expected, _ = answer(site, "crack")
    assert texts(browser, ".layer span") == ["All blocks", *expected["layers"]]
    agrees(heat(browser), expected["saliency"])
    browser.run("document.querySelector('.layer input').focus()")
    for layer in expected["layers"]:
        browser.press(Keys.ARROW_RIGHT)
        agrees(heat(browser), expected["layer_maps"][layer])
    assert browser.text(".layer input:checked ~ span") == expected["layers"][-1]
    browser.run("document.getElementById('opacity').focus()")
    browser.press(*[Keys.ARROW_LEFT] * 30)
    assert browser.text("#opaque") == "70 %"
    assert float(browser.style("#heat", "opacity")) == pytest.approx(0.7)


def test_the_regions(browser: Browser, site: str) -> None:
    opened(browser, site, IMAGES["pit-cluster"])
    explain(browser)
    expected, _ = answer(site, "pit-cluster")
    regions = expected["regions"]
    assert regions
    rows = browser.run("""
        const cells = (row) => [...row.children].map((cell) => cell.textContent);
        return [...document.querySelectorAll('#regions tr')].map(cells);""")
    drawn = browser.run("""
        const frame = document.getElementById('frame').getBoundingClientRect();
        return [...document.querySelectorAll('.box')].map((box) => {
          const { left, top, right, bottom } = box.getBoundingClientRect();
          const sides = [left - frame.left, top - frame.top, right - frame.left, bottom - frame.top];
          return sides.map((side) => side / frame.width);
        })""")
    assert len(rows) == len(drawn) == min(len(regions), 10)
    for number, (row, box, region) in enumerate(zip(rows, drawn, regions, strict=False), 1):
        left, top, right, bottom = region["box"]
        assert row[:2] == [str(number), f"{left}, {top} – {right}, {bottom}"]
        assert row[2:] == [f"{region['area']:.0f}", f"{region['mean']:.2f}", f"{100 * region['mass']:.1f} %"]
        assert box == pytest.approx([side / expected["image"]["width"] for side in region["box"]], abs=0.002)
    browser.point(browser.all("#regions tr")[0])
    assert browser.run("return [...document.querySelectorAll('.box')].indexOf(document.querySelector('.pointed'))") == 0
    browser.one("#boxed").click()
    assert not browser.one(".box").is_displayed()


def in_frame(browser: Browser, script: str) -> Any:
    browser.driver.switch_to.frame(browser.one("#tree iframe"))
    try:
        browser.until("return document.documentElement?.dataset.ready !== undefined")
        return browser.run(script)
    finally:
        browser.driver.switch_to.default_content()


def test_the_tree(browser: Browser, site: str) -> None:
    opened(browser, site, IMAGES["crack"])
    browser.one("[data-theme-toggle]").click()
    choose(browser, "model", "hostile")
    browser.until(PREDICTED)
    explain(browser)
    browser.one("#tab-tree").click()
    browser.until("return document.querySelector('#tree iframe')")
    title, units, ground = in_frame(
        browser,
        """return [document.querySelector('h1').textContent, document.querySelectorAll('.unit').length,
                   getComputedStyle(document.body).backgroundColor]""",
    )
    assert title.startswith(f"{HOSTILE}3")
    assert units > 4
    assert browser.text("#said") == f"crack.jpg: what carried {HOSTILE}3"
    assert ground == browser.style("body", "backgroundColor") == "rgb(16, 21, 26)", "the theme goes into the frame"
    browser.run("localStorage.clear()")
    assert browser.complaints() == []
    # The frame is alone: it reaches neither this page nor the server.
    walls = in_frame(
        browser,
        """
        const tried = {};
        try { parent.document.title; tried.parent = 'open'; } catch { tried.parent = 'closed'; }
        try { localStorage.length; tried.storage = 'open'; } catch { tried.storage = 'closed'; }
        tried.origin = self.origin;
        tried.hacked = window.hacked ?? 'no';
        return tried;""",
    )
    assert walls == {"parent": "closed", "storage": "closed", "origin": "null", "hacked": "no"}
    browser.driver.switch_to.frame(browser.one("#tree iframe"))
    fetching = "fetch(arguments[0]).then(() => arguments[1]('yes'), () => arguments[1]('no'))"
    reached = browser.driver.execute_async_script(fetching, site)
    browser.driver.switch_to.default_content()
    assert reached == "no"
    assert browser.run("return window.hacked === undefined")


def test_refusals_are_said_as_the_server_says_them(browser: Browser, site: str, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(IMAGES["crack"].read_bytes()[:500])
    opened(browser, site)
    browser.one("#files").send_keys(str(broken))
    browser.until("return !document.getElementById('trouble').hidden")
    expected = post(site, "predict", broken.read_bytes())
    assert browser.text("#reason") == expected["error"]
    assert browser.text("#details").startswith(f"HTTP {expected['status']} · request ")
    assert browser.one("#unseen").is_displayed()
    browser.one("#explain").click()
    browser.until(f"{DONE} && !document.getElementById('trouble').hidden")
    assert browser.text("#reason") == expected["error"]
    # It goes on with the next image. What the browser complains about is that answer, and nothing else.
    browser.one("#files").send_keys(str(IMAGES["pit"]))
    browser.until(PREDICTED)
    assert not browser.one("#trouble").is_displayed()
    assert all(f"{expected['status']} (" in complaint for complaint in browser.complaints())
    browser.one("#deadline").send_keys("0")
    browser.one("#explain").click()
    browser.until(f"{DONE} && !document.getElementById('trouble').hidden")
    assert browser.text("#reason") == post(site, "explain", IMAGES["pit"].read_bytes(), deadline=0)["error"]


def test_what_is_larger_than_the_server_takes_is_not_sent(browser: Browser, site: str, tmp_path: Path) -> None:
    large = tmp_path / "large.png"
    large.write_bytes(bytes(13 * 2**20))
    opened(browser, site)
    browser.requests()
    browser.one("#files").send_keys(str(large))
    browser.until("return !document.getElementById('trouble').hidden")
    assert browser.text("#reason") == "large.png takes 17.3 MiB in base64; this server takes at most 16.0 MiB."
    assert [url for url in urls(browser) if "predict" in url] == []


def urls(browser: Browser) -> list[str]:
    messages = (json.loads(entry["message"])["message"] for entry in browser.log("performance"))
    return [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]


def test_hostile_names_and_labels_stay_text(browser: Browser, site: str, tmp_path: Path) -> None:
    name = tmp_path / f"{HOSTILE.replace('/', '')}.jpg"
    shutil.copy(IMAGES["crack"], name)
    opened(browser, site, name)
    choose(browser, "model", "hostile")
    browser.until("return document.getElementById('title').textContent.includes('onerror')")
    explain(browser)
    assert browser.text("#title").startswith(f"{HOSTILE}3 ")
    assert name.name in browser.text("#summary")
    assert sorted(texts(browser, ".bar span:first-child")) == [f"{HOSTILE}{number}" for number in range(5)]
    assert texts(browser, "#target option")[1:] == [f"{HOSTILE}{number}" for number in range(5)]
    assert browser.run("return window.hacked === undefined && document.querySelectorAll('[onerror]').length === 0")
    assert browser.complaints() == []


@pytest.mark.parametrize("name", ["gnp.\u202etxt", "\u05d7\u05dc\u05d5\u05d3\u05d4"])
def test_a_name_that_runs_the_other_way_leaves_the_numbers_alone(
    name: str, browser: Browser, site: str, tmp_path: Path
) -> None:
    shutil.copy(IMAGES["crack"], tmp_path / f"{name}.jpg")
    opened(browser, site, tmp_path / f"{name}.jpg")
    explain(browser)
    summary = browser.text("#summary")
    assert summary.startswith(f"\u2068{name}.jpg\u2069 · ".replace("\u202e", ""))
    assert "\u202e" not in summary


def test_an_api_key_is_asked_for_and_kept_nowhere(browser: Browser) -> None:
    with running([demo.BUNDLE], keys=ApiKeys((KEY,))) as server:
        opened(browser, address(server))
        assert browser.one("#entrance").is_displayed()
        assert browser.run("return document.activeElement.id") == "key"
        assert "API key" in browser.text("#reason")
        browser.press("not-that-key", Keys.ENTER)
        browser.until("return !document.getElementById('entrance').hidden && !document.getElementById('key').value")
        browser.press("5 €", Keys.ENTER)
        browser.until("return document.getElementById('reason').textContent.includes('no header can hold')")
        assert browser.one("#entrance").is_displayed()
        browser.press(KEY, Keys.ENTER)
        browser.until("return document.getElementById('model').options.length > 0")
        assert not browser.one("#entrance").is_displayed()
        assert not browser.one("#trouble").is_displayed()
        browser.one("#files").send_keys(str(IMAGES["pit"]))
        browser.until(PREDICTED)
        kept = browser.run("""
            return JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie, location.href])""")
        assert KEY not in kept
        assert KEY not in browser.run("return document.documentElement.outerHTML")
        assert all("401" in complaint for complaint in browser.complaints())


BUSY = """
    // Asked for PATH the server is busy TIMES times; the seconds of the page go by when they are told to.
    const real = window.fetch;
    window.left = TIMES;
    window.fetch = (path, options) => {
      if (!path.endsWith('PATH') || !window.left) return real(path, options);
      window.left -= 1;
      const body = JSON.stringify({ error: 'MESSAGE', status: STATUS, id: 'busy' });
      return Promise.resolve(new Response(body, { status: STATUS, headers: { 'Retry-After': '3' } }));
    };
    window.ticks = [];
    const later = window.setTimeout;
    window.setTimeout = (tick, time) => (time === 1000 ? window.ticks.push(tick) : later(tick, time));
"""


def busy(path: str, times: int, status: int, message: str) -> str:
    said = BUSY.replace("PATH", path).replace("TIMES", str(times)).replace("STATUS", str(status))
    return said.replace("MESSAGE", message)


def wait_as_told(browser: Browser, message: str) -> None:
    for left in (3, 2, 1):
        browser.until(f"return document.getElementById('details')?.textContent.includes('asking again in {left} s')")
        assert browser.text("#reason") == message
        browser.until("return window.ticks.length > 0")
        browser.run("window.ticks.shift()()")


def test_a_full_queue_is_waited_for_as_long_as_the_server_says(browser: Browser, site: str) -> None:
    opened(browser, site, IMAGES["pit"])
    message = "the queue is full: 64 images wait."
    browser.run(busy(":explain", 2, 429, message))
    browser.one("#explain").click()
    for _ in range(2):
        wait_as_told(browser, message)
    browser.until(EXPLAINED)
    assert browser.run("return window.left") == 0
    assert not browser.one("#trouble").is_displayed()
    assert browser.text("#title").startswith("pit ")


def test_a_model_that_is_being_opened_is_waited_for(browser: Browser, site: str) -> None:
    message = "surface is being opened."
    early = "Page.addScriptToEvaluateOnNewDocument"
    added = browser.command(early, source=busy("v1/models/surface", 1, 503, message))["identifier"]
    try:
        browser.driver.get(site)
        wait_as_told(browser, message)
        browser.until("return document.documentElement.dataset.ready !== undefined")
        assert texts(browser, "#model option") == ["surface", "hostile"]
        assert not browser.one("#trouble").is_displayed()
    finally:
        browser.command("Page.removeScriptToEvaluateOnNewDocument", identifier=added)


def test_cancelling(browser: Browser, site: str) -> None:
    opened(browser, site, IMAGES["pit"])
    browser.run("""
        window.real = window.fetch;
        window.fetch = (path, { signal }) => new Promise((_, reject) => {
          window.asked = path;
          signal.addEventListener('abort', () => reject(signal.reason));
        });""")
    browser.one("#explain").click()
    browser.until("return window.asked")
    assert browser.one("#waiting").is_displayed()
    assert browser.text("#doing") == "Explaining pit.jpg"
    assert not browser.one("#explain").is_enabled()
    browser.one("#cancel").click()
    browser.until(DONE)
    assert browser.text("#said") == "Cancelled."
    assert not browser.one("#trouble").is_displayed()
    browser.run("window.fetch = window.real")
    explain(browser)
    assert browser.text("#title").startswith("pit ")
    assert browser.complaints() == []


DELIVER = """
    const raw = Uint8Array.from(atob(arguments[1]), (c) => c.charCodeAt(0));
    const carried = new DataTransfer();
    carried.items.add(new File([raw], arguments[2], { type: 'image/jpeg' }));
    const event = arguments[0] === 'drop'
      ? new DragEvent('drop', { dataTransfer: carried, bubbles: true, cancelable: true })
      : new ClipboardEvent('paste', { clipboardData: carried, bubbles: true, cancelable: true });
    document.body.dispatchEvent(event);
    return event.defaultPrevented;
"""


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_images_are_dropped_and_pasted(browser: Browser, site: str, way: str) -> None:
    opened(browser, site)
    coded = base64.b64encode(IMAGES["stain"].read_bytes()).decode()
    assert browser.run(DELIVER, way, coded, f"../{HOSTILE}.jpg"), "the browser must not leave the page for the file"
    browser.until(PREDICTED)
    assert browser.text("#title").startswith("stain ")
    assert HOSTILE in browser.text("#summary")
    assert browser.run("return window.hacked === undefined")


def test_several_images_are_remembered(browser: Browser, site: str) -> None:
    opened(browser, site, IMAGES["crack"], IMAGES["pit"])
    explain(browser)
    first = heat(browser)
    browser.all(".take")[1].click()
    browser.until("return document.getElementById('title').textContent.startsWith('pit ')")
    assert not browser.one("#explained").is_displayed()
    explain(browser)
    assert [mark.get_attribute("aria-pressed") for mark in browser.all(".take")] == ["false", "true"]
    assert len(browser.all(".done")) == 2
    urls(browser)
    browser.all(".take")[0].click()
    browser.until("return document.getElementById('title').textContent.startsWith('crack ')")
    browser.until("return document.querySelectorAll('.layer').length > 0")
    assert np.array_equal(heat(browser), first)
    assert [url for url in urls(browser) if not url.startswith("blob:")] == [], "what is known is not asked again"
    browser.one("#files").send_keys("\n".join([str(IMAGES["stain"])] * 11))
    browser.until("return document.querySelectorAll('.take').length === 12")
    assert browser.all(".take")[0].get_attribute("title") == "pit.jpg", "the oldest went"


CAPTURE = """
    window.kept = [];
    URL.createObjectURL = (blob) => { window.kept.push(blob); return 'data:,'; };
    HTMLAnchorElement.prototype.click = function () { window.named = this.download; };
"""
READ = """
    const reader = new FileReader();
    reader.onload = () => arguments[0](reader.result);
    reader.readAsDataURL(window.kept.at(-1));
"""


def test_what_can_be_kept(browser: Browser, site: str, tmp_path: Path) -> None:
    image = tmp_path / "part 7 (left).v2.jpg"
    shutil.copy(IMAGES["crack"], image)
    opened(browser, site, image)
    choose(browser, "target", "2")
    explain(browser)
    browser.run(CAPTURE)
    expected, predicted = answer(site, "crack", target=2)

    def kept(button: str) -> tuple[str, bytes]:
        count = browser.run("return window.kept.length")
        browser.one(f"#{button}").click()
        browser.until(f"return window.kept.length > {count}")
        coded = browser.driver.execute_async_script(READ)
        return browser.run("return window.named"), base64.b64decode(coded.split(",")[1])

    name, png = kept("png")
    assert name == "part-7-left-v2.sise.png"
    assert png == base64.b64decode(expected["overlay"])
    name, text = kept("json")
    assert name == "part-7-left-v2.sise.json"
    said = json.loads(text)
    assert said["file"] == image.name
    assert said["prediction"] == predicted
    for fact in ("target", "label", "regions", "passes", "bundle_hash", "parameters"):
        assert said["explanation"][fact] == expected[fact]
    assert not {"overlay", "saliency", "layer_maps"} & set(said["explanation"])
    name, npz = kept("npz")
    assert name == "part-7-left-v2.sise.npz"
    arrays = np.load(io.BytesIO(npz))
    assert {"saliency", "image_saliency", "metadata"} < set(arrays)
    saliency = expected["saliency"]
    map_ = np.frombuffer(base64.b64decode(saliency["data"]), "<f4").reshape(saliency["height"], saliency["width"])
    assert np.allclose(arrays["saliency"], map_, atol=1e-5)
    browser.until(DONE)
    browser.one("#tab-tree").click()
    browser.until("return document.querySelector('#tree iframe')")
    name, html = kept("html")
    assert name == "part-7-left-v2.sise.html"
    assert html.startswith(b"<!doctype html>")
    assert browser.complaints() == []


def test_a_file_that_the_browser_cannot_show(browser: Browser, site: str, tmp_path: Path) -> None:
    image = tmp_path / "part.tif"
    Image.open(IMAGES["scratch"]).save(image)
    opened(browser, site, image)
    assert browser.one("#unseen").is_displayed()
    explain(browser)
    assert not browser.one("#unseen").is_displayed()
    overlay = base64.b64encode(
        base64.b64decode(post(site, "explain", image.read_bytes())["explanations"][0]["overlay"])
    )
    assert browser.run("return document.getElementById('picture').src") == f"data:image/png;base64,{overlay.decode()}"
    assert heat(browser)[..., 3].max() == 0, "the overlay has the map in it already"
    browser.run("document.querySelectorAll('.layer')[3].click()")
    assert not browser.one("#picture").is_displayed()
    assert heat(browser)[..., 3].max() > 0


def test_the_keyboard(browser: Browser, site: str) -> None:
    opened(browser, site, IMAGES["pit"])
    browser.run("document.getElementById('files').focus()")
    for name in ("model", "target", "method", "most"):
        while browser.run("return document.activeElement.matches('.take, #files')"):
            browser.press(Keys.TAB)
        assert browser.run("return document.activeElement.id") == name
        if name != "most":
            browser.press(Keys.TAB)
    browser.press("4", Keys.ENTER)
    browser.until(EXPLAINED)
    assert facts(browser)["Passes"] == "4"
    assert browser.text("#said").startswith("pit.jpg: pit, ")
    browser.run("document.getElementById('tab-map').focus()")
    browser.press(Keys.ARROW_RIGHT)
    assert browser.run("return document.activeElement.id") == "tab-tree"
    browser.until("return document.querySelector('#tree iframe')")
    assert not browser.one("#panel-map").is_displayed()
    browser.press(Keys.ARROW_LEFT)
    assert browser.one("#panel-map").is_displayed()
    choices = browser.all(".bar")
    choices[1].send_keys(Keys.ENTER)
    chosen = browser.run("return document.getElementById('target').selectedOptions[0].textContent")
    assert chosen == choices[1].text.split("\n")[0]


def test_everything_to_operate_has_a_name(browser: Browser, site: str) -> None:
    opened(browser, site, IMAGES["pit"])
    explain(browser)
    nodes = browser.command("Accessibility.getFullAXTree")["nodes"]
    operable = {"button", "combobox", "slider", "checkbox", "radio", "spinbutton", "tab", "textbox", "link"}
    found = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node["ignored"]]
    named = [(role, name) for role, name in found if role in operable]
    assert len(named) > 20
    assert [role for role, name in named if not name.strip()] == []
    assert {"heading", "status", "tabpanel", "table"} <= {role for role, _ in found}


# Nothing that is read or pressed is cut off or lies outside.
OUTSIDE = """
    const out = (element) => {
      const { left, right, width } = element.getBoundingClientRect();
      return width > 0 && (left < 0 || right > innerWidth + 0.5);
    };
    return [...document.querySelectorAll('button, select, input, h1, h2, h3, p, dd, td, th, .frame')]
      .filter((element) => !element.closest('.layers, .scroll, .visually-hidden') && out(element))
      .map((element) => element.outerHTML.slice(0, 80));
"""


def test_it_fits(browser: Browser, site: str) -> None:
    opened(browser, site, IMAGES["crack"], IMAGES["pit"])
    explain(browser)
    browser.one("#tab-tree").click()
    browser.until("return document.querySelector('#tree iframe')")
    for width, dark in itertools.product((390, 1280), (False, True)):
        browser.look(width=width, dark=dark)
        for tab in ("map", "tree"):
            browser.one(f"#tab-{tab}").click()
            wide = "return [document.documentElement.scrollWidth, innerWidth]"
            assert browser.run(wide) == [width, width]
            assert browser.run(OUTSIDE) == []
            if tab == "map":
                frame = browser.run("return document.getElementById('frame').getBoundingClientRect().toJSON()")
                assert frame["width"] == pytest.approx(frame["height"], abs=1), "the image keeps its shape"
            else:
                inside = in_frame(browser, "return document.documentElement.scrollWidth")
                assert inside <= browser.run("return document.querySelector('#tree iframe').clientWidth")
