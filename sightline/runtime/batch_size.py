"""The batch size, chosen by measuring once per network, engine and machine."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable, Sequence

from sightline.bindings import Engine
from sightline.bindings.engine import Device
from sightline.errors import OutOfMemoryError

logger = logging.getLogger(__name__)

CANDIDATES: dict[Device, tuple[int, ...]] = {"cpu": (8, 16, 32), "cuda": (16, 32, 64, 128, 256)}
TOLERANCE = 0.01
"""A larger batch must be faster per image by more than this share: it costs more padding and memory."""
BUDGET = 4.0
"""Seconds after which no further candidate is tried."""
_ROUNDS, _REPEATS = 2, 5
"""A machine whose speed drifts may have been slower for all of one candidate's passes: each gets another turn."""


def measured(
    open_batch: Callable[[int], Engine], candidates: Sequence[int], budget: float = BUDGET
) -> dict[int, float]:
    """Seconds per image at several batch sizes, the smallest first, until the budget is spent or memory runs out.

    Args:
        open_batch: opens the classifier at a batch size.
        candidates: batch sizes, ascending.
        budget: seconds; at least one candidate is measured.
    """
    found: dict[int, float] = {}
    began = time.perf_counter()
    for size in [*candidates] * _ROUNDS:
        try:
            with open_batch(size) as engine:
                _timed(engine)  # warms up
                seconds = min(_timed(engine) for _ in range(_REPEATS)) / size
                found[size] = min(seconds, found.get(size, seconds))
        except OutOfMemoryError as error:
            if not found:
                raise
            logger.info("batch size %d does not fit: %s", size, error)
            break
        finally:
            gc.collect()
        if time.perf_counter() - began > budget:
            break
    return found


def best(per_image: dict[int, float]) -> int:
    """The smallest batch size that comes close to the fastest one."""
    limit = min(per_image.values()) * (1 + TOLERANCE)
    return min(size for size, seconds in per_image.items() if seconds <= limit)


def _timed(engine: Engine) -> float:
    began = time.perf_counter()
    engine.run()
    if engine.stream is not None:
        engine.stream.synchronize()
    return time.perf_counter() - began
