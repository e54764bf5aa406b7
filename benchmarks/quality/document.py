"""Writes the tables of docs/quality.md from the records, and draws its picture.

    python benchmarks/quality/document.py

A table stands between ``<!-- table NAME -->`` and ``<!-- end -->``; what lies outside is written by people.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from sightline.metrics.catalogue import METRICS

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "quality.md"
IMAGE = ROOT / "docs" / "images" / "quality.svg"
RESULTS = ROOT / "benchmarks" / "results"
SUBJECTS = ("neu-det", "surface")
DRAWN = ("ebpg", "miou", "deletion", "insertion")
FIRST = "sise"
# Okabe and Ito's colours: apart for every kind of colour vision.
_LINES = {
    "sise:mu=": ("sise", "SISE by μ", "#0072B2", "o"),
    "sise:max_passes=": ("sise", "SISE, budget", "#D55E00", "s"),
    "sise:predict=false:max_passes=": ("sise", "the same by α", "#000000", "."),
    "remise:max_passes=": ("remise", "REMISE, budget", "#009E73", "D"),
}
"""By the prefix of the labels: the method without a budget, title, colour, marker."""
_POINTS = {
    "ada-sise": ("Ada-SISE", "#F0E442", "P"),
    "rise:passes=500": ("RISE", "#CC79A7", "^"),
    "score-cam": ("Score-CAM", "#E69F00", "v"),
    "grad-cam": ("Grad-CAM", "#56B4E9", "X"),
    "layer-cam": ("LayerCAM", "#999999", "*"),
}
_SEARCHES = ("held-out", "eval", "surface")

Record = Mapping[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    records = [read(name) for name in SUBJECTS if (RESULTS / f"quality-{name}.json").exists()]
    if not records:
        parser.error("there is no record: run benchmarks/quality/run.py first")
    text = PAGE.read_text(encoding="utf-8")
    for record in records:
        for name, lines in tables(record).items():
            text = placed(text, name, lines)
    for name in _SEARCHES:
        if (RESULTS / f"quality-search-{name}.json").exists():
            text = placed(text, f"quality-search-{name}", variants(read(f"search-{name}")))
    PAGE.write_text(text, encoding="utf-8")
    draw(records, IMAGE)


def read(subject: str) -> Record:
    record: Record = json.loads((RESULTS / f"quality-{subject}.json").read_text(encoding="utf-8"))
    return record


def tables(record: Record) -> dict[str, list[str]]:
    """Markdown by name: the methods with their intervals, their differences to SISE, and the curve over passes."""
    name = record["benchmark"]
    labels = record["parameters"]["contenders"]
    curve = [label for label in labels if label.startswith(tuple(_LINES))]
    main = [label for label in labels if label not in curve or label in ("sise:mu=0.3", "sise:mu=0.5")]
    return {
        name: _means(record, main),
        f"{name} differences": _differences(record, [label for label in main if label != FIRST]),
        f"{name} passes": _passes(record, [FIRST, "remise", *curve]),
    }


def variants(record: Record) -> list[str]:
    """Markdown: what was tried, with what the intervals of the differences to SISE say."""
    figures = record["figures"]
    first, *others = record["parameters"]["variants"]
    lines = _head(["weights, fusion", "passes"])
    for label in [first, *others]:
        cells = [f"{figures[f'{label}: passes']:.0f}"]
        for name in METRICS:
            value = _number(name, figures[f"{label}: {name}"])
            ends = () if label == first else [figures[f"{label} minus SISE: {name} {end}"] for end in ("low", "high")]
            cells.append(value + (verdict(name, *ends) if ends else ""))
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return lines


def placed(text: str, name: str, lines: Sequence[str]) -> str:
    """The page with this table at its mark.

    Raises:
        SystemExit: the page has no such mark.
    """
    block = re.compile(rf"(<!-- table {re.escape(name)} -->\n).*?(<!-- end -->)", re.S)
    if not block.search(text):
        raise SystemExit(f"{PAGE.name} has no place for the table {name!r}.")
    return block.sub(lambda match: match[1] + "\n".join(lines) + "\n" + match[2], text)


def _head(first: Sequence[str]) -> list[str]:
    titles = [f"{metric.title} {'↑' if metric.higher_is_better else '↓'}" for metric in METRICS.values()]
    return [f"| {' | '.join([*first, *titles])} |", f"|---{'|--:' * (len(first) + len(titles) - 1)}|"]


def _means(record: Record, labels: Sequence[str]) -> list[str]:
    figures = record["figures"]
    best = {
        name: (max if metric.higher_is_better else min)(figures[f"{label}: {name}"] for label in labels)
        for name, metric in METRICS.items()
    }
    lines = _head(["method", "passes"])
    for label in labels:
        cells = [f"{figures[f'{label}: passes']:.0f}"]
        for name in METRICS:
            mean, low, high = (_number(name, figures[f"{label}: {name}{suffix}"]) for suffix in ("", " low", " high"))
            shown = f"**{mean}**" if figures[f"{label}: {name}"] == best[name] else mean
            cells.append(f"{shown} ({low}–{high})")
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return lines


def _differences(record: Record, labels: Sequence[str]) -> list[str]:
    figures = record["figures"]
    lines = _head([f"minus {FIRST}"])
    for label in labels:
        cells = []
        for name in METRICS:
            mean, low, high = (figures[f"{label} minus {FIRST}: {name}{suffix}"] for suffix in ("", " low", " high"))
            cells.append(f"{_number(name, mean, '+')}{verdict(name, low, high)}")
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return lines


def verdict(name: str, low: float, high: float) -> str:
    """`` better``, `` worse`` or nothing: what the 95 % interval of a difference says."""
    sign = (low > 0) - (high < 0)
    return {0: "", 1: " better", -1: " worse"}[sign if METRICS[name].higher_is_better else -sign]


def _passes(record: Record, labels: Sequence[str]) -> list[str]:
    figures = record["figures"]
    lines = _head(["method", "passes", "r"])
    for label in sorted(labels, key=lambda label: -figures[f"{label}: passes"]):
        agreement = figures[f"{label}: r"] if ":" in label else 1.0
        cells = [f"{figures[f'{label}: passes']:.0f}", f"{agreement:.2f}"]
        cells += [_number(name, figures[f"{label}: {name}"]) for name in METRICS]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return lines


def _number(name: str, value: float, sign: str = "") -> str:
    return f"{value:{sign}.1f}" if METRICS[name].percent else f"{value:{sign}.3f}"


def draw(records: Sequence[Record], path: Path) -> None:
    """Quality over passes. The same records give the same file, byte by byte."""
    with mpl.rc_context({"svg.hashsalt": "sightline", "font.size": 9, "font.family": "DejaVu Sans"}):
        figure = Figure(figsize=(10, 2.9 * len(records) + 0.6), layout="constrained")
        figure.patch.set_facecolor("white")
        panels = figure.subplots(len(records), len(DRAWN), squeeze=False)
        for record, row in zip(records, panels, strict=True):
            for name, axes in zip(DRAWN, row, strict=True):
                _panel(axes, record, name)
        handles, labels = panels[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="svg", dpi=100, metadata={"Date": None})


def _panel(axes: Axes, record: Record, name: str) -> None:
    figures = record["figures"]
    labels = record["parameters"]["contenders"]

    def at(label: str) -> tuple[float, float]:
        return figures[f"{label}: passes"], figures[f"{label}: {name}"]

    for prefix, (whole, title, colour, marker) in _LINES.items():
        points = sorted(at(label) for label in labels if label == whole or label.startswith(prefix))
        axes.plot(*zip(*points, strict=True), color=colour, marker=marker, markersize=4, label=title)
    low, high = (figures[f"{FIRST}: {name} {end}"] for end in ("low", "high"))
    axes.axhspan(low, high, color="#0072B2", alpha=0.10, linewidth=0, label="SISE, 95 %")
    for label, (title, colour, marker) in _POINTS.items():
        if label in labels:
            passes, value = at(label)
            axes.plot(
                [max(passes, 1)],
                [value],
                color=colour,
                marker=marker,
                markersize=7,
                markeredgecolor="#333333",
                markeredgewidth=0.5,
                linestyle="none",
                label=title,
            )
    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}" if value > 1 else "≤1"))
    axes.spines[["top", "right"]].set_visible(False)
    metric = METRICS[name]
    better = "↑" if metric.higher_is_better else "↓"
    axes.set_title(f"{figures['subject']}: {metric.title}{' %' if metric.percent else ''} {better}", fontsize=9)
    axes.set_xlabel("passes", fontsize=8)


if __name__ == "__main__":
    main()
