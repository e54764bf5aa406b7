"""The order of the measurements, and what they come to."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import record

Found = Mapping[str, Any]
"""What one measuring process wrote."""


def plan(names: Sequence[str], rounds: int, seed: int) -> list[list[str]]:
    """Every name once a round, in another order every round: a machine that slows down disturbs all alike."""
    generator = random.Random(seed)
    return [generator.sample(list(names), len(names)) for _ in range(rounds)]


def best_batch_size(stretches: Sequence[Mapping[str, float]]) -> str:
    """The batch size at which a raw engine is fastest, by the median over all its stretches."""
    return min(stretches[0], key=lambda size: float(np.median([stretch[size] for stretch in stretches])))


def raw_engines(rounds: Sequence[Mapping[str, Found]]) -> dict[str, list[float]]:
    """Seconds per image of every raw engine, at its best batch size, by round; all stretches of a round count."""
    engines = sorted({found["engine"] for measured in rounds for found in measured.values()})
    speeds = {}
    for engine in engines:
        by_round = [
            [stretch for found in measured.values() if found["engine"] == engine for stretch in found["raw"]]
            for measured in rounds
        ]
        best = best_batch_size([stretch for stretches in by_round for stretch in stretches])
        speeds[engine] = [
            float(np.mean([stretch[best] for stretch in stretches])) if stretches else float("nan")
            for stretches in by_round
        ]
    return speeds


def figures(rounds: Sequence[Mapping[str, Found]], contenders: Sequence[str]) -> dict[str, Any]:
    """The figures of the record: of every contender measured in all rounds, and of every raw engine."""
    speeds = raw_engines(rounds)
    fastest = min(speeds, key=lambda engine: float(np.nanmedian(speeds[engine])))
    summed: dict[str, Any] = {"fastest engine": fastest}
    for engine, seconds in speeds.items():
        summed[f"raw {engine} per image"] = record.spread([value for value in seconds if value == value], "s")
    for name in contenders:
        runs = [measured.get(name) for measured in rounds]
        there = [(run, floor) for run, floor in zip(runs, speeds[fastest], strict=True) if run is not None]
        if there:
            summed.update(_of_contender(name, there, _loaded(rounds)))
    return summed


def _of_contender(name: str, runs: Sequence[tuple[Found, float]], loaded: Mapping[str, float]) -> dict[str, Any]:
    best = best_batch_size([stretch for run, _ in runs for stretch in run["raw"]])
    engine = runs[0][0]["engine"]
    per_pass = [run["seconds"] / run["passes"] for run, _ in runs]
    own = [float(np.mean([stretch[best] for stretch in run["raw"]])) for run, _ in runs]
    summed: dict[str, Any] = {
        f"{name}: engine": engine,
        f"{name}: passes": float(np.median([run["passes"] for run, _ in runs])),
        f"{name}: seconds": record.spread([run["seconds"] for run, _ in runs], "s"),
        f"{name}: per pass": record.spread(per_pass, "s"),
        f"{name}: over its engine": record.spread([a / b for a, b in zip(per_pass, own, strict=True)], "1"),
        f"{name}: over the fastest engine": record.spread(
            [seconds / floor for seconds, (_, floor) in zip(per_pass, runs, strict=True) if floor == floor], "1"
        ),
        f"{name}: raw batch size": int(best),
    }
    peaks = [run["MiB beyond imports"] for run, _ in runs if "MiB beyond imports" in run]
    if peaks and engine in loaded:
        summed[f"{name}: MiB beyond the model"] = max(peaks) - loaded[engine]
    return summed


def _loaded(rounds: Sequence[Mapping[str, Found]]) -> dict[str, float]:
    """MiB that one loaded network takes, by engine: from the processes that ran the raw engine alone."""
    alone: dict[str, list[float]] = {}
    for measured in rounds:
        for name, found in measured.items():
            if name == found["engine"]:
                alone.setdefault(name, []).append(found["MiB beyond imports"])
    return {engine: float(np.median(values)) for engine, values in alone.items()}
