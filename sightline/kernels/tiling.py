"""How work is cut into blocks of threads. Plain numbers, so that it is tested without a GPU."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

_THREADS = 256
_RESIDENT_BLOCKS = {2: 3, 4: 5}
"""Blocks of the mask kernel that a multiprocessor holds at a time, by bytes per value: its registers allow no more."""

_SHARED = 24 << 10
"""Bytes of staged rows per block, so that shared memory is not what limits the blocks at a time."""

_SHARED_LIMIT = 48 << 10
"""What a block may have without asking for more."""

_PARTIAL_VALUES = 1 << 20
_MAX_PARTS = 64
_MASKS_PER_PART = 16


class Plan(NamedTuple):
    """A launch of the mask kernel: blocks of ``rows`` × ``lanes`` threads, each making several masks."""

    lanes: int
    rows: int
    tiles: int
    """How many blocks stand side by side in a row of pixels."""
    groups: int
    """How many ways the masks are shared out."""
    vectors: bool
    """Whether every store is one of 16 bytes."""
    shared: int
    """Bytes of shared memory, for the rows of the maps that lie in a block's band."""


@lru_cache(maxsize=256)
def plan(
    count: int, height: int, width: int, map_width: int, item_bytes: int, *, aligned: bool, processors: int
) -> Plan | None:
    """How ``count`` masks of height × width values are made; None where no row of the maps fits into shared memory.

    Args:
        count: masks.
        height: rows of a mask.
        width: values in a row (pixels, times channels where they come last).
        map_width: columns of the maps before upsampling.
        item_bytes: bytes per value.
        aligned: whether output and image begin at multiples of 16 bytes.
        processors: multiprocessors of the GPU.
    """
    per_thread = 16 // item_bytes
    units = -(-width // per_thread)
    tiles = -(-units // _THREADS)
    lanes = -(-units // tiles)
    row_bytes = 4 * (map_width + 1)
    rows = _rows(height, lanes)
    while rows > 1 and rows * row_bytes > _SHARED_LIMIT:
        rows //= 2
    if rows * row_bytes > _SHARED_LIMIT:
        return None
    # As many blocks as the GPU holds at a time: more masks per block read the image less often, but fewer blocks than
    # places leave multiprocessors idle.
    bands = tiles * -(-height // rows)
    groups = max(1, processors * _RESIDENT_BLOCKS[item_bytes] // bands)
    groups = max(groups, -(-count // max(1, _SHARED // (rows * row_bytes))))
    groups = min(groups, count, 65535)
    shared = rows * row_bytes * -(-count // groups)
    vectors = aligned and width % per_thread == 0
    return Plan(lanes, rows, tiles, groups, vectors, shared) if shared <= _SHARED_LIMIT else None


def parts(count: int, size: int) -> int:
    """How many ways a sum over ``count`` maps of ``size`` values is split.

    Enough parts to fill a GPU where the maps are small, few where they are large; it depends on nothing else, so that a
    sum is the same on every GPU.
    """
    return max(1, min(_MAX_PARTS, count // _MASKS_PER_PART, _PARTIAL_VALUES // size))


def _rows(height: int, lanes: int) -> int:
    """How many rows of threads a block has: whole warps, and bands that fit the height, as well as can be."""

    def use(rows: int) -> float:
        threads = rows * lanes
        return threads / (-(-threads // 32) * 32) * height / (-(-height // rows) * rows)

    most = max(1, min(_THREADS // lanes, height))
    return max(range(max(1, most // 2), most + 1), key=use)
