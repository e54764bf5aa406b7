"""Deletion and insertion curves as figures of a page."""

from __future__ import annotations

from sightline.metrics.catalogue import METRICS
from sightline.metrics.summary import CURVES, Summary
from sightline.pages.document import escape

_COLOURS = 6
_DASHES = ("", "6 3", "2 3", "8 3 2 3")
"""One for every round through the colours, so that lines of one colour differ."""
_WIDTH, _HEIGHT = 460, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 34, 8, 10, 30


def section(summary: Summary) -> str:
    """The part of the page with both figures; empty where no curve was measured."""
    figures = [_figure(summary, name) for name in CURVES if any(name in method.curves for method in summary.methods)]
    if not figures:
        return ""
    return (
        f'<section><h2>Curves</h2><div class="curves">{"".join(figures)}</div><p class="page-note">The score of the '
        "class explained, mean over the images. A method is better the faster its deletion curve falls, and the faster "
        "its insertion curve rises.</p></section>"
    )


def _figure(summary: Summary, name: str) -> str:
    metric = METRICS[name]
    across, down = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    lines = []
    for share in (0, 0.25, 0.5, 0.75, 1):
        y, x = _TOP + (1 - share) * down, _LEFT + share * across
        anchor = "start" if share == 0 else "end" if share == 1 else "middle"
        lines.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_LEFT + across}" y1="{y}" y2="{y}"/>'
            f'<text x="{_LEFT - 6}" y="{y + 3.5}" text-anchor="end">{share:g}</text>'
            f'<text x="{x}" y="{_HEIGHT - 14}" text-anchor="{anchor}">{share:.0%}</text>'
        )
    done = "removed" if name == "deletion" else "revealed"
    lines.append(f'<text x="{_LEFT + across / 2}" y="{_HEIGHT - 1}" text-anchor="middle">pixels {done}</text>')
    legend = []
    for number, method in enumerate(summary.methods):
        if name not in method.curves:
            continue
        scores = method.curves[name]
        points = " ".join(
            f"{_LEFT + across * i / (len(scores) - 1):.1f},{_TOP + down * (1 - min(max(score, 0), 1)):.1f}"
            for i, score in enumerate(scores.tolist())
        )
        lines.append(f'<polyline data-method="{number}" style="{stroke(number)}" points="{points}"/>')
        legend.append(
            f'<li data-method="{number}"><svg width="22" height="8" aria-hidden="true">'
            f'<line x1="1" x2="21" y1="4" y2="4" style="{stroke(number)}"/></svg>{escape(method.label)} '
            f'<b class="numbers">{method.estimates[name].mean:.3f}</b></li>'
        )
    arrow = "less is better" if not metric.higher_is_better else "more is better"
    return (
        f'<figure class="panel curve"><figcaption><h3>{metric.title}</h3><span class="page-note">area under the curve, '
        f'{arrow}</span></figcaption><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="Mean {name} curves of all methods">{"".join(lines)}</svg><ul>{"".join(legend)}</ul></figure>'
    )


def stroke(number: int) -> str:
    """The style that gives a method its colour and, in lines, its dashes."""
    dash = _DASHES[number // _COLOURS % len(_DASHES)]
    return f"--series:var(--series-{number % _COLOURS + 1})" + (f";stroke-dasharray:{dash}" if dash else "")
