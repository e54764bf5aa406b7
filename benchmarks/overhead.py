"""How much an explanation costs beyond the engine: its time / (passes × the engine's best time per image).

The raw engine is timed in the same run, interleaved: every few batches of an explanation stop for one batch of the raw
engine, so that a noisy machine disturbs both alike. The padding of the last batch, the attribution pass, masking and
fusion all count against the explanation. ``accounted_ratio`` takes the engine's time per image from the explanation's
own passes instead: it leaves out what the batch size costs, and does not see a noisy machine.

    python benchmarks/overhead.py [--bundle resnet50.sightline] [--rounds 5] [--mu 0.3] [--threads 2]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import record

import sightline
from sightline.bindings import Engine, open_engine
from sightline.bundle import PROBABILITIES, Bundle

BATCH_SIZES = (1, 4, 8, 16, 32)
EVERY = 2
"""Batches of the explanation between two of the raw engine."""


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
    size = best_batch_size(bundle, arguments.threads, random)
    spec = bundle.input
    image = random.integers(0, 256, (spec.height, spec.width, 3), dtype=np.uint8)
    ratios, accounted, explanations, per_image = [], [], [], []
    with open_raw(bundle, size, arguments.threads, random) as raw:
        samples: list[float] = []

        def interleave(done: int, total: int) -> None:
            if (done // explainer.batch_size) % EVERY == 0:
                began = time.perf_counter()
                raw.run()
                samples.append(time.perf_counter() - began)

        explainer = sightline.Explainer(
            bundle,
            sightline.SISE(mu=arguments.mu),
            batch_size=arguments.batch_size,
            threads=arguments.threads,
            progress=interleave,
        )
        with explainer:
            for round in range(arguments.rounds + 1):
                samples.clear()
                began = time.perf_counter()
                explanation = explainer(image)
                seconds = time.perf_counter() - began - sum(samples)
                if round:  # the first one warms up
                    per_image.append(float(np.median(samples)) / size)
                    explanations.append(seconds)
                    ratios.append(seconds / (explanation.passes * per_image[-1]))
                    slots = -(-explanation.passes // explainer.batch_size) * explainer.batch_size
                    per_slot = explanation.timings["passes"] / slots
                    accounted.append(explanation.timings["total"] / (explanation.passes * per_slot))
                    print(f"round {round}: {explanation.passes} passes, {seconds:.2f} s, ratio {ratios[-1]:.3f}")
            stages = {f"stage {name}": seconds for name, seconds in explanation.timings.items()}
            parameters = {
                "seed": arguments.seed,
                "mu": arguments.mu,
                "batch_size": explainer.batch_size,
                "raw_batch_size": size,
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
            "accounted_ratio": record.spread(accounted, "1"),
            "explanation": record.spread(explanations, "s"),
            "raw_engine_per_image": record.spread(per_image, "s"),
            "passes": explanation.passes,
            **stages,
        },
        path,
    )


def best_batch_size(bundle: Bundle, threads: int | None, random: np.random.Generator) -> int:
    """The batch size at which the raw engine is fastest per image."""
    engines = {size: open_raw(bundle, size, threads, random) for size in BATCH_SIZES}
    times: dict[int, list[float]] = {size: [] for size in engines}
    for _ in range(5):
        for size, engine in engines.items():
            began = time.perf_counter()
            for _ in range(max(BATCH_SIZES) // size):
                engine.run()
            times[size].append((time.perf_counter() - began) / max(BATCH_SIZES))
    for size, engine in engines.items():
        engine.close()
        print(f"raw engine, batch {size}: {1e3 * np.median(times[size]):.2f} ms an image")
    return min(times, key=lambda size: float(np.median(times[size])))


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
