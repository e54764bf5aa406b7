"""One self-contained HTML document: the shell, the look and the safety that every page of Sightline shares.

A page is a file that works from a USB stick: it loads nothing, and its content security policy forbids it to. The
policy names the scripts by their hashes, so that text which slipped into the markup could not run either.

What a page's own styles can build on (``assets/document.css``): the custom properties ``--paper``, ``--surface``,
``--raised``, ``--line``, ``--ink``, ``--faint``, ``--accent``, ``--accent-soft``, ``--on-accent``, ``--warning``,
``--series-1`` to ``--series-6`` (the colours of Okabe and Ito, which colour-blind readers can tell apart),
``--radius``, ``--text-small``, ``--text``, ``--text-large``; and the classes ``page-head``, ``page-note``, ``panel``,
``button``, ``facts``, ``numbers``, ``visually-hidden``, ``no-print``.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from html import escape as escape
from pathlib import Path
from typing import Any

from sightline.errors import PageError

_ASSETS = Path(__file__).parent / "assets"

THEME_BUTTON = (
    '<button type="button" class="button no-print" data-theme-toggle aria-label="Light or dark"'
    ' title="Light or dark"><span aria-hidden="true">◐</span></button>'
)
"""A button that goes between light and dark; put it anywhere in the body. Until it is pressed the system decides."""


def asset(name: str) -> str:
    """The text of a style sheet or script that comes with this package, by its path under ``pages/``."""
    return (_ASSETS.parent / name).read_text(encoding="utf-8")


def document(
    title: str,
    body: str,
    *,
    data: Mapping[str, Any] | None = None,
    styles: Sequence[str] = (),
    scripts: Sequence[str] = (),
    sources: Mapping[str, Sequence[str]] | None = None,
) -> str:
    """Build one HTML document that needs nothing beside itself.

    Args:
        title: plain text; escaped here.
        body: markup. Whatever comes from a user in it must have gone through :func:`escape`.
        data: embedded as JSON; a script reads it with ``JSON.parse(document.getElementById("data").textContent)``. Any
            text may stand in it: it cannot end the element that holds it.
        styles: CSS, after that of every page.
        scripts: JavaScript, in order, run once the body is there.
        sources: what the content security policy allows beyond that, by directive: ``{"connect-src": ["'self'"]}``.

    Raises:
        PageError: the data holds NaN, infinity or what JSON does not know, or a style or script would end its element.
    """
    try:
        content = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise PageError(
            f"the data of the page cannot be written as JSON ({error}): pass plain finite values."
        ) from error
    looks = [asset("assets/document.css"), *styles]
    codes = [asset("assets/theme.js"), *scripts]
    for kind, texts in (("style", looks), ("script", codes)):
        # Inside these elements nothing can be escaped: what would end them, or hide their end, is refused.
        if any(mark in text.lower() for text in texts for mark in (f"</{kind}", "<!--")):
            raise PageError(f"a {kind} of the page holds '</{kind}' or '<!--', which would break the page: rewrite it.")
    directives: dict[str, list[str]] = {
        "default-src": ["'none'"],
        "img-src": ["data:"],
        "style-src": ["'unsafe-inline'"],
        "script-src": [source(code) for code in codes],
        "base-uri": ["'none'"],
        "form-action": ["'none'"],
    }
    for directive, allowed in (sources or {}).items():
        directives[directive] = [*directives.get(directive, ()), *allowed]
    policy = "; ".join(f"{directive} {' '.join(allowed)}" for directive, allowed in directives.items())
    lines = [
        "<!doctype html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{escape(policy, quote=True)}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        '<meta name="generator" content="Sightline">',
        '<link rel="icon" href="data:,">',  # or a browser asks a server for one
        f"<title>{escape(title)}</title>",
        *(f"<style>{look}</style>" for look in looks),
        "</head>",
        "<body>",
        body,
        *([f'<script type="application/json" id="data">{_inert(content)}</script>'] if data is not None else []),
        *(f"<script>{code}</script>" for code in codes),
        "</body>",
        "</html>",
    ]
    return "\n".join(lines) + "\n"


def _inert(content: str) -> str:
    """JSON without a character that HTML knows. Outside of strings JSON has none of these."""
    for character in "<>&\u2028\u2029":
        content = content.replace(character, f"\\u{ord(character):04x}")
    return content


def source(code: str) -> str:
    """What a content security policy calls a script that stands in the page: its hash."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()}'"
