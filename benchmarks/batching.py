"""What sharing batches gains, and whether deadlines are kept.

    python benchmarks/batching.py [--only demo,openvino] [--work FOLDER]

**Sharing.** ``Explainer.batch`` over 32 images beside calls for one image each and beside the raw engine. They take
turns in stretches: some images drawn from the one running ``batch``, some explained call by call on an explainer of its
own, some seconds of the raw engine at each batch size, of which the fastest counts. Attribution passes, masks, padding
and fusion all count. A ratio is that of two times per scored mask in one stretch.

**Deadlines.** Every run draws its deadline evenly between what the shortest possible explanation takes (a budget of one
pass) and what the whole one takes, or some seconds where that is less. It is *kept* if the call returns in time, and
*kept to a batch* if it is late by no more than a batch of masks takes, the median one or the longest of all runs.
Whatever follows the last batch, prediction and fusion, counts as late like all else.

With --work, what is measured is kept there, one file a setting; it is not measured again, and the record holds it all.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import record

import sightline
from sightline import demo
from sightline.bench.end_to_end import smooth_noise
from sightline.bench.forward import open_raw, stretch
from sightline.bundle import Bundle
from sightline.runtime.image import ImageLike

ENGINES = ("onnxruntime-cpu", "openvino")
RAW_BATCH_SIZES = (8, 16)
LONGEST = 2.0
"""Seconds that no deadline is above, so that a hundred of them end within minutes where an explanation takes long."""
Figures = dict[str, Any]


@dataclass(frozen=True)
class Load:
    """What is explained, and how many images in a stretch."""

    network: str
    masks: str
    rounds: int
    shared: int
    alone: int
    mu: float = 0.0
    max_passes: int | None = None


LOADS = (
    Load("demo", "all masks", rounds=3, shared=8, alone=8),
    Load("demo", "40 masks", rounds=3, shared=8, alone=8, max_passes=40),
    Load("mobilenet_v3_large", "all masks", rounds=1, shared=4, alone=4),
    Load("mobilenet_v3_large", "40 masks", rounds=3, shared=8, alone=8, max_passes=40),
    Load("resnet50", "mu=0.5", rounds=1, shared=4, alone=1, mu=0.5),
    Load("resnet50", "40 masks", rounds=1, shared=4, alone=4, max_passes=40),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="words that the name of a setting must hold, with commas between")
    parser.add_argument("--bundles", type=Path, help="where bundles are kept between runs (default: made anew)")
    parser.add_argument("--work", type=Path, help="where figures are kept between runs (default: nowhere)")
    parser.add_argument("--images", type=int, default=32, help="of a batch (32)")
    parser.add_argument("--runs", type=int, default=100, help="deadlines for each network and engine (100)")
    parser.add_argument("--seconds", type=float, default=1.0, help="of the raw engine, at each batch size and turn (1)")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--seed", type=int, default=0, help="of weights, images and deadlines (0)")
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/batching.json")
    arguments = parser.parse_args()
    parameters = {name: getattr(arguments, name) for name in ("images", "runs", "seconds", "threads", "seed")}
    figures: Figures = {}
    with tempfile.TemporaryDirectory() as folder:
        work = arguments.work or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        for name, measure in settings(arguments, arguments.bundles or Path(folder)):
            kept = work / f"{name}.json"
            wanted = all(word in name for word in arguments.only.split(","))
            if wanted and not (kept.exists() and _read(kept)["parameters"] == parameters):
                found = measure()
                _write(kept, {"parameters": parameters, "figures": found})
                print(json.dumps({name: found}, indent=2), flush=True)
            if kept.exists() and (there := _read(kept))["parameters"] == parameters:
                figures |= {f"{name}: {key}": value for key, value in there["figures"].items()}
    parameters["raw_batch_sizes"] = list(RAW_BATCH_SIZES)
    print(record.write("batching", parameters, figures, arguments.output).name)


def settings(arguments: argparse.Namespace, bundles: Path) -> Iterator[tuple[str, Callable[[], Figures]]]:
    """Every measurement by its name."""
    for engine in ENGINES:
        for load in LOADS:
            yield (
                f"{load.network}, {load.masks}, {engine}",
                partial(_shared, load, engine, arguments, bundles),
            )
        for network in dict.fromkeys(load.network for load in LOADS):
            yield f"{network}, deadlines, {engine}", partial(_in_time, network, engine, arguments, bundles)


def _shared(load: Load, engine: str, arguments: argparse.Namespace, bundles: Path) -> Figures:
    bundle, images = subject(load.network, arguments, bundles)
    return sharing(bundle, images, load, engine, arguments.seconds, arguments.threads)


def _in_time(network: str, engine: str, arguments: argparse.Namespace, bundles: Path) -> Figures:
    bundle, images = subject(network, arguments, bundles)
    return deadlines(bundle, images, engine, arguments.runs, arguments.threads, arguments.seed)


def subject(name: str, arguments: argparse.Namespace, bundles: Path) -> tuple[Bundle, list[ImageLike]]:
    """A network, and images: the demo's own in turn, or smooth noise."""
    if name == "demo":
        samples = demo.samples()
        return sightline.load(demo.BUNDLE), [samples[i % len(samples)].image for i in range(arguments.images)]
    from networks import exported

    bundle = exported(name, bundles / f"{name}.sightline", arguments.seed)
    return bundle, [smooth_noise(bundle, arguments.seed + number) for number in range(arguments.images)]


