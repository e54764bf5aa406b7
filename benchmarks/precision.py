"""What lower precisions gain and what they cost: SISE on a trained ResNet-50, in turns with float32.

The network is fitted here, on drawn surface defects (``examples/surface``), because the weights decide how much a map
suffers from rounding, and random ones suffer more. Unseen pictures are explained at every setting in turns; each map is
held against the first setting's of the same picture (Pearson, and the mass within the defect), and its seconds too.

    python benchmarks/precision.py [--bundles FOLDER] [--settings onnxruntime-cpu:fp32,openvino:bf16] [--pictures 12]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import numpy as np
import record
import torch
from networks import untrained

import sightline
from sightline import Explainer, Explanation
from sightline.bindings.engine import Precision
from sightline.bundle import Bundle
from sightline.exporter.precision import RECOMMENDED, add_precision
from sightline.metrics import energy_pointing_game
from sightline.runtime.gate import pearson

sys.path.append(str(Path(__file__).resolve().parents[1] / "examples" / "surface"))
from model import LABELS, MEAN, SIZE, STD
from render import render
from train import TEST_SEED, TRAIN_SEED, dataset, normalised, train

FIRST_SEED = 7_000_000
"""Away from the seeds of training, test and demo pictures."""
WORKERS = 2
"""Processes that draw pictures."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", default="onnxruntime-cpu:fp32,openvino:fp32,openvino:bf16,openvino:int8")
    parser.add_argument("--network", default="resnet50", help="resnet50, vgg16 or mobilenet_v3_large")
    parser.add_argument("--bundles", type=Path, help="where the bundle is kept between runs (default: made anew)")
    parser.add_argument("--train", type=int, default=2000, help="pictures to fit on (2000)")
    parser.add_argument("--epochs", type=int, default=8, help="passes over them (8)")
    parser.add_argument("--test", type=int, default=500, help="unseen pictures for the accuracy (500)")
    parser.add_argument("--pictures", type=int, default=12, help="unseen pictures to explain (12)")
    parser.add_argument("--mu", type=float, default=0.3, help="of SISE: the larger, the fewer masks (0.3)")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/precision.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bundle = fitted(arguments.bundles or Path(folder), arguments)
        figures = measured(bundle, arguments)
    names = ("network", "train", "epochs", "pictures", "mu", "threads", "seed")
    path = record.write("precision", {name: getattr(arguments, name) for name in names}, figures, arguments.output)
    print(json.dumps(json.loads(path.read_text(encoding="utf-8"))["figures"], indent=2))


def fitted(folder: Path, arguments: argparse.Namespace) -> Bundle:
    """The bundle of the fitted network, or the one that an earlier run has left there."""
    path = folder / f"{arguments.network}-surface.sightline"
    if (path / "manifest.json").is_file():
        return sightline.load(path)
    net = untrained(arguments.network, arguments.seed, len(LABELS)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    train(net, *dataset(arguments.train, TRAIN_SEED, WORKERS), arguments.epochs, arguments.seed, half=True)
    return sightline.export(net.eval(), path, input_shape=(3, SIZE, SIZE), mean=MEAN, std=STD, labels=LABELS)


def measured(bundle: Bundle, arguments: argparse.Namespace) -> dict[str, Any]:
    settings = [setting.split(":") for setting in arguments.settings.split(",")]
    images, labels = dataset(arguments.test, TEST_SEED, WORKERS)
    if any(precision == "int8" for _, precision in settings) and "int8" not in bundle.variants:
        seen, _ = dataset(RECOMMENDED, TRAIN_SEED, WORKERS)
        bundle = add_precision(bundle, "int8", images=[image.numpy() for image in normalised(seen)])
    shown = [render(LABELS[1 + n % (len(LABELS) - 1)], FIRST_SEED + n, SIZE) for n in range(arguments.pictures)]
    maps: dict[str, list[Explanation]] = defaultdict(list)
    seconds: dict[str, list[float]] = defaultdict(list)
    figures: dict[str, Any] = {}
    with ExitStack() as stack:
        opened = {}
        for engine, precision in settings:
            name = f"{engine} {precision}"
            opened[name] = stack.enter_context(
                Explainer(
                    bundle,
                    sightline.SISE(mu=arguments.mu),
                    engine,
                    precision=cast("Precision", precision),
                    gate=None if precision == "fp32" else [shown[0].image],
                    gate_threshold=-1,  # what is refused elsewhere is measured here
                    threads=arguments.threads,
                )
            )
            found = np.concatenate(list(opened[name].classify(images.permute(0, 2, 3, 1).numpy()))).argmax(axis=1)
            right = 100 * float((found == labels.numpy()).mean())
            figures |= {f"{name}: accuracy %": right, f"{name}: batch_size": opened[name].batch_size}
            print(f"{name}: {right:.1f} % of {len(found)} unseen pictures classified as they were drawn", flush=True)
        for number, sample in enumerate(shown):
            for name, explain in opened.items():
                began = time.perf_counter()
                maps[name].append(explain(sample.image))
                seconds[name].append(time.perf_counter() - began)
            taken = ", ".join(f"{name} {times[-1]:.2f} s" for name, times in seconds.items())
            print(f"{number + 1}/{len(shown)}: {maps[next(iter(opened))][-1].passes} passes: {taken}", flush=True)
    first = next(iter(opened))
    for name in opened:
        pairs = zip(maps[first], maps[name], strict=True)
        faster = [mine / other for mine, other in zip(seconds[first], seconds[name], strict=True)]
        inside = [energy_pointing_game(found, each.mask) for found, each in zip(maps[name], shown, strict=True)]
        figures |= {
            f"{name}: latency": record.spread(seconds[name], "s"),
            f"{name}: times as fast as {first}": record.spread(faster, "1"),
            f"{name}: pearson": record.spread([pearson(mine, other) for mine, other in pairs], "1"),
            f"{name}: EBPG %": 100 * float(np.mean(inside)),
            f"{name}: passes": float(np.mean([found.passes for found in maps[name]])),
        }
    return figures


if __name__ == "__main__":
    main()
