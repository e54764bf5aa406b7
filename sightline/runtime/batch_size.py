"""The batch size, chosen by measuring once per network, engine and machine."""

from __future__ import annotations

import gc
import logging
import math
import statistics
import time
from collections.abc import Callable, Sequence
from itertools import pairwise

from sightline.bindings import Engine
from sightline.bindings.engine import FACTOR, Device
from sightline.errors import OutOfMemoryError
from sightline.kernels import kernels_for

logger = logging.getLogger(__name__)

CANDIDATES: dict[Device, tuple[int, ...]] = {"cpu": (8, 16, 32), "cuda": (16, 32, 64, 128, 256)}
TOLERANCE = 0.04
"""A batch of twice the size must be faster per image by more than this share: it costs more padding and memory."""
BUDGET = 4.0
"""Seconds of passes after which no further candidate is tried. Opening does not count: some engines build for minutes,
once, and would never be compared."""
_TURNS, _COMPARED, _TURN = 5, 1.0, 0.03
"""Two batch sizes take at least so many turns, for at least so many seconds, each of so many seconds or of one pass."""


def fitting(candidates: Sequence[int], largest: int) -> list[int]:
    """The candidates that can be compared where this many images have room, two batches at a time; at least one."""
    larger = (size for below, size in pairwise(candidates) if below + size <= largest)
    return [min(candidates[0], largest), *larger]


def measured(
    open_batch: Callable[[int], Engine], candidates: Sequence[int], image: str, budget: float = BUDGET
) -> tuple[int, dict[int, float]]:
    """The batch size to take, and seconds per image at those that were tried.

    Every candidate is held against the best one before it, the two open at once and taking turns of a few passes: the
    speed of a machine may drift by more than batch sizes differ. To be taken, a larger one must be faster both in the
    median ratio of two turns next to each other and in the ratio of the medians. What masks are written to is written
    before every pass, which finds it in the caches or not: without that larger batches look faster than they are. The
    search ends when the budget is spent or memory runs out.

    Args:
        open_batch: opens the classifier at a batch size.
        candidates: batch sizes, ascending.
        image: the name of the image among the inputs.
        budget: seconds of passes; the first candidate is opened in any case.

    Raises:
        OutOfMemoryError: the first candidate does not fit.
    """
    best, *larger = candidates
    engine = open_batch(best)
    try:
        spent = _timed(engine, image, 1)
        seconds = {best: spent / best}
        for size in larger:
            if spent > budget:
                break
            try:
                challenger = open_batch(size)
                try:
                    began = time.perf_counter()
                    ratio, seconds[best], seconds[size] = _compared(engine, best, challenger, size, image)
                    spent += time.perf_counter() - began
                    if ratio < (1 - TOLERANCE) ** math.log2(size / best):
                        engine, challenger, best = challenger, engine, size
                finally:
                    _release(challenger)
            except OutOfMemoryError as error:
                logger.info("batch size %d does not fit: %s", size, error)
                break
    finally:
        _release(engine)
    return best, seconds


def _release(engine: Engine) -> None:
    """Close an engine whose memory is the next one's."""
    engine.close()
    if engine.device != "cpu":  # where a cycle may hold it; looking for one takes a second beside a loaded torch
        gc.collect()


def _compared(one: Engine, one_size: int, other: Engine, other_size: int, image: str) -> tuple[float, float, float]:
    """The time per image of the other over that of the one, in case of doubt the larger ratio; and both, in seconds."""
    _timed(one, image, 1)
    other_passes = math.ceil(_TURN / max(_timed(other, image, 1), _TURN / 100))
    one_passes = math.ceil(other_passes * other_size / one_size)
    turns: list[tuple[float, float]] = []
    began = time.perf_counter()
    while len(turns) < _TURNS or time.perf_counter() - began < _COMPARED:
        if len(turns) % 2:  # who goes first gets the better half of a drift
            second = _timed(other, image, other_passes)
            first = _timed(one, image, one_passes)
        else:
            first = _timed(one, image, one_passes)
            second = _timed(other, image, other_passes)
        turns.append((first / one_passes / one_size, second / other_passes / other_size))
    ones, others = zip(*turns, strict=True)
    one_median, other_median = statistics.median(ones), statistics.median(others)
    ratio = statistics.median(second / first for first, second in turns)
    return max(ratio, other_median / one_median), one_median, other_median


def _timed(engine: Engine, image: str, passes: int) -> float:
    kernels = kernels_for(engine.device, engine.stream)
    masked = engine.buffers[FACTOR if FACTOR in engine.buffers else image]
    began = time.perf_counter()
    for _ in range(passes):
        kernels.write(masked, 0)
        engine.run()
    if engine.stream is not None:
        engine.stream.synchronize()
    return time.perf_counter() - began
