"""The document that every page is: safe against what stands in it, and complete without a network."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from sightline.errors import PageError, SaveError
from sightline.pages import document as module
from sightline.pages.document import document, escape
from sightline.runtime.saving import save
from tests.pages.browser import Browser

HOSTILE = '</script><img src=x onerror="window.hacked=1"><!-- & \u2028 </title></style>'


class Elements(HTMLParser):
    """What a parser makes of the text, as a browser does."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inside: dict[str, list[str]] = {}
        self.open = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        self.open = tag
        self.inside.setdefault(tag, []).append("")

    def handle_endtag(self, tag: str) -> None:
        self.open = ""

    def handle_data(self, data: str) -> None:
        if self.open:
            self.inside[self.open][-1] += data


def test_hostile_text_stays_text() -> None:
    page = Elements(document(HOSTILE, f"<p>{escape(HOSTILE)}</p>", data={"label": HOSTILE}))
    assert "img" not in [tag for tag, _ in page.tags]
    assert page.inside["title"] == [HOSTILE]
    assert page.inside["p"] == [HOSTILE]
    (data,) = (text for text, (_, given) in zip(page.inside["script"], scripts(page), strict=True) if given.get("id"))
    assert json.loads(data) == {"label": HOSTILE}


def scripts(page: Elements) -> list[tuple[str, dict[str, str | None]]]:
    return [(tag, given) for tag, given in page.tags if tag == "script"]


def test_only_the_scripts_of_the_page_may_run_and_nothing_may_be_loaded() -> None:
    page = Elements(document("page", "<p>text</p>", data={}, scripts=["const one = 'ü';", "two();"]))
    policy = next(given["content"] or "" for tag, given in page.tags if given.get("http-equiv"))
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    assert not re.search(r"https?:|\*|unsafe", rules["script-src"])
    codes = [text for text, (_, given) in zip(page.inside["script"], scripts(page), strict=True) if not given]
    hashes = {f"'sha256-{base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()}'" for code in codes}
    assert len(codes) == 3
    assert hashes == set(rules["script-src"].split())
    assert not [given for _, given in page.tags if given.get("src")]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object()])
def test_data_that_json_does_not_know(value: object) -> None:
    with pytest.raises(PageError, match="JSON"):
        document("page", "", data={"value": value})


@pytest.mark.parametrize("text", ["</SCRIPT>", "</style >", "<!-- "])
def test_code_that_would_end_its_element(text: str) -> None:
    with pytest.raises(PageError, match="rewrite"):
        document("page", "", scripts=[text], styles=[text])


def test_saving_is_whole_or_not_at_all(tmp_path: Path) -> None:
    save(tmp_path / "page.html", "<p>ü</p>")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == "<p>ü</p>"
    (tmp_path / "folder").mkdir()
    with pytest.raises(SaveError, match="folder"):
        save(tmp_path / "folder", "<p>")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["folder", "page.html"]


def test_the_library_is_the_one_that_is_documented() -> None:
    folder = Path(module.__file__).parent / "vendor"
    said = re.findall(r"SHA-256: `([0-9a-f]{64})`", (folder / "README.md").read_text())
    assert said == [hashlib.sha256((folder / "d3.min.js").read_bytes()).hexdigest()]
    licence = (folder / "LICENSE").read_text()
    packages = re.findall(r"^\| (d3-\w+) \|", (folder / "README.md").read_text(), re.MULTILINE)
    assert len(packages) == 10
    assert all(package in licence for package in packages)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_text_can_be_read(browser: Browser, tmp_path: Path, dark: bool) -> None:
    """Contrast of at least 4.5 (WCAG 2.2, 1.4.3), and 3 for what marks a state."""
    page = tmp_path / "page.html"
    save(page, document("page", "<p>text</p>", scripts=["document.documentElement.dataset.ready = '';"]))
    browser.open(page, dark=dark)
    for ground in ("paper", "surface", "raised"):
        for text, least in (("ink", 7), ("faint", 4.5), ("accent", 4.5), ("warning", 4.5)):
            assert contrast(colour(browser, text), colour(browser, ground)) >= least, f"{text} on {ground}"
        for number in (1, 2):  # lines of a chart
            assert contrast(colour(browser, f"series-{number}"), colour(browser, ground)) >= 3
    assert contrast(colour(browser, "on-accent"), colour(browser, "accent")) >= 4.5
    assert browser.complaints() == []


def colour(browser: Browser, name: str) -> tuple[float, ...]:
    script = "document.body.style.color = `var(--${arguments[0]})`; return getComputedStyle(document.body).color"
    return tuple(map(float, re.findall(r"[\d.]+", browser.run(script, name))[:3]))


def contrast(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    def luminance(colour: tuple[float, ...]) -> float:
        linear = [c / 12.92 if (c := v / 255) <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for v in colour]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_the_theme_follows_the_system_until_the_reader_chooses(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    ready = "document.documentElement.dataset.ready = '';"
    save(page, document("page", module.THEME_BUTTON, scripts=[ready]))
    grounds = {}
    for dark in (False, True):
        browser.open(page, dark=dark)
        grounds[dark] = browser.style("body", "backgroundColor")
    assert grounds[False] != grounds[True]
    browser.one("[data-theme-toggle]").click()
    assert browser.style("body", "backgroundColor") == grounds[False]
    browser.driver.refresh()
    assert browser.style("body", "backgroundColor") == grounds[False], "the choice is kept"
    browser.one("[data-theme-toggle]").click()
    assert browser.style("body", "backgroundColor") == grounds[True]
    browser.command("Emulation.setEmulatedMedia", media="print")
    assert browser.style("body", "backgroundColor") == grounds[False], "ink on paper"
    browser.command("Emulation.setEmulatedMedia", media="")
    browser.run("localStorage.clear()")
