"""What ``sightline evaluate`` tells: the table as text and as CSV, the settings, and the page."""

from __future__ import annotations

import argparse
import csv
import io
import json
from typing import TYPE_CHECKING, Any

from sightline.cli.table import table

if TYPE_CHECKING:
    from sightline.metrics.evaluation import Evaluator
    from sightline.metrics.summary import MethodSummary, Summary

_SIGNS = {1: "+", 0: " ", -1: "−"}


def text(summary: Summary) -> str:
    """One table for each group of metrics that was measured."""
    from sightline.metrics.catalogue import METRICS

    left_out = f", {len(summary.failures)} left out" if summary.failures else ""
    parts = [f"{len(summary.images)} images{left_out}; {summary.located} with a true region of the class explained"]
    for group in ("localization", "faithfulness"):
        names = [name for name in summary.metrics if METRICS[name].group == group]
        if not names:
            continue
        rows = [["method", *(_heading(name) for name in names), "passes", "s/image"]]
        for method in summary.methods:
            cells = [_cell(method, name) for name in names]
            rows.append([method.label, *cells, f"{method.passes:.0f}", f"{method.seconds:.3g}"])
        right = [len(names) + 1, len(names) + 2]
        parts.append(table(rows, right=right, indent=0))
    note = "Mean over images [95 % bootstrap interval]; ↑ more is better, ↓ less is better."
    if len(summary.methods) > 1:
        note += f"\n+ better, − worse than {summary.methods[0].label}: paired by image, 95 %."
    return "\n\n".join([*parts, note])


def csv_table(summary: Summary) -> str:
    """One row per method; shares and areas in [0, 1]."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    columns = [
        f"{name}{end}"
        for name in summary.metrics
        for end in ("", "_low", "_high", "_images", "_minus_first", "_minus_first_low", "_minus_first_high")
    ]
    writer.writerow(["label", "method", "parameters", "images", "passes", "seconds", *columns])
    for method in summary.methods:
        facts = method.contender.facts()
        row: list[object] = [
            method.label,
            facts["method"],
            json.dumps(facts["parameters"], default=repr),
            len(summary.images),
            method.passes,
            method.seconds,
        ]
        for name in summary.metrics:
            estimate, difference = method.estimates.get(name), method.differences.get(name)
            row += [estimate.mean, estimate.low, estimate.high, estimate.count] if estimate else [""] * 4
            row += [difference.mean, difference.low, difference.high] if difference else [""] * 3
        writer.writerow(row)
    return buffer.getvalue()


def setting(evaluator: Evaluator, arguments: argparse.Namespace) -> dict[str, Any]:
    """What was evaluated, and how."""
    return {
        "schema": 1,
        "bundle": arguments.bundle.name,
        "bundle_hash": evaluator.bundle.hash,
        "annotations": arguments.annotations and arguments.annotations.name,
        "target": arguments.target,
        "steps": arguments.steps,
        "engine": arguments.engine,
        "precision": arguments.precision,
        "seed": arguments.seed,
    }


def page(evaluator: Evaluator, summary: Summary, arguments: argparse.Namespace) -> str:
    """The page, with the images whose maps were kept."""
    from sightline.metrics.evaluation import unpacked
    from sightline.metrics.store import MAP
    from sightline.pages import evaluation
    from sightline.runtime.image import prepare

    bundle = evaluator.bundle
    shown = []
    for case in evaluator.cases:
        if not case.keep_map or case.failure is not None:
            continue
        picture = prepare(case.path, bundle.input).picture
        kept = [evaluator.results[evaluator.key(case, method.contender)] for method in summary.methods]
        region = case.region(bundle, picture.size, kept[0]["target"])
        maps = [
            evaluation.Map(method.label, unpacked(result[MAP]), result["label"], result["score"], result["values"])
            for method, result in zip(summary.methods, kept, strict=True)
        ]
        shown.append(evaluation.Shown(case.name, picture, case.annotation.label, region, maps))
    return evaluation.page(summary, setting(evaluator, arguments), shown)


def _heading(name: str) -> str:
    from sightline.metrics.catalogue import METRICS

    metric = METRICS[name]
    return f"{metric.title}{' %' if metric.percent else ''} {'↑' if metric.higher_is_better else '↓'}"


def _cell(method: MethodSummary, name: str) -> str:
    from sightline.metrics.catalogue import METRICS

    metric, estimate = METRICS[name], method.estimates.get(name)
    if estimate is None:
        return "–"
    digits = 1 if metric.percent else 3
    mean, low, high = (f"{metric.shown(value):.{digits}f}" for value in (estimate.mean, estimate.low, estimate.high))
    return f"{mean} [{low}, {high}] {_SIGNS[method.verdict(name)]}".rstrip()
