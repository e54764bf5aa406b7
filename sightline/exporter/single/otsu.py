"""Otsu's threshold in a graph: that of sightline/kernels/sampling.py, whole numbers as far as possible."""

from __future__ import annotations

import numpy as np

from sightline.exporter.builder import Term
from sightline.exporter.single.writer import INT64, Writer
from sightline.kernels.sampling import BINS


def otsu(w: Writer, values: Term, counted: Term | None = None) -> tuple[Term, Term]:
    """The threshold t of values in [0, 1], the upper class being v >= t, and whether they can be split at all.

    Args:
        w: writes the nodes.
        values: P, in the writer's precision.
        counted: a flag for every value; all of them by default. The others may be anything.

    Returns:
        t and a flag, one entry each.
    """
    # Sums in whole numbers and quotients of them: in float64, splits that tie do so exactly, and the first one wins.
    bins = w.minimum(w.maximum(w.cast(values * float(BINS), INT64), 0), BINS - 1)
    ones = w.cast(values.equals(values) if counted is None else counted, INT64)
    empty = w.array(np.zeros(BINS, np.int64))
    counts = w("ScatterElements", empty, bins, ones, axis=0, reduction="add")
    axis = w.array(np.array(0, np.int64))
    number = w.precise(w("CumSum", counts, axis))
    moment = w.precise(w("CumSum", counts * w.array(np.arange(BINS, dtype=np.int64)), axis))
    total, sum_ = (w.gather(running, np.array([BINS - 1])) for running in (number, moment))
    products = number * (total - number)
    spread = sum_ * number - total * moment
    splits = products > 0.0
    variance = w.where(splits, spread * spread / w.maximum(products, 1.0), -1.0)
    best = variance.equals(w("ReduceMax", variance, w.integers((0,)), keepdims=1))
    upper_edge = w.where(best, w.constant((np.arange(BINS) + 1) / BINS, like=variance), 2.0)
    threshold = w("ReduceMin", upper_edge, w.integers((0,)), keepdims=1)
    return threshold, w.count(splits) > 0
