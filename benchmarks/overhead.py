"""How much an explanation costs beyond the engine: its time / (passes × the engine's best time per image).

The measurement is that of ``sightline bench`` (sightline/bench/end_to_end.py says how), at several engines and
precisions, all in one run.

    python benchmarks/overhead.py [--network vgg16] [--mu 0] [--settings openvino:bf16] [--rounds 5] [--threads 2]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import record

import sightline
from sightline.bench import Report, Spread, end_to_end
from sightline.errors import SightlineError

RAW_BATCH_SIZES = (8, 16)  # CPUs reach their best here; one image at a time is slower on all of them


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="resnet50", help="resnet50, vgg16 or mobilenet_v3_large")
    parser.add_argument("--mu", type=float, default=0.0, help="fewer masks, where all of them would take minutes")
    parser.add_argument("--settings", default="onnxruntime-cpu:fp32,openvino:fp32,openvino:bf16")
    parser.add_argument("--bundles", type=Path, help="where bundles are kept between runs (default: made anew)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of the raw engine at each batch size and turn")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/overhead-<network>.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = measure(arguments.bundles or Path(folder), arguments)
    print(json.dumps(json.loads(path.read_text(encoding="utf-8"))["figures"], indent=2))


def measure(folder: Path, arguments: argparse.Namespace) -> Path:
    from networks import exported

    figures: dict[str, Any] = {}
    settings = [tuple(setting.split(":")) for setting in arguments.settings.split(",")]
    bundle = exported(
        arguments.network,
        folder / f"{arguments.network}.sightline",
        arguments.seed,
        torch_program=any(engine.startswith("torch") for engine, _ in settings),
    )
    for engine, precision in settings:
        name = f"{engine} {precision}"
        try:
            report = end_to_end(
                bundle,
                sightline.SISE(mu=arguments.mu),
                engine,
                precision,
                raw_batch_sizes=RAW_BATCH_SIZES,
                threads=arguments.threads,
                iterations=arguments.rounds,
                seconds=arguments.seconds,
            )
        except SightlineError as error:
            print(f"{name}: skipped: {error}")
            continue
        found = facts(report)
        figures |= {f"{name}: {key}": value for key, value in found.items()}
        print(name, found["overhead_ratio"], found["latency"], flush=True)
    parameters = {
        "network": arguments.network,
        "seed": arguments.seed,
        "mu": arguments.mu,
        "maps": sum(block.channels for block in bundle.blocks),
        "raw_batch_sizes": list(RAW_BATCH_SIZES),
        "seconds_of_raw_engine": arguments.seconds,
        "threads": arguments.threads,
    }
    path: Path | None = arguments.output
    return record.write(f"overhead-{arguments.network}", parameters, figures, path)


def facts(report: Report) -> dict[str, Any]:
    found: dict[str, Any] = {"batch_size": report.setting["batch_size"]}
    for name, value in report.figures.items():
        found[name] = record.spread(value.values, value.unit) if isinstance(value, Spread) else value
    stages = {name: value for name, value in found.items() if name.startswith("stage_")}
    total = stages.pop("stage_total")
    for name in stages:
        found[f"{name} %"] = 100 * found.pop(name) / total
    found.pop("stage_total")
    return found


if __name__ == "__main__":
    main()
