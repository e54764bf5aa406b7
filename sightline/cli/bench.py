"""``sightline bench``: passes per second, latency, and what an explanation costs beyond its passes."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sightline.cli.method import DEFAULT, OPTIONS, PRECISIONS, chosen, positive
from sightline.cli.method import add_arguments as add_method_arguments
from sightline.cli.table import table
from sightline.errors import SightlineError

if TYPE_CHECKING:
    from sightline.bench import Report
    from sightline.bundle import Bundle

NAME = "bench"
HELP = "measure passes per second, latency and overhead on this machine"
DESCRIPTION = """\
Measure what explaining costs here. Scopes: 'kernel' times the arithmetic on maps alone, beside the device's copy
bandwidth; 'forward' the engine alone; 'end-to-end' whole explanations, taking turns with the raw engine, and their
overhead ratio: the time of an explanation / (its passes × the engine's best time per image). Maps are compared while
they are timed. The exit code is 1 if they do not agree, or if a setting could not be measured."""
EXAMPLES = """\
examples:
  sightline bench steel.sightline
  sightline bench steel.sightline --engine openvino --precision fp32,bf16 --image part.png
  sightline bench steel.sightline --scope forward --batch-size 1,8,16,32
  sightline bench steel.sightline --method ada-sise --iterations 50 --percentile 50,99 --json bench.json"""
SCOPES = ("kernel", "forward", "end-to-end")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="made by 'sightline export'")
    add_method_arguments(parser, running=False)
    parser.add_argument("--engine", metavar="NAME,…", type=_names, default=("auto",), help="default: auto")
    parser.add_argument("--precision", metavar="P,…", type=_precisions, default=("fp32",), help="default: fp32")
    parser.add_argument(
        "--batch-size", metavar="N,…", type=_sizes, help="default: the fastest (end-to-end); 1,8,16,32 (forward)"
    )
    parser.add_argument("--scope", choices=SCOPES, default="end-to-end", help="default: end-to-end")
    parser.add_argument("--image", metavar="FILE", type=Path, help="what to explain (default: smooth noise)")
    parser.add_argument("--threads", metavar="N", type=positive, help="CPU threads per pass (default: the engine's)")
    parser.add_argument("--warmup", metavar="N", type=positive, help="runs before timing (default: 1, 5 in forward)")
    parser.add_argument("--iterations", metavar="N", type=positive, help="runs timed (default: 5, 30 in forward)")
    parser.add_argument("--percentile", metavar="P,…", type=_percentiles, default=(50.0, 90.0, 99.0))
    parser.add_argument("--json", metavar="FILE", help="write all figures; '-' for stdout instead of the table")


def run(arguments: argparse.Namespace) -> int:
    """Measure every setting asked for; one that cannot be measured does not stop the others."""
    import sightline
    from sightline.runtime.saving import check

    _check(arguments)
    if arguments.json not in (None, "-"):
        check(Path(arguments.json))
    bundle = sightline.load(arguments.bundle)
    reports, failed = [], []
    quiet = arguments.json == "-"
    for setting in _settings(arguments):
        try:
            report = _measure(bundle, arguments, setting)
        except SightlineError as error:
            failed.append({**setting, "error": str(error)})
            print(f"sightline: error: {_title(setting)}: {error}", file=sys.stderr)
            continue
        reports.append(report)
        if not quiet:
            print(_text(report, arguments.percentile), end="\n\n", flush=True)
        for warning in report.warnings:
            print(f"sightline: warning: {_title(report.setting)}: {warning}", file=sys.stderr)
    if arguments.json:
        _write(arguments.json, bundle, reports, failed, arguments.percentile)
    return 0 if reports and not failed and all(report.valid for report in reports) else 1


def _check(arguments: argparse.Namespace) -> None:
    """Refuse what the scope would ignore."""
    method: tuple[str, ...] = () if arguments.scope == "end-to-end" else ("method", *OPTIONS, "image")
    for name in (*method, *(["threads"] if arguments.scope == "kernel" else [])):
        if getattr(arguments, name) not in (None, DEFAULT):
            arguments.usage_error(f"--{name} does not belong to --scope {arguments.scope}")


def _settings(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    default = {"end-to-end": (None,), "forward": (1, 8, 16, 32), "kernel": (16,)}[arguments.scope]
    for engine in arguments.engine:
        for precision in arguments.precision:
            for size in arguments.batch_size or default:
                yield {"engine": engine, "precision": precision, "batch_size": size}


def _measure(bundle: Bundle, arguments: argparse.Namespace, setting: Mapping[str, Any]) -> Report:
    from sightline import bench
    from sightline.bindings import available, choose

    repeats = {
        name: value
        for name, value in (("warmup", arguments.warmup), ("iterations", arguments.iterations))
        if value is not None
    }
    engine, precision, size = setting["engine"], setting["precision"], setting["batch_size"]
    if arguments.scope == "kernel":
        name = choose(engine, variants=bundle.variants, precision=precision)
        device = next(entry.device for entry in available() if entry.name == name)
        return bench.kernel(bundle, device, precision, size, **repeats)
    if arguments.scope == "forward":
        return bench.forward(bundle, engine, precision, size, threads=arguments.threads, **repeats)
    return bench.end_to_end(
        bundle,
        chosen(arguments),
        engine,
        precision,
        size,
        image=arguments.image,
        raw_batch_sizes=arguments.batch_size or (1, 8, 16),
        threads=arguments.threads,
        **repeats,
    )


def _title(setting: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in setting.items() if value is not None)


def _text(report: Report, percentiles: Sequence[float]) -> str:
    rows = []
    for name, value in report.facts(percentiles)["figures"].items():
        if not isinstance(value, dict):
            rows.append((name, _number(value), "", ""))
            continue
        low, high = value["quartiles"]
        tail = "  ".join(f"p{p:g} {_number(value[f'p{p:g}'])}" for p in percentiles) if name == "latency" else ""
        unit = "" if value["unit"] == "1" else f" {value['unit']}"
        rows.append((name, f"{_number(value['median'])}{unit}", f"{_number(low)} to {_number(high)}", tail))
    return f"{report.scope}: {_title(report.setting)}\n{table(rows)}"


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _write(
    to: str,
    bundle: Bundle,
    reports: Sequence[Report],
    failed: Sequence[Mapping[str, Any]],
    percentiles: Sequence[float],
) -> None:
    import os

    from sightline import __version__
    from sightline.bindings import available
    from sightline.runtime.memo import machine
    from sightline.runtime.saving import save

    document = {
        "sightline": __version__,
        "bundle": {"name": bundle.path.name, "hash": bundle.hash},
        "machine": machine("cpu"),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "engines": {entry.name: entry.version for entry in available() if entry.version},
        "results": [report.facts(percentiles) for report in reports],
        "failed": list(failed),
    }
    text = json.dumps(document, indent=2, allow_nan=False) + "\n"
    if to == "-":
        sys.stdout.write(text)
        return
    save(to, text)


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names:
        raise argparse.ArgumentTypeError(f"{text!r} names nothing")
    return names


def _precisions(text: str) -> tuple[str, ...]:
    names = _names(text)
    if unknown := [name for name in names if name not in PRECISIONS]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(PRECISIONS)}")
    return names


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(positive(size) for size in _names(text))


def _percentiles(text: str) -> tuple[float, ...]:
    try:
        values = tuple(float(value) for value in _names(text))
    except ValueError:
        values = (-1.0,)
    if not all(0 <= value <= 100 for value in values):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of percentiles, e.g. 50,90,99")
    return values
