"""The server's own page, at ``/``: an image in, the map of what decided out, in a browser."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from sightline.pages import hierarchy
from sightline.pages.document import THEME_BUTTON, asset, document, source

_ASSETS = Path(__file__).parent / "assets"
HEADERS = {
    "Content-Security-Policy": "frame-ancestors 'none'",  # which a page cannot say of itself
    "Cache-Control": "no-cache",
    "Referrer-Policy": "no-referrer",
}
"""What the page is sent with. The rest of its policy stands in it."""
_SCRIPTS = ("elements", "server", "intake", "stage", "report", "tree_frame", "page")


@cache
def page() -> str:
    """The HTML of the page. It holds nothing of any model: its scripts ask the server that it comes from.

    It loads nothing, and its content security policy lets it speak to its own origin only. A hierarchy is shown as the
    page that the server makes of it, in a sandboxed frame; a frame inherits the policy of the page around it, so the
    scripts of hierarchies are allowed here, by their hashes, like the page's own.
    """
    return document(
        "Sightline",
        _own("page.html").replace("<!-- THEME -->", THEME_BUTTON),
        data={"colours": hierarchy.colour_table()},
        styles=[_own("page.css")],
        scripts=[asset("assets/heat.js"), *(_own(f"{name}.js") for name in _SCRIPTS)],
        sources={
            "connect-src": ["'self'"],
            "img-src": ["blob:"],  # pictures that were chosen, before and after they are sent
            "script-src": [source(code) for code in hierarchy.scripts()],
        },
    )


def _own(name: str) -> str:
    return (_ASSETS / name).read_text(encoding="utf-8")
