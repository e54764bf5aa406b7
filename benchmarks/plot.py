"""Draws what ``peers.py`` recorded, and prints its table for the documentation.

    python benchmarks/plot.py [benchmarks/results/peers-resnet50.json …] [--output docs/images/benchmarks.svg]

One panel a record. A bar is the time of a contender's masked pass over the raw engine's time per image: 1 is the
engine itself, and what lies beyond it is spent on masks, copies, batches that do not suit the engine, and waiting.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

HERE = Path(__file__).resolve().parent
IMAGE = HERE.parent / "docs" / "images" / "benchmarks.svg"
OURS, OTHERS = "#0072B2", "#E69F00"  # Okabe and Ito's blue and orange: apart for every kind of colour vision
_TICKS = (0.8, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0)
_INCHES = 8.0  # at 100 dots an inch, 800 pixels

Record = Mapping[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", type=Path, nargs="*", help="default: benchmarks/results/peers-*.json")
    parser.add_argument("--output", type=Path, default=IMAGE)
    arguments = parser.parse_args()
    paths = arguments.records or sorted((HERE / "results").glob("peers-*.json"))
    if not paths:
        parser.error("there is no record: run benchmarks/peers.py first")
    records = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    draw(records, arguments.output)
    print("\n\n".join(table(record) for record in records))


def ranked(record: Record) -> list[str]:
    """The contenders that were measured, the one closest to its engine first."""
    figures = record["figures"]
    measured = [name for name in record["parameters"]["contenders"] if f"{name}: over its engine" in figures]
    return sorted(measured, key=lambda name: float(figures[f"{name}: over its engine"]["median"]))


def table(record: Record) -> str:
    """Markdown: every contender, wins and losses alike, and what was left out and why."""
    figures, parameters = record["figures"], record["parameters"]
    lines = [
        f"**{parameters['network']}**, {parameters['threads']} threads ({record['machine']['cpu']}), medians of "
        f"{parameters['rounds']} rounds (quartiles); the fastest engine is {figures['fastest engine']}.",
        "",
        "| contender | engine | passes | seconds | ms per pass | over its engine | over the fastest engine | MiB |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for name in ranked(record):
        own, fastest = (figures[f"{name}: over {what} engine"] for what in ("its", "the fastest"))
        memory = figures.get(f"{name}: MiB beyond the model")
        cells = [
            f"**{name}**" if _ours(name) else name,
            figures[f"{name}: engine"],
            f"{figures[f'{name}: passes']:.0f}",
            f"{figures[f'{name}: seconds']['median']:.3g}",
            f"{1000 * figures[f'{name}: per pass']['median']:.3g}",
            f"{own['median']:.2f} ({own['quartiles'][0]:.2f}–{own['quartiles'][1]:.2f})",
            f"{fastest['median']:.2f}",
            "–" if memory is None else f"{memory:.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    if parameters["skipped"]:
        lines += ["", f"Left out: {'; '.join(parameters['skipped'])}."]
    return "\n".join(lines)


def draw(records: Sequence[Record], path: Path) -> None:
    """Write the picture. The same records give the same file, byte by byte."""
    counts = [len(ranked(record)) for record in records]
    with mpl.rc_context({"svg.hashsalt": "sightline", "font.size": 10, "font.family": "DejaVu Sans"}):
        figure = Figure(figsize=(_INCHES, sum(0.34 * count + 1.1 for count in counts)), layout="constrained")
        figure.patch.set_facecolor("white")
        panels = figure.subplots(len(records), squeeze=False, height_ratios=counts)
        for record, axes in zip(records, panels[:, 0], strict=True):
            _panel(axes, record)
        form = path.suffix[1:] or "svg"
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format=form, dpi=100, metadata={"Date": None} if form == "svg" else None)


def _panel(axes: Axes, record: Record) -> None:
    names = ranked(record)
    spreads = [record["figures"][f"{name}: over its engine"] for name in names]
    middles = [spread["median"] for spread in spreads]
    highest = max(max(spread["quartiles"][1] for spread in spreads), 2.0)
    lowest = min(0.9, 0.95 * min(spread["quartiles"][0] for spread in spreads))
    rows = range(len(names))
    axes.barh(
        rows,
        [middle - lowest for middle in middles],
        left=lowest,
        height=0.66,
        color=[OURS if _ours(name) else OTHERS for name in names],
        xerr=[
            [middle - spread["quartiles"][0] for middle, spread in zip(middles, spreads, strict=True)],
            [spread["quartiles"][1] - middle for middle, spread in zip(middles, spreads, strict=True)],
        ],
        error_kw={"ecolor": "#333333", "capsize": 2.5, "elinewidth": 1.0},
    )
    for row, middle, spread in zip(rows, middles, spreads, strict=True):
        axes.text(max(middle, spread["quartiles"][1]) * 1.03, row, f"{middle:.2f}", va="center", fontsize=9)
    axes.set_yticks(rows, names)
    for label, name in zip(axes.get_yticklabels(), names, strict=True):
        label.set_fontweight("bold" if _ours(name) else "normal")
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlim(lowest, highest * 1.2)
    axes.xaxis.set_major_locator(FixedLocator([tick for tick in _TICKS if lowest <= tick <= highest * 1.2]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
    axes.axvline(1.0, color="#333333", linewidth=1.0, linestyle="--", zorder=2)
    axes.spines[["top", "right"]].set_visible(False)
    cpu = record["machine"]["cpu"].replace("(R)", "").replace(" Processor", "")
    title = f"{record['parameters']['network']} on {cpu}, {record['parameters']['passes']} masks"
    axes.set_title(title, loc="left", fontweight="bold", fontsize=11)
    axes.set_xlabel("time per masked pass over the raw engine (log scale; whiskers: quartiles)", fontsize=9)


def _ours(name: str) -> bool:
    return name.startswith("Sightline")


if __name__ == "__main__":
    main()
