"""The page of feature cards: per channel, the crops that excite it most."""

from __future__ import annotations

import base64
import io
import json
import os
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

from sightline.errors import PageError
from sightline.pages.document import THEME_BUTTON, asset, document, escape
from sightline.pages.hierarchy import colour_table
from sightline.runtime.features import Excitation, FeatureCard, FeatureCards

KIND, SCHEMA = "sightline.features", 1
FINEST = 64
"""Maps with a longer side are made coarser on the page."""
_QUALITY = 88  # of the JPEGs


def page(cards: FeatureCards) -> str:
    """The HTML of feature cards: a single file, which loads nothing.

    Raises:
        ImageError: an image of the cards is no longer there.
    """
    names = _names(cards)
    layers = dict.fromkeys(card.layer for card in cards.cards)
    title = f"What {', '.join(layers)} look{'s' * (len(layers) == 1)} for"
    looked = f"{cards.images} image{'s' * (cards.images != 1)} looked at"
    skipped = [f"{len(cards.skipped)} could not be read"] if cards.skipped else []
    made = (
        f"{len(cards.cards)} channels of {', '.join(layers)}",
        looked,
        *skipped,
        f"bundle {cards.bundle_hash[:12]} on {cards.engine}",
    )
    body = asset("assets/features.html")
    for name, markup in (
        ("TITLE", f"<h1>{escape(title)}</h1>"),
        ("MADE", escape(" · ".join(made))),
        ("THEME", THEME_BUTTON),
        ("CARDS", "\n".join(map(_article, cards.cards))),
    ):
        head, _, tail = body.partition(f"<!-- {name} -->")
        body = head + markup + tail
    return document(
        title,
        body,
        data={
            "schema": SCHEMA,
            "kind": KIND,
            "size": [cards.input.width, cards.input.height],
            "images": [{"name": name, "jpeg": _jpeg(cards, path)} for path, name in names.items()],
            "cards": [_card(card, list(names)) for card in cards.cards],
            "colours": colour_table(),
        },
        styles=[asset("assets/features.css")],
        scripts=[asset("assets/heat.js"), asset("assets/features.js")],
    )


def anchor(layer: str, channel: int) -> str:
    """The id of a channel's card on the page; in an address it stands quoted after the #."""
    return f"{layer}:{channel}"


def links(cards: Path, beside: Path) -> dict[str, str]:
    """The addresses of the cards on a page, for the ``cards`` of a hierarchy: ``"<layer>:<channel>"`` to address.

    Args:
        cards: the page, as written from :func:`page`.
        beside: the page that will link to it; the addresses are relative to its folder.

    Raises:
        PageError: there is no such page.
    """
    try:
        text = cards.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PageError(f"{cards} cannot be read ({error}): make it with 'sightline features'.") from error
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    data: Any = json.loads(found[1]) if found else {}
    if data.get("kind") != KIND:
        raise PageError(f"{cards} is no page of feature cards: make it with 'sightline features'.")
    try:
        address = Path(os.path.relpath(cards.resolve(), beside.resolve().parent)).as_posix()
    except ValueError as error:  # another drive
        raise PageError(f"{beside} cannot link to {cards} ({error}): write both to one drive.") from error
    return {
        anchor(
            card["layer"], card["channel"]
        ): f"{quote(f'./{address}')}#{quote(anchor(card['layer'], card['channel']))}"
        for card in data["cards"]
    }


def _names(cards: FeatureCards) -> dict[Path, str]:
    """The images on the cards and what they are called there: their path below the folder they have in common."""
    paths = sorted({excitation.image for card in cards.cards for excitation in card.excitations})
    folders = [path.absolute().parent for path in paths]
    common = Path(os.path.commonpath(folders)) if folders else Path()
    return {path: path.absolute().relative_to(common).as_posix() for path in paths}


def _article(card: FeatureCard) -> str:
    name = f"{card.layer} · {card.channel}"
    facts = [f"{100 * card.share:.1f} % of the decisions", f"active in {100 * card.active:.0f} %"]
    labels = Counter(excitation.label for excitation in card.excitations).most_common()
    said = ", ".join(f"{label} {count}" for label, count in labels) or "nothing in these images excites it"
    return (
        f'<article class="card" id="{escape(anchor(card.layer, card.channel), quote=True)}">'
        f'<h2>{escape(name)}</h2><p class="page-note numbers">{escape(" · ".join(facts))}</p>'
        f'<div class="crops"></div><p class="labels">{escape(said)}</p></article>'
    )


def _card(card: FeatureCard, paths: list[Path]) -> Mapping[str, Any]:
    return {
        "layer": card.layer,
        "channel": card.channel,
        "excitations": [_excitation(excitation, paths) for excitation in card.excitations],
    }


def _excitation(excitation: Excitation, paths: list[Path]) -> Mapping[str, Any]:
    small = _coarser(excitation.activation)
    height, width = small.shape
    return {
        "image": paths.index(excitation.image),
        "label": excitation.label,
        "score": excitation.score,
        "value": excitation.value,
        "position": list(excitation.unit.position),
        "box": list(excitation.box),
        "map": {
            "height": height,
            "width": width,
            "data": base64.b64encode(small.tobytes()).decode(),
            "max": excitation.value,
        },
    }


def _coarser(map_: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The maxima of blocks, so that no side is longer than ``FINEST`` and no peak is lost."""
    height, width = map_.shape
    factor = -(-max(height, width) // FINEST)
    padded = np.pad(map_, ((0, -height % factor), (0, -width % factor)))
    tiles = padded.reshape(padded.shape[0] // factor, factor, padded.shape[1] // factor, factor)
    return np.ascontiguousarray(tiles.max(axis=(1, 3)))


def _jpeg(cards: FeatureCards, path: Path) -> str:
    buffer = io.BytesIO()
    cards.picture(path).save(buffer, "JPEG", quality=_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
