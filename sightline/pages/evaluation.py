"""The page of an evaluation: the table, the curves, and the maps of all methods side by side."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from sightline.metrics.catalogue import METRICS
from sightline.metrics.summary import MethodSummary, Summary
from sightline.pages.curves import section, stroke
from sightline.pages.document import THEME_BUTTON, asset, document, escape
from sightline.runtime.rendering import overlay

_SIDE = 224
"""Longer side of a picture in the gallery, in pixels."""
_ACROSS = 8
"""The most pictures beside each other."""


@dataclass(frozen=True, eq=False)
class Map:
    """The map of one method on one image."""

    method: str
    saliency: npt.NDArray[np.uint8]
    """H×W, 255 for 1."""
    label: str
    """The class explained."""
    score: float
    """p_c."""
    values: Mapping[str, float | None]
    """By metric."""


@dataclass(frozen=True, eq=False)
class Shown:
    """One image of the gallery."""

    name: str
    picture: Image.Image
    label: str | None
    """The annotated class."""
    region: npt.NDArray[np.bool_] | None
    """The true region on a grid that covers the picture: outlined."""
    maps: Sequence[Map]


def page(summary: Summary, setting: Mapping[str, Any], gallery: Iterable[Shown]) -> str:
    """The HTML: a single file, which loads nothing.

    Args:
        summary: what was found.
        setting: what was evaluated: ``bundle``, ``bundle_hash``, ``annotations``, ``target``, ``steps``, ``engine``,
            ``precision``, ``seed``.
        gallery: the images to show, drawn one by one.
    """
    cards = [_card(shown) for shown in gallery]
    count = len(summary.images)
    note = [
        f"{count} image{'s' * (count != 1)}",
        *([f"{summary.located} with a true region"] if setting["annotations"] else []),
        "the annotated class explained"
        if setting["annotations"] and setting["target"] == "true"
        else "the predicted class explained",
        f"engine {setting['engine']}, {setting['precision']}",
        f"bundle {str(setting['bundle_hash'])[:12]}",
    ]
    parts = [
        '<header class="page-head"><div>'
        f"<h1>Evaluation of {escape(str(setting['bundle']))}</h1>"
        f'<p class="page-note">{escape(" · ".join(note))}</p></div>{THEME_BUTTON}</header>',
        "<main>",
        _failures(summary),
        _table(summary),
        section(summary),
        _gallery(cards, count),
        _glossary(summary, setting),
        "</main>",
    ]
    return document(
        f"Evaluation of {setting['bundle']}",
        "\n".join(part for part in parts if part),
        styles=[asset("assets/evaluation.css")],
        scripts=[asset("assets/evaluation.js")],
    )


def _failures(summary: Summary) -> str:
    if not summary.failures:
        return ""
    entries = "".join(f"<li><b>{escape(name)}</b> {escape(reason)}</li>" for name, reason in summary.failures.items())
    count = len(summary.failures)
    return (
        f'<details class="panel failures"><summary>{count} image{"s" * (count != 1)} could not be evaluated and '
        f"{'is' if count == 1 else 'are'} left out</summary><ul>{entries}</ul></details>"
    )


def _table(summary: Summary) -> str:
    heads = [("Method", "text", "")]
    heads += [
        (
            METRICS[name].title + (" %" if METRICS[name].percent else ""),
            "number",
            "↑" if METRICS[name].higher_is_better else "↓",
        )
        for name in summary.metrics
    ]
    heads += [("Passes", "number", "↓"), ("s / image", "number", "↓")]
    head = "".join(
        f'<th scope="col" class="{kind}" data-first="{"descending" if arrow == "↑" else "ascending"}">'
        f'<button type="button">{escape(title)}<span class="arrow">{arrow}</span></button></th>'
        for title, kind, arrow in heads
    )
    spans = {name: _span(summary, name) for name in summary.metrics}
    best = {name: summary.best(name) for name in summary.metrics}
    rows = []
    for number, method in enumerate(summary.methods):
        cells = [
            f'<th scope="row" data-value="{number}"><i class="swatch" style="{stroke(number)}"></i>'
            f"{_breakable(method.label)}</th>"
        ]
        cells += [_cell(summary, method, name, spans[name], best[name] == method.label) for name in summary.metrics]
        cells += [
            f'<td data-value="{method.passes}">{method.passes:.0f}</td>',
            f'<td data-value="{method.seconds}">{method.seconds:.3g}</td>',
        ]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    compared = ""
    if len(summary.methods) > 1:
        first = escape(summary.methods[0].label)
        compared = (
            f' <span class="verdict better">▲</span> better, <span class="verdict worse">▼</span> worse than {first}: '
            "the 95 % interval of the difference, paired by image, leaves out 0."
        )
    return (
        '<section><div class="scroll panel"><table class="numbers"><caption class="visually-hidden">Every method and '
        f"metric; the headings sort</caption><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
        f'<p class="page-note">Means over the images, with 95 % bootstrap intervals.{compared} The best mean is '
        "highlighted.</p></section>"
    )


def _cell(summary: Summary, method: MethodSummary, name: str, span: tuple[float, float], best: bool) -> str:
    estimate, metric = method.estimates.get(name), METRICS[name]
    if estimate is None:
        return '<td class="number">–</td>'
    digits = 1 if metric.percent else 3
    mean, low, high = (f"{metric.shown(value):.{digits}f}" for value in (estimate.mean, estimate.low, estimate.high))
    verdict = method.verdict(name)
    sign = ""
    if verdict:
        difference = method.differences[name]
        values = [f"{metric.shown(value):+.{digits}f}" for value in (difference.mean, difference.low, difference.high)]
        kind, symbol = ("better", "▲") if verdict > 0 else ("worse", "▼")
        about = f"{kind} than {summary.methods[0].label}: {values[0]} ({values[1]} to {values[2]})"
        sign = f'<span class="verdict {kind}" title="{escape(about)}">{symbol}</span>'
    begin, end, at = (
        100 * (value - span[0]) / (span[1] - span[0]) for value in (estimate.low, estimate.high, estimate.mean)
    )
    return (
        f'<td class="number{" best" if best else ""}" data-value="{estimate.mean}">'
        f'<span class="mean">{sign}{mean}</span>'
        f'<span class="interval">{low} – {high}</span>'
        f'<span class="range" aria-hidden="true"><i style="left:{begin:.1f}%;width:{max(end - begin, 1):.1f}%"></i>'
        f'<b style="left:{at:.1f}%"></b></span></td>'
    )


def _span(summary: Summary, name: str) -> tuple[float, float]:
    """From the lowest to the highest end of a metric's intervals, a little wider."""
    estimates = [method.estimates[name] for method in summary.methods if name in method.estimates]
    low, high = min(estimate.low for estimate in estimates), max(estimate.high for estimate in estimates)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _gallery(cards: Sequence[str], count: int) -> str:
    if not cards:
        return ""
    which = "all images" if len(cards) == count else f"{len(cards)} of {count} images, spread evenly"
    return (
        f'<section><div class="bar"><h2>Maps</h2><span class="page-note">{which}</span>'
        '<label class="no-print"><input type="checkbox" id="outlines" checked> outline the true region</label></div>'
        f"{''.join(cards)}</section>"
    )


