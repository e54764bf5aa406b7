"""What it takes to find out that an image need not be explained: by each pass that tells, and in a stream of them.

Passes take turns. In the stream ``only_if`` says no to every frame: once the classifier alone is asked, as it is on a
CPU, once the attribution pass, as it would be without.

    python benchmarks/classifying.py [--networks demo,resnet50] [--engines onnxruntime-cpu,openvino]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import record
from contenders import resident
from networks import exported

import sightline
from sightline import demo
from sightline.bundle import Bundle
from sightline.runtime.image import prepare


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default="demo,mobilenet_v3_large,resnet50")
    parser.add_argument("--engines", default="onnxruntime-cpu,openvino")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--frames", type=int, default=60, help="in each stream (60)")
    parser.add_argument("--rounds", type=int, default=3, help="streams of either kind, in turns (3)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/classifying.json")
    arguments = parser.parse_args()
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.networks.split(","):
            bundle = (
                sightline.load(demo.BUNDLE)
                if name == "demo"
                else exported(name, Path(folder) / f"{name}.sightline", arguments.seed)
            )
            for engine in arguments.engines.split(","):
                found = measured(bundle, engine, arguments)
                figures |= {f"{name}, {engine}: {what}": value for what, value in found.items()}
                print(name, engine, found["attribution pass over classifier"], flush=True)
    asked = ("seed", "batch_size", "threads", "repeats", "frames", "rounds")
    parameters = {key: getattr(arguments, key) for key in asked}
    path = record.write("classifying", parameters, figures, arguments.output)
    print(json.dumps(json.loads(path.read_text(encoding="utf-8"))["figures"], indent=2))


def measured(bundle: Bundle, engine: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds for one image by every pass, frames a second of either stream, and what the classifier's engine holds."""
    image = prepare(demo.samples()[0].image, bundle.input)
    with sightline.Explainer(bundle, "sise", engine, arguments.batch_size, threads=arguments.threads) as explainer:
        whole = explainer._engines.whole
        assert whole is not None  # on a CPU
        explainer._attribute(image.array, None)
        before = resident.now()
        whole.ready()
        whole(image.array)
        held = resident.now() - before
        ways: dict[str, Callable[[], Any]] = {
            "classifier": lambda: whole(image.array),
            "attribution pass": lambda: explainer._attribute(image.array, None),
            "batch of masked passes": lambda: list(explainer.classify([image.array])),
        }
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(arguments.repeats):
            for way, run in ways.items():
                began = time.perf_counter()
                run()
                seconds[way].append(time.perf_counter() - began)
        engines = {
            "classifier": explainer._engines,
            "attribution pass": dataclasses.replace(explainer._engines, whole=None),
        }
        rates: dict[str, list[float]] = {way: [] for way in engines}
        for _ in range(arguments.rounds):
            for way, used in engines.items():
                explainer._engines = used
                rates[way].append(streamed(explainer, arguments.frames))
        explainer._engines = engines["classifier"]
    pairs = zip(seconds["attribution pass"], seconds["classifier"], strict=True)
    return {
        **{f"one image by the {way}": record.spread(values, "s") for way, values in seconds.items()},
        "attribution pass over classifier": record.spread([slow / fast for slow, fast in pairs], "1"),
        **{f"stream by the {way}": record.spread(values, "frames/s") for way, values in rates.items()},
        "classifier's engine, MiB": held,
    }


def streamed(explainer: sightline.Explainer, count: int) -> float:
    """Frames a second, none of which is explained."""
    frames = [sample.image for sample in islice(cycle(demo.samples()), count)]
    began = time.perf_counter()
    with explainer.stream(frames, only_if=lambda _: False) as stream:
        assert all(result.state == "skipped" for result in stream)
    return count / (time.perf_counter() - began)


if __name__ == "__main__":
    main()
