"""What sharing a batch out among OpenVINO's requests gains over one request with all threads, passes in turns.

    python benchmarks/sharing.py [--networks resnet50,mobilenet_v3_large] [--batch-sizes 8,16] [--beside 1]

``--beside`` measures once more while so many other processes keep a core busy each. A figure below 1 is a gain.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import record
from networks import exported

from sightline.bindings import open_engine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default="resnet50,mobilenet_v3_large")
    parser.add_argument("--batch-sizes", default="8,16")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--beside", type=int, default=1, help="busy processes in the second measurement")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/sharing.json")
    arguments = parser.parse_args()
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.networks.split(","):
            graph = exported(name, Path(folder) / f"{name}.sightline", arguments.seed).classifier
            for size in map(int, arguments.batch_sizes.split(",")):
                for beside in (0, arguments.beside):
                    with busy(beside):
                        found = ratios(graph, size, arguments.threads, arguments.rounds, arguments.seed)
                    key = f"{name}, batch {size}{f', {beside} busy beside' if beside else ''}"
                    figures |= {f"{key}: {what}": value for what, value in found.items()}
                    print(key, found["over one request"], flush=True)
    parameters = {"seed": arguments.seed, "threads": arguments.threads, "rounds": arguments.rounds}
    path = record.write("sharing", parameters, figures, arguments.output)
    print(json.dumps(json.loads(path.read_text(encoding="utf-8"))["figures"], indent=2))


def ratios(graph: Path, size: int, threads: int, rounds: int, seed: int) -> dict[str, Any]:
    """Seconds per image of either way, and their quotients within a round."""
    images = np.random.default_rng(seed).normal(size=(size, 3, 224, 224)).astype(np.float32)
    with ExitStack() as stack:
        engine = stack.enter_context(open_engine(graph, "openvino", shapes={"x": images.shape}, threads=threads))
        engine.buffers["x"][...] = images
        ways = {"one request": one_request(graph, images, threads), "shared out": engine.run}
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for run in ways.values():
            run()
        for _ in range(rounds):
            for way, run in ways.items():
                began = time.perf_counter()
                run()
                seconds[way].append((time.perf_counter() - began) / size)
    quotients = np.array(seconds["shared out"]) / np.array(seconds["one request"])
    return {
        **{f"{way}, per image": record.spread(values, "s") for way, values in seconds.items()},
        "over one request": record.spread(quotients.tolist(), "1"),
    }


def one_request(graph: Path, images: np.ndarray[Any, np.dtype[np.float32]], threads: int) -> Callable[[], Any]:
    """The whole batch in one request, with all threads: OpenVINO's way to the least latency."""
    import openvino

    core = openvino.Core()
    model = core.read_model(graph)
    model.reshape(list(images.shape))
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": False,
        "NUM_STREAMS": "1",
        "PERFORMANCE_HINT": "LATENCY",
    }
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    request.set_input_tensor(openvino.Tensor(images))
    return lambda: request.infer()


@contextmanager
def busy(count: int) -> Iterator[None]:
    """So many processes that do nothing but count."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


if __name__ == "__main__":
    main()
