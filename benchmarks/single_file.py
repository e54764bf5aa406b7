"""The single file beside the runtime: the same map, in what time, in how much room.

Both explain the same picture on the same engine with the same batch, in turns that swap who goes first, so that what
else the machine does hits both alike. The ratio is that of the two times of one turn. Memory is the highest resident
set of a fresh process that opens the file and explains once, with few masks and with all.

    python benchmarks/single_file.py [--networks mobilenet_v2,resnet50,vgg16] [--mu 0] [--rounds 5]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import record

import sightline
from sightline import bundle as bundles
from sightline import demo
from sightline.bundle import Bundle
from sightline.runtime.image import prepare

Floats = npt.NDArray[np.float32]
Found = tuple[Floats, int]
BATCH_SIZE = 16
ENGINES = {"onnxruntime": "onnxruntime-cpu", "openvino": "openvino"}
"""How the file is run, and the runtime's engine beside it."""
FEW = BATCH_SIZE

PEAK = """
import resource, sys
import numpy as np
import onnxruntime
options = onnxruntime.SessionOptions()
options.log_severity_level = 3
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
feeds = {"image": np.load(sys.argv[2]), "target": np.array([-1]), "max_passes": np.array([int(sys.argv[3])])}
(passes,) = session.run(["passes"], feeds)
print(passes.item(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default="demo,mobilenet_v2,resnet50,vgg16")
    parser.add_argument("--engines", default=",".join(ENGINES))
    parser.add_argument("--mu", type=float, default=0.0, help="fewer masks, where all of them would take minutes")
    parser.add_argument("--bundles", type=Path, help="where bundles are kept between runs (default: made anew)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-memory", action="store_true", help="leave the memory out")
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/single-file.json")
    arguments = parser.parse_args()
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place:
        for name in arguments.networks.split(","):
            source = network(name, arguments.bundles or Path(place), arguments.seed)
            image = prepare(demo.samples()[1].image, source.input).array
            found = {**sizes(source, Path(place)), **beside(source, image, Path(place), arguments)}
            if not arguments.no_memory:
                found |= memory(source, image, Path(place))
            figures |= {f"{name}: {key}": value for key, value in found.items()}
            print(json.dumps({name: found}, indent=2), flush=True)
    parameters = {
        "networks": arguments.networks,
        "engines": arguments.engines,
        "mu": arguments.mu,
        "batch_size": BATCH_SIZE,
        "seed": arguments.seed,
    }
    print(record.write("single-file", parameters, figures, arguments.output))


def network(name: str, folder: Path, seed: int) -> Bundle:
    if name == "demo":
        return sightline.load(demo.BUNDLE)
    from networks import exported

    return exported(name, folder / f"{name}.sightline", seed)


def sizes(source: Bundle, folder: Path) -> dict[str, Any]:
    """Bytes of the file over those of the classifier."""
    classifier = source.classifier.stat().st_size + (source.path / bundles.WEIGHTS).stat().st_size
    whole = sightline.export_single_file(source, folder / "whole.onnx", overwrite=True)
    apart = sightline.export_single_file(source, folder / "apart.onnx", external_data=True, overwrite=True)
    beside = apart.stat().st_size + apart.with_name(f"{apart.name}.data").stat().st_size
    return {"size_ratio": whole.stat().st_size / classifier, "size_ratio_external": beside / classifier}


def beside(source: Bundle, image: Floats, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Time and agreement, by engine."""
    path = sightline.export_single_file(
        source, folder / "explainer.onnx", mu=arguments.mu, batch_size=BATCH_SIZE, inputs=(), overwrite=True
    )
    found: dict[str, Any] = {}
    for engine in arguments.engines.split(","):
        method = sightline.SISE(mu=arguments.mu)
        with sightline.Explainer(source, method, ENGINES[engine], BATCH_SIZE) as explainer:
            ways: dict[str, Callable[[], Found]] = {
                "runtime": lambda explainer=explainer: _explained(explainer, image),  # type: ignore[misc]
                "single_file": opened(path, engine, image),
            }
            seconds: dict[str, list[float]] = {name: [] for name in ways}
            maps: dict[str, Found] = {}
            for turn in range(arguments.rounds + 1):
                for name in sorted(ways, reverse=turn % 2 == 1):
                    began = time.perf_counter()
                    maps[name] = ways[name]()
                    seconds[name].append(time.perf_counter() - began)
        ours, theirs = seconds["single_file"][1:], seconds["runtime"][1:]  # the first turn warms both up
        (got, passes), (want, expected) = maps["single_file"], maps["runtime"]
        off = np.abs(got.astype(np.float64) - want)
        found |= {
            f"{engine}: passes": passes,
            f"{engine}: passes_of_runtime": expected,
            f"{engine}: pearson": float(np.corrcoef(got.ravel(), want.ravel())[0, 1]),
            f"{engine}: pixels_off %": 100 * float(np.mean(off > 1e-3)),
            f"{engine}: largest_difference": float(off.max()),
            f"{engine}: single_file": record.spread(ours, "s"),
            f"{engine}: runtime": record.spread(theirs, "s"),
            f"{engine}: time_ratio": record.spread([a / b for a, b in zip(ours, theirs, strict=True)], "1"),
        }
    return found


def _explained(explainer: sightline.Explainer, image: Floats) -> Found:
    explanation = explainer(image if explainer.bundle.input.layout == "NCHW" else np.moveaxis(image, 2, 0))
    return explanation.saliency, explanation.passes


def opened(path: Path, engine: str, image: Floats) -> Callable[[], Found]:
    """The file on an engine, as a function without arguments."""
    feeds = {"image": image[None]}
    if engine == "openvino":
        import openvino

        settings = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1"}
        model = openvino.Core().compile_model(str(path), "CPU", settings)

        def by_openvino() -> Found:
            found = model(feeds)
            return np.array(found["saliency"]), int(found["passes"].item())

        return by_openvino
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def by_onnxruntime() -> Found:
        saliency, passes = session.run(["saliency", "passes"], feeds)
        return saliency, int(passes.item())

    return by_onnxruntime


def memory(source: Bundle, image: Floats, folder: Path) -> dict[str, Any]:
    """The highest resident set with few masks and with many, in MiB."""
    path = sightline.export_single_file(
        source, folder / "limited.onnx", batch_size=BATCH_SIZE, inputs=("target", "max_passes"), overwrite=True
    )
    np.save(folder / "image.npy", image[None])
    found = {}
    for limit in (FEW, 10 * FEW):
        command = [sys.executable, "-c", PEAK, str(path), str(folder / "image.npy"), str(limit)]
        passes, kilobytes = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        found[f"memory MiB, {passes} masks"] = int(kilobytes) / 1024
    return found


if __name__ == "__main__":
    main()
