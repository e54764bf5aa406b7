"""What an explanation costs with Sightline and with what people use today: same weights, image and machine, one run.

Every measurement is a process of its own; rounds of them take turns in random order. A contender's cost per masked pass
is held against the raw speed of the engine it runs on, measured in the same process right before and after, at the best
of several batch sizes, and against that of the fastest engine on the machine. Images that go through the network are
counted on their way. No time holds preprocessing, or loading and compiling the model where the contender does it once.

    pip install -r benchmarks/requirements-peers.txt    # its head says how to install the two peers with old pins
    python benchmarks/peers.py [--network resnet50] [--passes 500] [--rounds 5] [--only sise score-cam]
                               [--python PATH] [--python openvino_xai=PATH]

A contender whose package is missing is left out by name. An explanation that takes more than ten seconds is warmed up
in the first round only: what a first call adds is lost in it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import record
from contenders import raw, summary
from contenders.contender import Case
from contenders.registry import CONTENDERS

HERE = Path(__file__).resolve().parent
SLOW = 10.0
"""Seconds from which on an explanation is warmed up in the first round only."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="resnet50", help="resnet50, mobilenet_v3_large, vgg16 or resnet18")
    parser.add_argument("--passes", type=int, default=500, help="masks of RISE, maps of Score-CAM")
    parser.add_argument("--mu", type=float, default=0.3, help="SISE's threshold")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--stretch", type=float, default=2.0, help="seconds of a raw engine at every batch size")
    parser.add_argument("--only", nargs="+", metavar="PART", help="only contenders with one of these in their names")
    parser.add_argument("--python", action="append", default=[], metavar="[PART=]PATH", help="interpreter to run under")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/peers-<network>.json")
    arguments = parser.parse_args()
    names = chosen(arguments.only)
    if not names:
        parser.error(f"no contender has {' or '.join(arguments.only)} in its name. There are: {', '.join(CONTENDERS)}")
    with tempfile.TemporaryDirectory() as folder:
        from contenders.subject import prepare

        case = prepare(
            Path(folder),
            arguments.network,
            passes=arguments.passes,
            mu=arguments.mu,
            threads=arguments.threads,
            seed=arguments.seed,
        )
        path = run(case, names, arguments)
    print(json.dumps(json.loads(path.read_text(encoding="utf-8"))["figures"], indent=2))


def chosen(only: Sequence[str] | None) -> list[str]:
    """The contenders asked for, all of them by default; upper and lower case are the same."""
    return [name for name in CONTENDERS if not only or any(part.lower() in name.lower() for part in only)]


def run(case: Case, names: Sequence[str], arguments: argparse.Namespace) -> Path:
    """Measure round by round, and write the record."""
    rounds: list[dict[str, Any]] = []
    skipped: dict[str, str] = {}
    slow: set[str] = set()
    for number, order in enumerate(summary.plan([*names, *raw.ENGINES], arguments.rounds, arguments.seed), 1):
        measured: dict[str, Any] = {}
        for name in order:
            if name in skipped:
                continue
            options = ["--stretch", str(arguments.stretch), *(["--no-warm-up"] if name in slow else [])]
            found = measure(case, name, interpreter(name, arguments.python), options)
            if "skipped" in found:
                skipped[name] = found["skipped"]
                print(f"left out: {name}: {found['skipped']}", file=sys.stderr)
                continue
            measured[name] = found
            if found.get("cold seconds", 0.0) > SLOW:
                slow.add(name)
            if "seconds" in found:
                print(f"round {number}: {name}: {found['passes']} passes, {found['seconds']:.2f} s", file=sys.stderr)
        rounds.append(measured)
    # What failed in a later round has no figure at all: half of them would not compare.
    complete = [{name: found for name, found in measured.items() if name not in skipped} for measured in rounds]
    return record.write(
        f"peers-{case.network}",
        {
            **{name: getattr(arguments, name) for name in ("network", "passes", "mu", "rounds", "threads", "stretch")},
            "seed": case.seed,
            "raw_batch_sizes": list(raw.BATCH_SIZES),
            "contenders": [name for name in names if name not in skipped],
            "settings": [f"{name}: {CONTENDERS[name].settings}" for name in names if name not in skipped],
            "packages": packages(complete),
            "skipped": [f"{name}: {why}" for name, why in skipped.items()],
        },
        {**summary.figures(complete, names), **agreement(case.folder, names)},
        arguments.output,
    )


def measure(case: Case, name: str, python: str, options: Sequence[str]) -> dict[str, Any]:
    """What a fresh process found; what it failed on, where it failed."""
    result = case.folder / f"{name}.json"
    result.unlink(missing_ok=True)
    # The checkout itself is measured, whatever Sightline that interpreter may have.
    paths = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [python, "-m", "contenders.measure", str(case.folder), name, str(result), *options],
        cwd=HERE,
        env={**os.environ, "PYTHONPATH": paths, "SIGHTLINE_CACHE": str(case.folder / "cache")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode or not result.exists():
        lines = done.stderr.strip().splitlines() or ["no message"]
        print("\n".join(lines[-15:]), file=sys.stderr)
        # The type only: a message may name a path of this machine.
        return {"skipped": f"failed with {lines[-1].split(':')[0]}" if done.returncode > 0 else "was killed"}
    found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    if "skipped" in found:
        found["skipped"] = without_folders(found["skipped"])
    return found


def without_folders(text: str) -> str:
    """A message without the folders of the absolute paths in it: a record names no path of this machine."""
    return re.sub(r"(?<![\w.])/(?:[\w.+-]+/)+", "", text)


def interpreter(name: str, choices: Sequence[str]) -> str:
    """The Python for a contender: the last ``--python PART=PATH`` whose part is in its name, then ``--python PATH``."""
    general = sys.executable
    for choice in choices:
        if "=" not in choice:
            general = choice
    for choice in reversed(choices):
        part, _, path = choice.partition("=")
        if path and part.lower() in name.lower():
            return path
    return general


def packages(rounds: Sequence[Mapping[str, Any]]) -> list[str]:
    """Each package with its version, as the measuring processes saw them."""
    return sorted(
        {
            f"{package} {version}"
            for measured in rounds
            for found in measured.values()
            for package, version in found["versions"].items()
        }
    )


def agreement(folder: Path, names: Sequence[str]) -> dict[str, float]:
    """Pearson's correlation of Sightline's SISE maps with the plain torch one: was the same work timed?"""
    plain = folder / "plain torch SISE.npy"
    if not plain.exists():
        return {}
    return {
        f"{name}: correlation with the plain torch map": float(
            np.corrcoef(np.load(plain).ravel(), np.load(folder / f"{name}.npy").ravel())[0, 1]
        )
        for name in names
        if name.startswith("Sightline SISE") and (folder / f"{name}.npy").exists()
    }


if __name__ == "__main__":
    main()
