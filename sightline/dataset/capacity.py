"""How many workers, with how many threads, on which devices: within the cores and the memory of this machine."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence

from sightline.bindings import attribution_engine, available
from sightline.bindings.engine import Device, Precision
from sightline.bundle import Bundle
from sightline.errors import DatasetError, OutOfMemoryError
from sightline.runtime.memory_plan import SHARE, memory_plan

PROCESS = 256 << 20
"""Bytes that a worker holds besides its engines: Python, the engine's package, an image, the rows of a shard."""
VISIBLE = "CUDA_VISIBLE_DEVICES"

logger = logging.getLogger(__name__)


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads_of(workers: int) -> int:
    """The threads of each worker: its share of the cores, so that workers do not take them from each other."""
    return max(1, cores() // workers)


def bytes_of(bundle: Bundle, engine: str, precision: Precision, batch_size: int) -> tuple[int, int]:
    """What one worker is expected to hold on the device of its engine, and what is free there.

    Raises:
        OutOfMemoryError: not even a batch of one image fits.
    """
    devices = {entry.name: entry.device for entry in available()}
    device = devices[engine]
    plan = memory_plan(bundle, device, precision, shared=devices[attribution_engine(engine)] == device)
    beside = PROCESS if device == "cpu" else 0
    return plan.fixed + batch_size * plan.per_image + beside, plan.free


def workers_for(asked: int | None, needed: int, free: int, device: Device, gpus: int) -> int:
    """How many workers to start.

    Args:
        asked: what the user wants; None for one a core, or one a GPU, as far as memory goes.
        needed: bytes that a worker holds.
        free: bytes that are free on a device.
        device: where engines run.
        gpus: how many there are.

    Raises:
        DatasetError: fewer than one are asked for.
        OutOfMemoryError: there is no room for so many.
    """
    if asked is not None and asked < 1:
        raise DatasetError(f"workers={asked} is out of range: choose a whole number from 1, or None.")
    devices = gpus if device == "cuda" else 1
    room = int(SHARE * free) // needed * devices
    usual = gpus if device == "cuda" else cores()
    wanted = usual if asked is None else asked
    if asked is None and 1 <= room < usual:
        logger.warning("memory has room for %d workers, not for %d", room, usual)
        wanted = room
    if wanted > room:
        raise OutOfMemoryError(
            f"{wanted} worker{'s' * (wanted != 1)} would hold {needed / 2**20:,.0f} MiB each, and "
            f"{free / 2**20:,.0f} MiB are free: there is room for {room}. "
            "Ask for fewer (--workers) or a smaller --batch-size."
        )
    return wanted


def visible_gpus() -> Sequence[Mapping[str, str]]:
    """The environment of a worker for each GPU that this process may see."""
    if chosen := os.environ.get(VISIBLE):
        names = [name.strip() for name in chosen.split(",")]
    else:
        import cupy

        names = [str(number) for number in range(cupy.cuda.runtime.getDeviceCount())]
    return [{VISIBLE: name} for name in names]
