"""The engine alone: passes of the classifier on buffers that nobody touches."""

from __future__ import annotations

import os
import time

import numpy as np

from sightline import cache
from sightline.bench.report import Report, Spread, doubts
from sightline.bindings import Engine, choose, open_engine, variant
from sightline.bindings.engine import Precision
from sightline.bundle import PROBABILITIES, Bundle
from sightline.kernels import kernels_for

HOST_BOUND = 0.9
"""Share of the time that the host takes to enqueue the passes, from which on the device waits for the host."""
PIPELINED = 8
"""Passes that are enqueued before the host waits, where they can be."""
IDLE = 0.7
"""Share of the cores' time that a CPU engine should at least get."""


def open_raw(
    bundle: Bundle, engine: str, precision: Precision, batch_size: int, threads: int | None = None, seed: int = 0
) -> Engine:
    """The classifier on an engine, its input filled with noise."""
    spec = bundle.input
    shape = spec.shape if spec.layout == "NCHW" else (spec.height, spec.width, spec.channels)
    name = choose(engine, variants=bundle.variants, precision=precision)
    opened = open_engine(
        bundle.graph(variant(name, precision)),
        name,
        shapes={spec.name: (batch_size, *shape)},
        outputs=[PROBABILITIES],
        threads=threads,
        precision=precision,
        cache=cache.folder() / bundle.hash[:16],
    )
    noise = np.random.default_rng(seed).normal(size=(batch_size, *shape)).astype(np.float32)
    kernels_for(opened.device, opened.stream).write(opened.buffers[spec.name], noise)
    return opened


def forward(
    bundle: Bundle,
    engine: str,
    precision: Precision,
    batch_size: int,
    *,
    threads: int | None = None,
    warmup: int = 5,
    iterations: int = 30,
) -> Report:
    """Time single passes (latency), then passes enqueued one after the other (throughput)."""
    with open_raw(bundle, engine, precision, batch_size, threads) as opened:
        for _ in range(warmup):
            _pass(opened)
        latencies = tuple(_pass(opened) for _ in range(iterations))
        began, processor = time.perf_counter(), time.process_time()
        for _ in range(iterations):
            opened.run()
        enqueued = time.perf_counter() - began
        _wait(opened)
        seconds, processor = time.perf_counter() - began, time.process_time() - processor
        setting = {"engine": opened.name, "precision": opened.precision, "batch_size": batch_size, "threads": threads}
        warnings = doubts({"latency": Spread(latencies, "s")})
        if opened.device == "cuda" and enqueued > HOST_BOUND * seconds:
            warnings.append(
                "host-bound: enqueueing takes as long as the passes; use a larger batch or a CUDA graph (or the engine "
                "waits in every pass, as ONNX Runtime's TensorRT provider does, and older versions of its CUDA one)"
            )
        if opened.device == "cpu":
            cores = min(threads or _cores(), _cores())
            if processor < IDLE * seconds * cores:
                load = f" (load {os.getloadavg()[0]:.1f})" if hasattr(os, "getloadavg") else ""
                warnings.append(
                    f"the engine got {processor / seconds:.1f} of {cores} cores: other programs took the rest{load}, "
                    "or the batch is too small to use them"
                )
        return Report(
            "forward",
            setting,
            {
                "latency": Spread(latencies, "s"),
                "passes_per_second": iterations * batch_size / seconds,
                "seconds_per_pass": seconds / iterations / batch_size,
            },
            tuple(warnings),
        )


def stretch(engine: Engine, seconds: float) -> float:
    """Seconds per image of the raw engine: the mean over a stretch of passes, without its first fifth.

    The mean, because an explanation's time holds the machine's hiccups too.
    """
    times: list[float] = []
    until = time.perf_counter() + seconds
    # On a GPU explanations enqueue pass behind pass: waiting for each would hold them against a slower engine.
    passes = 1 if engine.stream is None else PIPELINED
    while time.perf_counter() < until or len(times) < 5:
        times.append(_pass(engine, passes) / passes)
    (batch, *_) = next(iter(engine.buffers.values())).shape
    return float(np.mean(times[len(times) // 5 :])) / int(batch)


def _pass(engine: Engine, passes: int = 1) -> float:
    began = time.perf_counter()
    for _ in range(passes):
        engine.run()
    _wait(engine)
    return time.perf_counter() - began


def _wait(engine: Engine) -> None:
    if engine.stream is not None:
        engine.stream.synchronize()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
