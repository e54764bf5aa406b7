"""The page of an explained set: classes, scores, mean maps, what is out of line, what failed."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from sightline.dataset.rows import Failure
from sightline.dataset.summary import ClassSummary, Notable, Summary
from sightline.pages.document import THEME_BUTTON, asset, document, escape
from sightline.runtime.rendering import colours, overlay

_SIDE = 224
"""Longer side of a picture, in pixels."""
_SERIES = 6
"""Classes with a colour of their own in the histogram."""
_LISTED = 200
"""Failures and classes that are listed; the files have all."""
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 720, 240, 44, 52, 8

Pictures = Callable[[str], Image.Image | None]
"""The picture of a path; None where it is not to be had."""


def page(summary: Summary, name: str, pictures: Pictures) -> str:
    """The HTML: a single file, which loads nothing.

    Args:
        summary: what was found.
        name: of the set.
        pictures: to lay the maps over.
    """
    settings = summary.settings
    budget = "" if settings["max_passes"] is None else f", at most {settings['max_passes']} passes"
    failed = len(summary.failures)
    note = [
        _many(summary.rows, "explanation"),
        *([f"{_many(failed, 'image')} failed"] if failed else []),
        f"{settings['method']}{budget}",
        f"engine {settings['engine']}, {settings['precision']}",
        f"bundle {str(settings['bundle'])[:12]}",
    ]
    parts = [
        f'<header class="page-head"><div><h1>Explanations of {_text(name)}</h1>'
        f'<p class="page-note">{_text(" · ".join(note))}</p></div>{THEME_BUTTON}</header>',
        "<main>",
        _failures(summary.failures),
        _classes(summary),
        _scores(summary),
        _mean_maps(summary),
        _gallery("Out of line", _outlier_note(summary), summary.outliers, pictures, likeness=True),
        _gallery(
            "Lowest scores",
            "where the class explained scores lowest",
            summary.lowest,
            pictures,
            likeness=False,
        ),
        "</main>",
    ]
    return document(
        f"Explanations of {_printable(name)}",
        "\n".join(part for part in parts if part),
        styles=[asset("assets/evaluation.css"), asset("assets/explained-set.css")],
        scripts=[asset("assets/evaluation.js")],
    )


def _failures(failures: Sequence[Failure]) -> str:
    if not failures:
        return ""
    entries = "".join(f"<li><b>{_text(one.path)}</b> {_text(one.reason)}</li>" for one in failures[:_LISTED])
    more = f'<p class="page-note">and {len(failures) - _LISTED} more</p>' if len(failures) > _LISTED else ""
    return (
        f'<details class="panel failures"><summary>{_many(len(failures), "image")} could not be explained</summary>'
        f"<ul>{entries}</ul>{more}</details>"
    )


def _classes(summary: Summary) -> str:
    if not summary.classes:
        return ""
    heads = [
        ("Class", "ascending"),
        ("Images", "descending"),
        ("Share", "descending"),
        ("Mean score", "descending"),
        ("Lowest", "ascending"),
        ("Regions", "descending"),
        ("Passes", "descending"),
    ]
    head = "".join(
        f'<th scope="col" data-first="{first}"><button type="button">{title}</button></th>' for title, first in heads
    )
    rows = []
    for number, one in enumerate(summary.classes[:_LISTED]):
        share = one.count / summary.rows
        cells = [
            (one.count, f"{one.count}"),
            (share, f"{share:.1%}"),
            (one.score, f"{one.score:.3f}"),
            (one.lowest, f"{one.lowest:.3f}"),
            (one.regions, f"{one.regions:.1f}"),
            (one.passes, f"{one.passes:.0f}"),
        ]
        data = "".join(f'<td data-value="{value}">{shown}</td>' for value, shown in cells)
        swatch = f'<i class="swatch" style="{_colour(number)}"></i>'
        rows.append(f'<tr><th scope="row" data-value="{number}">{swatch}{_text(one.label)}</th>{data}</tr>')
    left = len(summary.classes) - _LISTED
    more = f'<p class="page-note">and {left} rarer classes</p>' if left > 0 else ""
    return (
        '<section><h2>Classes</h2><div class="scroll panel"><table class="numbers"><caption class="visually-hidden">'
        f"Every class that was explained; the headings sort</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>{more}</section>"
    )


def _scores(summary: Summary) -> str:
    """A histogram, the most frequent classes on top of each other."""
    if not summary.rows:
        return ""
    shown = list(summary.classes[:_SERIES])
    stacks = np.array([one.histogram for one in shown])
    rest = np.sum([one.histogram for one in summary.classes[_SERIES:]], axis=0, dtype=np.int64)
    if len(summary.classes) > _SERIES:
        stacks = np.vstack([stacks, rest])
    totals = stacks.sum(axis=0)
    across, down = (_WIDTH - _LEFT - 8) / stacks.shape[1], _HEIGHT - _TOP - _BOTTOM
    highest = int(totals.max())
    marks = []
    for count in sorted({0, highest // 2, highest}):
        y = _TOP + down * (1 - count / highest)
        marks.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - 8}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text x="{_LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{count}</text>'
        )
    for place in range(0, stacks.shape[1] + 1, stacks.shape[1] // 4):
        anchor = "start" if place == 0 else "end" if place == stacks.shape[1] else "middle"
        marks.append(
            f'<text x="{_LEFT + across * place:.1f}" y="{_HEIGHT - 30}" text-anchor="{anchor}">'
            f"{summary.edges[place]:.3g}</text>"
        )
    marks.append(f'<text x="{(_LEFT + _WIDTH) / 2}" y="{_HEIGHT - 6}" text-anchor="middle">score</text>')
    for column in range(stacks.shape[1]):
        top = _TOP + float(down)
        span = f"{summary.edges[column]:.3g} to {summary.edges[column + 1]:.3g}"
        for number, count in enumerate(stacks[:, column].tolist()):
            if not count:
                continue
            height = down * count / highest
            top -= height
            label = shown[number].label if number < len(shown) else "other classes"
            marks.append(
                f'<rect data-class="{number}" data-count="{count}" style="{_colour(number)}" '
                f'x="{_LEFT + across * column + 1:.1f}" y="{top:.2f}" width="{across - 2:.1f}" height="{height:.2f}">'
                f"<title>{_text(label)}, {span}: {count}</title></rect>"
            )
    names = [one.label for one in shown] + (["other classes"] if len(summary.classes) > _SERIES else [])
    legend = "".join(
        f'<li><i class="swatch" style="{_colour(number)}"></i>{_text(label)}</li>' for number, label in enumerate(names)
    )
    return (
        f'<section><h2>Scores</h2><figure class="panel scores"><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="How many explanations have which score, by class">{"".join(marks)}</svg><ul>{legend}</ul>'
        "</figure></section>"
    )


def _mean_maps(summary: Summary) -> str:
    tiles = [_mean_tile(one) for one in summary.classes if one.mean_map is not None]
    if not tiles:
        return ""
    flat = ""
    if summary.flat:
        flat = f" {_many(summary.flat, 'map')} {'is' if summary.flat == 1 else 'are'} all zero."
    return (
        f'<section><h2>Mean maps</h2><div class="mosaic">{"".join(tiles)}</div><p class="page-note">Where the maps of '
        f"a class lie on average; the brightest is the highest mean, written below.{flat}</p></section>"
    )


def _mean_tile(one: ClassSummary) -> str:
    assert one.mean_map is not None
    highest = float(one.mean_map.max())
    scaled = (one.mean_map / highest if highest > 0 else one.mean_map).astype(np.float32)
    picture = _heat(scaled, _fitted(scaled.shape[1], scaled.shape[0]))
    return _tile(
        picture, one.label, f"{_many(one.count, 'image')}, up to {highest:.2f}", f"the mean map of {one.label}"
    )


def _outlier_note(summary: Summary) -> str:
    return (
        "the maps least like the mean of the other maps of their class, by Pearson's r: a new kind of defect, a part "
        "out of place, a camera that slipped, or a decision for the wrong reason"
    )


def _gallery(title: str, note: str, notables: Sequence[Notable], pictures: Pictures, *, likeness: bool) -> str:
    if not notables:
        return ""
    tiles = []
    for notable in notables:
        row = notable.row
        value = f"{row.label} {row.score:.3f}"
        if likeness:
            value += f", r {notable.likeness:.2f}"
        picture = pictures(row.path)
        tiles.append(_tile(_shown(picture, row.saliency, row.size), row.path, value, f"{row.path} and its map"))
    return (
        f'<section><div class="bar"><h2>{title}</h2><span class="page-note">{note}</span></div>'
        f'<div class="mosaic">{"".join(tiles)}</div></section>'
    )


def _shown(picture: Image.Image | None, saliency: npt.NDArray[np.float32] | None, size: tuple[int, int]) -> Image.Image:
    """A small picture under its map; either may be missing."""
    fitted = _fitted(*size)
    if picture is None:
        return Image.new("RGB", fitted) if saliency is None else _heat(saliency, fitted)
    picture = picture.resize(fitted, Image.Resampling.LANCZOS)
    return picture if saliency is None else overlay(picture, _stretched(saliency, fitted))


def _heat(saliency: npt.NDArray[np.float32], size: tuple[int, int]) -> Image.Image:
    return Image.fromarray(np.rint(colours(_stretched(saliency, size))).astype(np.uint8))


def _stretched(saliency: npt.NDArray[np.float32], size: tuple[int, int]) -> npt.NDArray[np.float32]:
    stretched = Image.fromarray(saliency).resize(size, Image.Resampling.BILINEAR)
    return np.clip(np.asarray(stretched, np.float32), 0, 1)


def _fitted(width: int, height: int) -> tuple[int, int]:
    """The size of a tile's picture: its proportions, but nothing thinner than a tenth."""
    scale = _SIDE / max(width, height)
    return max(_SIDE // 10, round(width * scale)), max(_SIDE // 10, round(height * scale))


def _tile(picture: Image.Image, title: str, value: str, about: str) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=82, optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode()
    return (
        f'<figure><div class="frame"><img src="data:image/jpeg;base64,{data}" width="{picture.width}" '
        f'height="{picture.height}" alt="{_text(about)}" loading="lazy" decoding="async"></div>'
        f"<figcaption>{_text(title)} <b>{_text(value)}</b></figcaption></figure>"
    )


def _colour(number: int) -> str:
    return f"--series:var(--series-{number + 1})" if number < _SERIES else "--series:var(--faint)"


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def _text(text: str) -> str:
    return escape(_printable(text))


def _printable(text: str) -> str:
    """Text without what is no UTF-8, which a path may hold."""
    return text.encode("utf-8", "backslashreplace").decode()
