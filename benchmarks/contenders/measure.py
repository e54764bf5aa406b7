"""Measures one contender in this process, which must be a fresh one, and writes what it found as JSON.

    python -m contenders.measure FOLDER NAME RESULT [--stretch 2] [--no-warm-up]

In this order: the packages are imported; the contender is opened; it explains once, cold, under the watch of the
resident set; a stretch of the raw engine; the timed explanation; another stretch of the raw engine. A name of
``raw.ENGINES`` stands for the raw engine alone, whose memory is what one loaded network takes.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import numpy as np

from . import raw, resident
from .contender import Case, Contender, Map, Opened, UnavailableError
from .registry import CONTENDERS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("name", choices=[*CONTENDERS, *raw.ENGINES])
    parser.add_argument("result", type=Path)
    parser.add_argument("--stretch", type=float, default=2.0, help="seconds of the raw engine at every batch size")
    parser.add_argument("--no-warm-up", action="store_true", help="no cold explanation, and no figure for memory")
    arguments = parser.parse_args()
    case = Case.load(arguments.folder)
    found: dict[str, Any]
    try:
        if arguments.name in raw.ENGINES:
            found = measure_raw(case, arguments.name, arguments.stretch)
        else:
            contender = CONTENDERS[arguments.name]
            found = measure(case, contender, arguments.stretch, warm_up=not arguments.no_warm_up)
            np.save(arguments.result.with_suffix(".npy"), found.pop("map"))
    except UnavailableError as error:
        found = {"skipped": str(error)}
    arguments.result.write_text(json.dumps(found), encoding="utf-8")


def measure(case: Case, contender: Contender, stretch: float, *, warm_up: bool = True) -> dict[str, Any]:
    """Seconds, passes, raw stretches and memory of one contender.

    Raises:
        UnavailableError: a package is not installed, or the contender cannot run here.
    """
    versions = import_packages(contender.needs)
    imported = resident.now()
    opened = contender.open(case)
    opened.counter.take()
    gc.collect()
    resident.forget_peak()
    opened.prepare()
    found: dict[str, Any] = {"engine": opened.engine, "versions": versions}
    if warm_up:
        found["cold seconds"], _, _ = timed(opened, case)
        found["MiB beyond imports"] = resident.peak() - imported
    passes = {size: raw.open_raw(opened.engine, case, size) for size in raw.BATCH_SIZES}
    for run in passes.values():
        run()
    before = raw.stretch(passes, stretch)
    found["seconds"], found["passes"], found["map"] = timed(opened, case)
    found["raw"] = [before, raw.stretch(passes, stretch)]
    return found


def measure_raw(case: Case, engine: str, stretch: float) -> dict[str, Any]:
    """The raw engine alone: its speed, and what one loaded network takes of memory."""
    versions = import_packages((raw.PACKAGES[engine],))
    if engine == "torch":
        import_packages(("torchvision",))
    imported = resident.now()
    single = raw.open_raw(engine, case, 1)
    single()
    gc.collect()
    loaded = resident.now() - imported
    passes = {1: single, **{size: raw.open_raw(engine, case, size) for size in raw.BATCH_SIZES if size != 1}}
    for run in passes.values():
        run()
    return {
        "engine": engine,
        "versions": versions,
        "raw": [raw.stretch(passes, stretch)],
        "MiB beyond imports": loaded,
    }


def timed(opened: Opened, case: Case) -> tuple[float, int, Map]:
    """One explanation: its seconds, the images that went through the network for it, and the map, looked at."""
    opened.counter.take()
    began = time.perf_counter()
    saliency = opened.explain()
    seconds = time.perf_counter() - began
    passes = opened.counter.take()
    if passes < 1:
        raise AssertionError("not a single pass was counted: the counting misses this contender's way to its engine")
    if saliency.ndim != 2 or not np.isfinite(saliency).all():
        raise AssertionError(f"this is no map: shape {saliency.shape}, finite {bool(np.isfinite(saliency).all())}")
    return seconds, passes, saliency.astype(np.float32)


def import_packages(names: tuple[str, ...]) -> dict[str, str]:
    """Import what a contender stands on, so that its code does not count as its memory; the versions."""
    if "torchvision" in names or "pytorch_grad_cam" in names:
        from .subject import prepare_torchvision

        prepare_torchvision()
    if "openvino_xai" in names:
        from .openvino_xai_methods import provide_openvino_runtime

        provide_openvino_runtime()
    versions = {}
    for name in names:
        try:
            import_module(name)
        except ModuleNotFoundError as error:
            raise UnavailableError(f"{error.name} is not installed") from error
        for distribution in metadata.packages_distributions().get(name.partition(".")[0], [])[:1]:
            versions[distribution] = metadata.version(distribution)
    return versions


if __name__ == "__main__":
    main()
