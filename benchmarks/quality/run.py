"""Which method should a user trust, at what cost? Every method on real steel surfaces, by all seven metrics.

    python benchmarks/quality/train.py --data FOLDER --out neu.sightline
    python benchmarks/quality/run.py neu-det --data FOLDER --bundle neu.sightline --work work/
    python benchmarks/quality/run.py surface --work work/
    python benchmarks/quality/document.py

Everything goes through the product: ``Explainer`` makes the maps and ``sightline.metrics`` scores them. Every result is
kept in the work folder as it is made, so that an interrupted run goes on where it stopped; every method is done with
the first images before any goes on to the next, so that --limit makes a record of what an interrupted run has done.
Several processes can share the work, each with a work folder and --places of its own: a last run, with what their
results files hold put together, makes the record.
NEU-DET is read from --data or $SIGHTLINE_NEU_DET; the drawn defects are made by ``examples/surface``. The records go to
``benchmarks/results/``.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[1]))

import record

import sightline
from quality import subjects
from quality.baselines import CentreBlob, Chance
from quality.neu_det import folder
from sightline.cli import contenders as words
from sightline.metrics import Estimate
from sightline.metrics.catalogue import METRICS
from sightline.metrics.evaluation import Contender, Evaluator, Settings, unpacked
from sightline.metrics.store import MAP, Results
from sightline.metrics.summary import Summary, summarise
from sightline.runtime.explainer import METHODS

FIRST = ("sise", "sise:mu=0.3", "sise:mu=0.5")
"""The others are compared with the first."""
PARAMETERS = {"rise": "rise:passes=500"}
"""Of methods that are not evaluated with their defaults."""
SWEEP = ("sise:mu=0.75",)
"""A further point of the curve over passes."""
BUDGETS = (16, 64)
"""Of passes."""
BUDGETED = ("sise", "sise:predict=false", "remise")
"""What is run under these budgets: scores predicted (the default), or the masks of the largest α alone."""
PORTION = 24
"""Images that every method is done with before the next ones."""


def contenders() -> list[Contender]:
    """Every method there is, the baselines, and the points of the curve."""
    methods = [PARAMETERS.get(name, name) for name in METHODS if name not in FIRST]
    baselines = [Contender("centre blob", CentreBlob()), Contender("chance", Chance())]
    budgets = [f"{method}:max_passes={budget}" for method in BUDGETED for budget in BUDGETS]
    return words.parse(",".join([*FIRST, *methods])) + baselines + words.parse(",".join([*SWEEP, *budgets]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("subject", choices=("neu-det", "surface"))
    parser.add_argument("--work", type=Path, required=True, help="folder for the results of each image")
    parser.add_argument("--data", type=Path, help="NEU-DET (default: $SIGHTLINE_NEU_DET)")
    parser.add_argument("--bundle", type=Path, help="what train.py wrote, for neu-det")
    parser.add_argument("--per-class", type=int, default=25, help="pictures of each kind of drawn defect (25)")
    parser.add_argument("--limit", type=int, help="only so many images, the classes in turn")
    parser.add_argument("--places", default=":", help="only those of them at these places, for example 0:48,96:144")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--threads", type=int, help="of a pass (default: the engine decides)")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap (0)")
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/quality-<subject>.json")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    if arguments.subject == "surface":
        subject = subjects.surface(arguments.work / "surface", arguments.per_class, arguments.limit)
    else:
        data = folder(arguments.data)
        if arguments.bundle is None:
            parser.error("--bundle is missing: write one with train.py first")
        subject = subjects.neu_det(data, arguments.bundle, arguments.limit)
    subject = subjects.at(subject, arguments.places)
    chosen = contenders()
    kept = arguments.work / f"{arguments.subject}.results.jsonl"
    summary, agreement = evaluated(subject, chosen, kept, arguments.engine, arguments.seed, arguments.threads)
    parameters = {
        "seed": arguments.seed,
        "images": len(summary.images),
        "places": arguments.places,
        "contenders": [contender.label for contender in chosen],
        "failures": list(summary.failures),
    }
    found = figures(subject, summary) | {"accuracy %": accuracy(subject, arguments.engine)}
    found |= {f"{label}: r": r for label, r in agreement.items()}
    print(record.write(f"quality-{arguments.subject}", parameters, found, arguments.output).name)


def evaluated(
    subject: subjects.Subject,
    chosen: Sequence[Contender],
    kept: Path,
    engine: str = "auto",
    seed: int = 0,
    threads: int | None = None,
) -> tuple[Summary, dict[str, float]]:
    """Explain and score what is not kept yet.

    Returns:
        What was found, and how well the maps of each method agree (Pearson, mean of images) with those of the method
        without parameters, where that is among the chosen, else with those of the first.
    """
    bundle = sightline.load(subject.bundle)
    for case in subject.cases:
        case.keep_map = True
    with Results(kept) as results:
        evaluator = Evaluator(bundle, subject.cases, Settings(), results, {"engine": engine})
        for first in range(0, len(subject.cases), PORTION):
            portion = {id(case) for case in subject.cases[first : first + PORTION]}
            for contender in chosen:
                if due := [case for case in evaluator.due(contender) if id(case) in portion]:
                    began = time.perf_counter()
                    with sightline.Explainer(bundle, contender.method, engine, threads=threads) as explainer:
                        for case in evaluator.run(explainer, contender, due):
                            if case.failure:
                                print(f"{case.name}: {case.failure}", file=sys.stderr)
                    done = f"{len(due)} images from {first + 1} on in {time.perf_counter() - began:.0f} s"
                    print(f"{contender.label}: {done}", flush=True)
        plain = {contender.label: contender for contender in chosen}
        agreement = {}
        for contender in chosen[1:]:
            method, parameters = contender.label.partition(":")[::2]
            whole = plain.get(method, chosen[0]) if parameters else chosen[0]
            agreement[contender.label] = _agreement(evaluator, whole, contender)
        return summarise(evaluator, chosen, seed=seed), agreement


def _agreement(evaluator: Evaluator, whole: Contender, other: Contender) -> float:
    """Mean of Pearson's correlation, over the images where neither map is flat."""
    found = []
    for case in evaluator.cases:
        if case.failure is None:
            ours, theirs = (
                unpacked(evaluator.results[evaluator.key(case, who)][MAP]).ravel().astype(np.float64)
                for who in (whole, other)
            )
            if np.ptp(ours) > 0 and np.ptp(theirs) > 0:
                found.append(np.corrcoef(ours, theirs)[0, 1])
    return float(np.mean(found))


