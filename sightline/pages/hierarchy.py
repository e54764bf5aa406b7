"""The page of a hierarchy: the decision taken apart layer by layer, to be clicked through."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from sightline.errors import PageError
from sightline.pages.document import THEME_BUTTON, asset, document, escape
from sightline.runtime.rendering import colours

KIND, SCHEMA = "sightline.hierarchy", 1

_PNG = "data:image/png;base64,"
_REQUIRED = ("label", "score", "image", "levels", "nodes", "edges", "settings", "provenance")
_SCHEME = re.compile(r"\s*([a-z][a-z0-9+.-]*:|//)", re.IGNORECASE)


def page(hierarchy: Mapping[str, Any]) -> str:
    """The HTML of one hierarchy: a single file, which loads nothing.

    Args:
        hierarchy: what :func:`sightline.decompose` writes as JSON (docs/hierarchy.md). ``cards``, where it is there,
            maps ``"<layer>:<channel>"`` to the relative address of a feature card.

    Raises:
        PageError: this is no such document, it has no decision or an edge to a unit that is not there, or it would have
            the page load something.
    """
    _check(hierarchy)
    cost = hierarchy["provenance"]
    label, score = str(hierarchy["label"]), hierarchy["score"]
    shown = f' <span class="score numbers">{score:.3f}</span>' if score is not None else ""
    made = (
        f"{len(hierarchy['nodes'])} units of {len(hierarchy['levels']) - 1} layers",
        f"{cost['passes']} passes in {cost['seconds']:.2f} s",
        f"bundle {str(cost['bundle'])[:12]} on {cost['engine']}",
        f"Sightline {cost['sightline']}",
    )
    body = asset("assets/hierarchy.html")
    for name, markup in (
        ("TITLE", f"<h1>{escape(label)}{shown}</h1>"),
        ("MADE", escape(" · ".join(made))),
        ("THEME", THEME_BUTTON),
    ):
        # In one go each, and the label's first: no later replacement looks into what a label may hold.
        body = body.replace(f"<!-- {name} -->", markup)
    return document(
        f"{label}, taken apart layer by layer",
        body,
        data={**hierarchy, "colours": colour_table()},
        styles=[asset("assets/hierarchy.css")],
        scripts=scripts(),
    )


def scripts() -> list[str]:
    """The scripts of every page of a hierarchy. A page that shows one in a frame must allow them, too."""
    return [
        asset("vendor/d3.min.js"),
        *(asset(f"assets/{name}.js") for name in ("heat", "graph", "tree", "hierarchy")),
    ]


def _check(hierarchy: Mapping[str, Any]) -> None:
    kind, schema = hierarchy.get("kind"), hierarchy.get("schema")
    if (kind, schema) != (KIND, SCHEMA):
        raise PageError(
            f"kind {kind!r}, schema {schema!r} is no hierarchy that this page shows: it takes {KIND} {SCHEMA}."
        )
    if missing := [name for name in _REQUIRED if name not in hierarchy]:
        raise PageError(f"the hierarchy lacks {', '.join(missing)}: write it again with 'sightline decompose'.")
    if not str(hierarchy["image"]["png"]).startswith(_PNG):
        raise PageError(f"the image of the hierarchy is no embedded PNG: it must start with {_PNG!r}.")
    names = {node["id"] for node in hierarchy["nodes"]}
    if sum(node["level"] == 0 for node in hierarchy["nodes"]) != 1:
        raise PageError("a hierarchy has exactly one decision, a node of level 0: this one has not.")
    if lost := [edge for edge in hierarchy["edges"] if not {edge["parent"], edge["child"]} <= names]:
        raise PageError(f"the edge {lost[0]['parent']} → {lost[0]['child']} leads to a unit that the hierarchy lacks.")
    for unit, address in hierarchy.get("cards", {}).items():
        if _SCHEME.match(str(address)):
            raise PageError(f"the card of {unit} is at {address!r}: only addresses relative to the page can be linked.")


def colour_table() -> str:
    """The colours of 0, 1/255, …, 1, six hexadecimal digits each."""
    table = np.rint(colours(np.linspace(0, 1, 256, dtype=np.float32))).astype(np.uint8)
    return table.tobytes().hex()
