"""What a client accepts: the ``Accept`` header against what there is."""

from __future__ import annotations

from collections.abc import Mapping


def preferred(accept: str | None, offers: Mapping[str, str], default: str) -> str:
    """The offer that a client likes best.

    Args:
        accept: the header, or None.
        offers: names by media type, e.g. ``{"image/png": "png"}``; of equals the first one wins.
        default: what is answered to a client that asks for nothing else, or for nothing that there is.
    """
    best, found = 0.0, default
    wishes = _wishes(accept or "")
    for kind, name in offers.items():
        quality = wishes.get(kind, 0.0)
        if quality > best:
            best, found = quality, name
    anything = max(wishes.get("*/*", 0.0), 0.0)
    return default if anything > best else found


def _wishes(accept: str) -> dict[str, float]:
    found = {}
    for wish in accept.lower().split(","):
        kind, *parameters = (part.strip() for part in wish.split(";"))
        quality = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                try:
                    quality = float(parameter[2:])
                except ValueError:
                    quality = 0.0
        found[kind] = quality if 0 <= quality <= 1 else 0.0
    return found