@dataclass
class Turns:
    """What every stretch took, per mask or image, in seconds."""

    shared: list[float] = field(default_factory=list)
    alone: list[float] = field(default_factory=list)
    raw: list[dict[int, float]] = field(default_factory=list)
    """By batch size; in each round one more than the others: before every stretch, and after the last."""
    base: list[dict[int, float]] = field(default_factory=list)
    """Mean of those before and after a stretch."""


def sharing(
    bundle: Bundle, images: Sequence[ImageLike], load: Load, engine: str, seconds: float, threads: int | None
) -> Figures:
    """Time ``batch``, calls and the raw engine in turns."""
    done = 0

    def progress(scored: int, _: int) -> None:
        nonlocal done
        done = scored

    method = sightline.SISE(mu=load.mu)
    turns = Turns()
    with ExitStack() as stack:
        together = stack.enter_context(sightline.Explainer(bundle, method, engine, threads=threads, progress=progress))
        single = stack.enter_context(sightline.Explainer(bundle, method, engine, together.batch_size, threads=threads))
        raw = {
            size: stack.enter_context(open_raw(bundle, together.engine, "fp32", size, threads))
            for size in sorted({*RAW_BATCH_SIZES, together.batch_size})
        }
        for explainer in (together, single):
            explainer(images[0], max_passes=2 * together.batch_size)
        for _ in range(load.rounds):
            running = together.batch(images, max_passes=load.max_passes)
            turns.raw.append({size: stretch(opened, seconds) for size, opened in raw.items()})
            before = 0
            for first in range(0, len(images), load.shared):
                began = time.perf_counter()
                drawn = [next(running) for _ in images[first : first + load.shared]]
                turns.shared.append((time.perf_counter() - began) / (done - before))
                before = done
                few = images[first : first + min(load.alone, len(drawn))]
                began = time.perf_counter()
                passes = sum(single(image, max_passes=load.max_passes).passes for image in few)
                turns.alone.append((time.perf_counter() - began) / passes)
                turns.raw.append({size: stretch(opened, seconds) for size, opened in raw.items()})
                turns.base.append({size: (turns.raw[-2][size] + turns.raw[-1][size]) / 2 for size in raw})
        best = min(raw, key=lambda size: float(np.median([each[size] for each in turns.raw])))
        base = [each[best] for each in turns.base]
        return {
            "batch_size": together.batch_size,
            "raw_batch_size": best,
            "masks_per_image": done / len(images),
            "shared": record.spread(turns.shared, "s/mask"),
            "alone": record.spread(turns.alone, "s/mask"),
            "raw": record.spread([each[best] for each in turns.raw], "s/image"),
            "shared over alone": _ratio(turns.shared, turns.alone),
            "shared over raw": _ratio(turns.shared, base),
            "alone over raw": _ratio(turns.alone, base),
        }


def deadlines(
    bundle: Bundle, images: Sequence[ImageLike], engine: str, runs: int, threads: int | None, seed: int
) -> Figures:
    """Explain under deadlines at random, and see how late that is."""
    stamps: list[float] = []
    late, batches, complete, passes = [], [], [], []

    def progress(*_: int) -> None:
        stamps.append(time.perf_counter())

    with sightline.Explainer(bundle, "sise", engine, threads=threads, progress=progress) as explainer:
        shortest = float(np.median([_seconds(partial(explainer, image, max_passes=1)) for image in images[:7]]))
        whole = float(np.median([_seconds(partial(explainer, image, deadline=LONGEST)) for image in images[:3]]))
        drawn = np.random.default_rng(seed).uniform(shortest, whole, runs)
        for number, deadline in enumerate(drawn.tolist()):
            stamps.clear()
            began = time.perf_counter()
            explanation = explainer(images[number % len(images)], deadline=deadline)
            late.append(time.perf_counter() - began - deadline)
            batches += np.diff(stamps).tolist()  # the first has no beginning of its own
            complete.append(explanation.completeness)
            passes.append(explanation.passes)
        batch_size = explainer.batch_size
    late_by = np.array(late)
    return {
        "batch_size": batch_size,
        "runs": runs,
        "deadline low": shortest,
        "deadline high": whole,
        "batch": record.spread(batches, "s"),
        "longest batch": max(batches),
        "passes": record.spread(passes, "1"),
        "completeness": record.spread(complete, "1"),
        "late": record.spread(late, "s"),
        "latest": float(late_by.max()),
        "kept": int((late_by <= 0).sum()),
        "kept to a median batch": int((late_by <= np.median(batches)).sum()),
        "kept to the longest batch": int((late_by <= max(batches)).sum()),
    }


def _seconds(explain: Callable[[], object]) -> float:
    began = time.perf_counter()
    explain()
    return time.perf_counter() - began


def _ratio(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Any]:
    return record.spread([a / b for a, b in zip(ours, theirs, strict=True)], "1")


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _write(path: Path, found: dict[str, Any]) -> None:
    half = path.with_name(f".{path.name}.{os.getpid()}")
    half.write_text(json.dumps(found), encoding="utf-8")
    half.replace(path)


if __name__ == "__main__":
    main()
