"""``up`` in a graph: bilinear interpolation with the samples that the kernels use (sightline/kernels/sampling.py)."""

from __future__ import annotations

import numpy as np

from sightline.exporter.builder import Term
from sightline.exporter.single.writer import Writer
from sightline.kernels.sampling import Samples, samples


def interpolated(w: Writer, maps: Term, y: Samples, x: Samples, rank: int = 3) -> Term:
    """Samples of ...×h×w maps, blended as the CPU kernels do it: a + (b − a)·weight, x first."""
    # Rows are gathered, not columns: ONNX Runtime copies those whole.
    swap = (*range(rank - 2), rank - 1, rank - 2)
    if not _is_identity(x):
        maps = w.transpose(_along(w, w.transpose(maps, swap), x), swap)
    return _along(w, maps, y)


def upsampled(w: Writer, map: Term, source: tuple[int, int], size: tuple[int, int]) -> Term:
    """``up`` of one map: h×w -> H×W, in the precision of the map."""
    return interpolated(w, map, samples(source[0], size[0]), samples(source[1], size[1]), 2)


def _along(w: Writer, maps: Term, axis: Samples) -> Term:
    """Samples along the rows."""
    if _is_identity(axis):
        return maps
    places = w.array(axis.first.astype(np.int32))
    first = w.gather(maps, places, -2)
    second = w.gather(maps, w.minimum(places + 1, int(axis.second.max())), -2)
    weight = w("Reshape", w.constant(axis.weight, like=maps), w.integers((-1, 1)))
    return first + (second - first) * weight


def _is_identity(axis: Samples) -> bool:
    return not axis.weight.any() and np.array_equal(axis.first, np.arange(axis.second[-1] + 1))


def interpolation_matrix(w: Writer, source: int, size: int) -> Term | None:
    """W with up(a) = a·W along the last axis: source×size, float32; None where up is the identity.

    The graph holds where the samples lie and makes the matrix of them, which an engine does once, when it loads the
    file: whole matrices would outweigh the weights of a small network.
    """
    axis = samples(source, size)
    if _is_identity(axis):
        return None
    first = w.array(axis.first.astype(np.int32))
    weight = w.array(axis.weight.astype(np.float32))
    rows = w.array(np.arange(source, dtype=np.int32)[:, None])
    here = w.where(rows.equals(first), 1.0 - weight, 0.0)
    beyond = w.where(rows.equals(first + 1), weight, 0.0)
    return here + beyond