def _card(shown: Shown) -> str:
    picture = shown.picture.copy()
    picture.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    outline = "" if shown.region is None else _outline(shown.region)
    first = shown.maps[0]
    about = f"explained: {first.label}, {first.score:.3f}"
    if shown.label is not None and shown.label != first.label:
        about += f" (in truth {shown.label})"
    rows = -(-(1 + len(shown.maps)) // _ACROSS)
    columns = -(-(1 + len(shown.maps)) // rows)
    figures = [_tile(picture, outline, "image", "", f"{shown.name}")]
    for map in shown.maps:
        saliency = Image.fromarray(map.saliency).resize(picture.size, Image.Resampling.BILINEAR)
        tile = overlay(picture, np.asarray(saliency, np.float32) / np.float32(255))
        key = next((name for name in METRICS if map.values.get(name) is not None), None)
        value = ""
        if key is not None and (number := map.values[key]) is not None:
            metric = METRICS[key]
            value = f"{metric.title} {metric.shown(number):.{1 if metric.percent else 3}f}"
        figures.append(_tile(tile, outline, map.method, value, f"{shown.name}, the map of {map.method}"))
    return (
        f'<article class="panel shot"><header><h3>{escape(shown.name)}</h3>'
        f'<span class="page-note">{escape(about)}</span></header>'
        f'<div class="tiles" style="--columns:{columns}">{"".join(figures)}</div></article>'
    )


def _tile(picture: Image.Image, outline: str, title: str, value: str, about: str) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=82, optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode()
    return (
        f'<figure><div class="frame"><img src="data:image/jpeg;base64,{data}" width="{picture.width}" '
        f'height="{picture.height}" alt="{escape(about)}" loading="lazy" decoding="async">{outline}</div>'
        f"<figcaption>{_breakable(title)}{f' <b>{escape(value)}</b>' if value else ''}</figcaption></figure>"
    )


def _breakable(label: str) -> str:
    """A method's name that may go on in the next line before a parameter or a value."""
    return escape(label).replace(":", "<wbr>:").replace("=", "=<wbr>")


def _outline(region: npt.NDArray[np.bool_]) -> str:
    """The edges of a region as an SVG that covers its picture."""
    height, width = region.shape
    inside = np.pad(region, 1).astype(np.int8)
    steps = []
    for row, columns in enumerate(np.diff(inside, axis=0)[:, 1:-1]):
        steps += [f"M{start} {row}H{end}" for start, end in _runs(columns != 0)]
    for column, rows in enumerate(np.diff(inside, axis=1)[1:-1].T):
        steps += [f"M{column} {start}V{end}" for start, end in _runs(rows != 0)]
    path = "".join(steps)
    return (
        f'<svg class="outline" viewBox="0 0 {width} {height}" preserveAspectRatio="none" aria-hidden="true">'
        f'<path class="halo" d="{path}"/><path d="{path}"/></svg>'
    )


def _runs(flags: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.pad(flags.astype(np.int8), 1))).tolist()
    return list(zip(edges[::2], edges[1::2], strict=True))


def _glossary(summary: Summary, setting: Mapping[str, Any]) -> str:
    entries = "".join(
        f"<dt>{METRICS[name].title}</dt><dd>{escape(METRICS[name].meaning)}</dd>" for name in summary.metrics
    )
    return (
        f'<section class="glossary"><h2>What the numbers say</h2><dl>{entries}<dt>Passes</dt><dd>masked images scored '
        "per explanation, mean</dd><dt>s / image</dt><dd>wall time of an explanation, median</dd></dl>"
        f'<p class="page-note">Deletion and insertion in {setting["steps"]} steps; bootstrap seed {setting["seed"]}.'
        "</p></section>"
    )
