"""Pictures of a saliency map. The colour map is inferno: even in lightness, so colour-blind readers lose nothing."""

from __future__ import annotations

import io
import math

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

_COLOURS = (
    "000004",
    "160b39",
    "420a68",
    "6a176e",
    "932667",
    "bc3754",
    "dd513a",
    "f37819",
    "fca50a",
    "f6d746",
    "fcffa4",
)
_INFERNO: npt.NDArray[np.float32] = np.array([tuple(bytes.fromhex(colour)) for colour in _COLOURS], np.float32)
_STRENGTH = 0.8
"""How much of the picture the highest saliency covers."""

_PAPER, _INK, _FAINT = (255, 255, 255), (22, 32, 42), (102, 114, 125)
_MIN_WIDTH = 320
"""A captioned picture is enlarged by a whole factor until it is this wide, so that its caption can be read."""
_ENLARGED = 2**20
"""Pixels that an enlarged picture may have: one that is narrow and long stands beside empty paper instead."""
_STRIP = 2**20
"""Pixels that are coloured at once: an overlay takes 50 bytes for each while it is made."""


def colours(saliency: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    """Values in [0, 1] -> their colours, ...×3 in [0, 255]."""
    position = np.clip(saliency, 0, 1).astype(np.float32) * (len(_INFERNO) - 1)
    lower = np.minimum(position.astype(np.intp), len(_INFERNO) - 2)
    share = (position - lower)[..., None].astype(np.float32)
    blended: npt.NDArray[np.float32] = _INFERNO[lower] * (1 - share) + _INFERNO[lower + 1] * share
    return blended


def overlay(picture: Image.Image, saliency: npt.NDArray[np.float32]) -> Image.Image:
    """The picture with the map over it: untouched where the map is low, the map's colours where it is high.

    Args:
        picture: RGB.
        saliency: in [0, 1], of the picture's height and width.
    """
    found = Image.new("RGB", picture.size)
    rows = max(1, _STRIP // picture.width)
    for top in range(0, picture.height, rows):
        bottom = min(top + rows, picture.height)
        pixels = np.asarray(picture.crop((0, top, picture.width, bottom)), np.float32)
        strip = saliency[top:bottom]
        cover = (_STRENGTH * np.minimum(2 * strip, 1))[..., None]
        blended = np.rint(pixels * (1 - cover) + colours(strip) * cover).astype(np.uint8)
        found.paste(Image.fromarray(blended), (0, top))
    return found


def captioned(picture: Image.Image, title: str, note: str) -> Image.Image:
    """The picture over a line with a title, a fainter note and the colours' scale; small pictures are enlarged."""
    factor = min(-(-_MIN_WIDTH // picture.width), math.isqrt(_ENLARGED // (picture.width * picture.height)))
    if factor > 1:
        picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    width = max(picture.width, _MIN_WIDTH)
    size = max(14, round(width * 0.045))
    font, small = ImageFont.load_default(size), ImageFont.load_default(max(11, round(size * 0.7)))
    margin = size // 2
    sheet = Image.new("RGB", (width, picture.height + 3 * size + margin), _PAPER)
    sheet.paste(picture, ((width - picture.width) // 2, 0))
    draw = ImageDraw.Draw(sheet)
    first, second = picture.height + 1.1 * size, picture.height + 2.5 * size
    draw.text((margin, first), _fitted(title, font, width - 2 * margin), _INK, font, anchor="lm")
    bar = (width // 4, max(6, size // 2))
    scale = Image.fromarray(np.rint(colours(np.linspace(0, 1, bar[0]))).astype(np.uint8)[None]).resize(bar)
    right = width - 2 * margin
    sheet.paste(scale, (right - bar[0], round(second - bar[1] / 2)))
    draw.text((right + margin, second), "1", _FAINT, small, anchor="rm")
    draw.text((right - bar[0] - margin // 2, second), "0", _FAINT, small, anchor="rm")
    room = right - bar[0] - 3 * margin
    draw.text((margin, second), _fitted(note, small, room), _FAINT, small, anchor="lm")
    return sheet


def _fitted(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, room: float) -> str:
    """The text, shortened with an ellipsis where it is longer than there is room for."""
    shown = text
    while len(shown) > 1 and font.getlength(shown) > room:
        shown = shown.rstrip("…")[:-1] + "…"
    return shown


def png(picture: Image.Image) -> bytes:
    """The picture as the content of a file."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()
