"""Whole explanations, held against the raw engine: how much they cost beyond their passes.

The raw engine, at several batch sizes of which the fastest counts, and explanations take turns in one run, so that a
machine whose speed drifts disturbs both alike; each explanation is held against the stretches before and after it. They
take turns in seconds, not batches: alternating single batches would cool the caches and thread pools of the raw engine
and flatter the ratio. Padding, the attribution pass, masking and fusion all count against the explanation.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sightline.bench.forward import open_raw, stretch
from sightline.bench.report import Report, Spread, doubts
from sightline.bindings.engine import Precision
from sightline.bundle import Bundle
from sightline.runtime.explainer import Explainer
from sightline.runtime.explanation import Explanation
from sightline.runtime.gate import THRESHOLD, pearson
from sightline.runtime.image import ImageLike
from sightline.runtime.method import Method

AGREEMENT = 0.999
"""Pearson's correlation that the maps of all iterations must reach with the first one's."""


def end_to_end(
    bundle: Bundle,
    method: Method,
    engine: str = "auto",
    precision: Precision = "fp32",
    batch_size: int | None = None,
    *,
    image: ImageLike | None = None,
    raw_batch_sizes: Sequence[int] = (),
    threads: int | None = None,
    warmup: int = 1,
    iterations: int = 5,
    seconds: float = 2.0,
    gate_threshold: float = THRESHOLD,
) -> Report:
    """Time explanations of one image.

    Args:
        bundle: what to explain with.
        method: what to compute.
        engine, precision, batch_size, threads: as for an Explainer.
        image: what to explain; smooth noise by default.
        raw_batch_sizes: batch sizes of the raw engine beside the explainer's own.
        warmup, iterations: explanations, before and while timing.
        seconds: of the raw engine, at each batch size, before and after every explanation.
        gate_threshold: what a lower precision must reach.
    """
    picture = smooth_noise(bundle) if image is None else image
    with ExitStack() as stack:
        explainer = stack.enter_context(
            Explainer(
                bundle,
                method,
                engine,
                batch_size,
                precision=precision,
                gate=None if precision == "fp32" else [picture],
                gate_threshold=gate_threshold,
                threads=threads,
            )
        )
        for _ in range(max(1, warmup)):
            first = explainer(picture)
        sizes = sorted({*raw_batch_sizes, explainer.batch_size})
        raw = {
            size: stack.enter_context(open_raw(bundle, explainer.engine, precision, size, threads)) for size in sizes
        }
        stretches = [{size: stretch(opened, seconds) for size, opened in raw.items()}]
        times: list[float] = []
        found: list[Explanation] = []
        for _ in range(iterations):
            began = time.perf_counter()
            found.append(explainer(picture))
            times.append(time.perf_counter() - began)
            stretches.append({size: stretch(opened, seconds) for size, opened in raw.items()})
        gate = explainer.gate
        setting = {
            "method": method.name,
            "engine": explainer.engine,
            "precision": explainer.precision,
            "batch_size": explainer.batch_size,
            "threads": threads,
        }
    best = min(sizes, key=lambda size: statistics.median(each[size] for each in stretches))
    base = [each[best] for each in stretches]
    spreads = {"latency": Spread(tuple(times), "s"), "raw_engine_per_image": Spread(tuple(base), "s")}
    if first.passes:  # the Grad-CAMs make none
        ratios = (
            explained / (first.passes * (before + after) / 2)
            for explained, before, after in zip(times, base, base[1:], strict=False)
        )
        spreads["overhead_ratio"] = Spread(tuple(ratios), "1")
    warnings = doubts(spreads)
    agreement = min(pearson(first, each) for each in found)
    valid = bool(agreement >= AGREEMENT and np.isfinite(first.saliency).all())
    if not valid:
        warnings.append(f"the maps differ from one iteration to the next: Pearson {agreement:.4f}")
    if not first.saliency.any():
        warnings.append("the map is all zero: explain an image that the network knows (--image)")
    stages = {name: statistics.median(each.timings[name] for each in found) for name in first.timings}
    return Report(
        "end-to-end",
        setting,
        {
            **spreads,
            "passes": first.passes,
            "passes_per_second": first.passes / spreads["latency"].median,
            "explanations_per_second": 1 / spreads["latency"].median,
            "raw_batch_size": best,
            **{f"stage_{name}": value for name, value in stages.items()},
            "peak_memory_bytes": peak_memory(),
            "pearson_between_iterations": agreement,
            **({} if gate is None else {"pearson_with_fp32": min(gate.correlations)}),
        },
        tuple(warnings),
        valid,
    )


def smooth_noise(bundle: Bundle, seed: int = 0) -> npt.NDArray[np.float32]:
    """A preprocessed image of smooth noise: what the network sees of it is no constant at any block."""
    random = np.random.default_rng(seed)
    channels, height, width = bundle.input.shape
    noise = random.normal(size=(channels, -(-height // 8), -(-width // 8)))
    full = noise.repeat(8, axis=1).repeat(8, axis=2)[:, :height, :width]
    return (full + 0.3 * random.normal(size=full.shape)).astype(np.float32)


def peak_memory() -> int:
    """The most that this process has held so far, in bytes; on a GPU the host's part of it."""
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    if sys.platform == "linux":  # getrusage gives a child no less than the peak of the process that started it
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
