"""What ``sightline demo`` shows: the image, the map over it, the true defect, side by side with a caption."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

_PAPER, _INK, _FAINT = "#ffffff", "#16202a", "#66727d"
_OUTLINE, _HALO = "#ffffff", "#000000"
_GAP = 10


def panel(
    image: Image.Image, overlay: Image.Image, truth: Image.Image, *, title: str, note: str, side: int = 300
) -> Image.Image:
    """Three squares over a line of text: the image, the map over it, the image with the true defect outlined.

    Args:
        image: what the camera saw.
        overlay: the same with the map over it.
        truth: mode L, white where the defect is.
        title: set in the ink's colour at the left.
        note: set fainter at the right.
        side: of a square, in pixels.
    """
    squares = (
        _fitted(image, side),
        _fitted(overlay, side),
        _outlined(_fitted(image, side), truth),
    )
    size = round(side * 0.062)
    sheet = Image.new("RGB", (3 * side + 2 * _GAP, side + 2 * size), _PAPER)
    for number, square in enumerate(squares):
        sheet.paste(square, (number * (side + _GAP), 0))
    draw = ImageDraw.Draw(sheet)
    middle = side + size * 1.05
    draw.text((0, middle), title, _INK, ImageFont.load_default(size), anchor="lm")
    draw.text((sheet.width, middle), note, _FAINT, ImageFont.load_default(size), anchor="rm")
    return sheet


def contact_sheet(panels: Sequence[Image.Image], *, heading: str, columns: int = 2) -> Image.Image:
    """Panels of one size, ``columns`` in a row, under a heading."""
    width, height = panels[0].size
    margin = 3 * _GAP
    rows = -(-len(panels) // columns)
    top = 2 * margin + 2 * _GAP
    sheet = Image.new(
        "RGB",
        (columns * width + (columns + 1) * margin, top + rows * height + (rows - 1) * _GAP + margin // 2),
        _PAPER,
    )
    ImageDraw.Draw(sheet).text((margin, top / 2), heading, _INK, ImageFont.load_default(2.4 * _GAP), anchor="lm")
    for number, picture in enumerate(panels):
        row, column = divmod(number, columns)
        sheet.paste(picture, (margin + column * (width + margin), top + row * (height + _GAP)))
    return sheet


def framed(picture: Image.Image) -> Image.Image:
    """The picture with a margin of paper around it."""
    sheet = Image.new("RGB", (picture.width + 2 * _GAP, picture.height + 2 * _GAP), _PAPER)
    sheet.paste(picture, (_GAP, _GAP))
    return sheet


def _fitted(image: Image.Image, side: int) -> Image.Image:
    return image.convert("RGB").resize((side, side), Image.Resampling.LANCZOS)


def _outlined(image: Image.Image, truth: Image.Image) -> Image.Image:
    """The image with a light line and its dark halo just outside of the truth, so that it shows on any metal."""
    # Drawn at twice the size and reduced, which smooths the line.
    large = truth.resize((2 * image.width, 2 * image.height), Image.Resampling.BICUBIC)
    inside = large.filter(ImageFilter.GaussianBlur(2)).point(lambda value: 255 if value > 127 else 0)
    near, line, halo = (inside.filter(ImageFilter.MaxFilter(width)) for width in (5, 11, 17))
    for colour, outer in ((_HALO, halo), (_OUTLINE, line)):
        image.paste(colour, mask=ImageChops.subtract(outer, near).resize(image.size, Image.Resampling.BOX))
    return image
