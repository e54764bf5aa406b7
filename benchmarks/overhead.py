"""How much an explanation costs beyond the engine: its time / (passes × the engine's best time per image).

Stretches of the raw engine, at several batch sizes of which the fastest counts, and explanations take turns in one
run, so that a machine whose speed drifts disturbs both alike; each explanation is held against the stretches before and
after it. They take turns in seconds, not batches: alternating single batches would cool the caches and thread pools of
the raw engine and flatter the ratio. The padding of the last batch, the attribution pass, masking and fusion all count
against the explanation.

    python benchmarks/overhead.py [--bundle resnet50.sightline] [--rounds 5] [--mu 0.3] [--threads 2]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import record

import sightline
from sightline.bindings import Engine, open_engine
from sightline.bundle import PROBABILITIES, Bundle

RAW_BATCH_SIZES = (1, 8, 16)
STRETCH = 3.0
"""Seconds of the raw engine at each batch size between two explanations."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, help="an existing bundle (default: a ResNet-50, exported first)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--mu", type=float, default=0.3)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/overhead.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.bundle is None:
            from networks import resnet50

            bundle = resnet50(Path(folder) / "resnet50.sightline", arguments.seed)
        else:
            bundle = sightline.load(arguments.bundle)
        path = measure(bundle, arguments)
    print(json.dumps(json.loads(path.read_text(encoding="utf-8"))["figures"], indent=2))


def measure(bundle: Bundle, arguments: argparse.Namespace) -> Path:
    random = np.random.default_rng(arguments.seed)
    spec = bundle.input
    image = random.integers(0, 256, (spec.height, spec.width, 3), dtype=np.uint8)
    ratios: list[float] = []
    explanations: list[float] = []
    with ExitStack() as stack:
        raw = {size: stack.enter_context(open_raw(bundle, size, arguments.threads, random)) for size in RAW_BATCH_SIZES}
        explainer = sightline.Explainer(
            bundle, sightline.SISE(mu=arguments.mu), batch_size=arguments.batch_size, threads=arguments.threads
        )
        with explainer:
            explainer(image)  # warms up
            stretches = [per_image(raw)]
            for round in range(1, arguments.rounds + 1):
                began = time.perf_counter()
                explanation = explainer(image)
                explanations.append(time.perf_counter() - began)
                stretches.append(per_image(raw))
                print(f"round {round}: {explanation.passes} passes, {explanations[-1]:.2f} s; raw {stretches[-1]}")
            best = min(raw, key=lambda size: float(np.median([stretch[size] for stretch in stretches])))
            times = [stretch[best] for stretch in stretches]
            for seconds, before, after in zip(explanations, times, times[1:], strict=False):
                ratios.append(seconds / (explanation.passes * (before + after) / 2))
            stages = {f"stage {name}": seconds for name, seconds in explanation.timings.items()}
            parameters = {
                "seed": arguments.seed,
                "mu": arguments.mu,
                "batch_size": explainer.batch_size,
                "raw_batch_sizes": list(RAW_BATCH_SIZES),
                "raw_batch_size": best,
                "threads": arguments.threads,
                "maps": sum(block.channels for block in bundle.blocks),
                "engine": explainer.engine,
            }
    path: Path | None = arguments.output
    return record.write(
        "overhead",
        parameters,
        {
            "overhead_ratio": record.spread(ratios, "1"),
            "explanation": record.spread(explanations, "s"),
            "raw_engine_per_image": record.spread(times, "s"),
            "passes": explanation.passes,
            **stages,
        },
        path,
    )


def per_image(raw: Mapping[int, Engine]) -> dict[int, float]:
    """The raw engine's seconds per image at every batch size: the mean of a stretch of passes, without the first ones.

    The mean, because an explanation's time holds the machine's hiccups too.
    """
    means = {}
    for size, engine in raw.items():
        times: list[float] = []
        until = time.perf_counter() + STRETCH
        while time.perf_counter() < until or len(times) < 5:
            began = time.perf_counter()
            engine.run()
            times.append(time.perf_counter() - began)
        means[size] = float(np.mean(times[1 + len(times) // 5 :])) / size
    return means


def open_raw(bundle: Bundle, size: int, threads: int | None, random: np.random.Generator) -> Engine:
    spec = bundle.input
    shape = spec.shape if spec.layout == "NCHW" else (spec.height, spec.width, spec.channels)
    engine = open_engine(
        bundle.classifier, shapes={spec.name: (size, *shape)}, outputs=[PROBABILITIES], threads=threads
    )
    engine.buffers[spec.name][:] = random.normal(size=(size, *shape))
    return engine


if __name__ == "__main__":
    main()