def figures(subject: subjects.Subject, summary: Summary) -> dict[str, Any]:
    """Means with intervals and, for every method but the first, those of the paired differences to it."""
    found: dict[str, Any] = {"subject": subject.title, "images": len(summary.images)}
    for method in summary.methods:
        found[f"{method.label}: passes"] = method.passes
        for name in summary.metrics:
            found |= _stated(method.label, name, method.estimates[name])
            if method is not summary.methods[0]:
                found |= _stated(f"{method.label} minus {summary.methods[0].label}", name, method.differences[name])
    return found


def accuracy(subject: subjects.Subject, engine: str = "auto") -> float:
    """The share of the images whose annotated class the network finds, in per cent."""
    bundle = sightline.load(subject.bundle)
    with sightline.Explainer(bundle, "grad-cam", engine) as explainer:
        found = np.concatenate(list(explainer.classify(case.path for case in subject.cases))).argmax(axis=1)
    wanted = [bundle.target(str(case.annotation.label)) for case in subject.cases]
    return 100 * float(np.mean(found == wanted))


def _stated(who: str, name: str, estimate: Estimate) -> dict[str, float]:
    metric = METRICS[name]
    return {
        f"{who}: {name}{suffix}": metric.shown(value)
        for suffix, value in (("", estimate.mean), (" low", estimate.low), (" high", estimate.high))
    }


if __name__ == "__main__":
    main()
