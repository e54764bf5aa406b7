"""Which feature maps are scored: the graph of sightline/runtime/selection.py, and the limit on their number."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from sightline.exporter.builder import Term
from sightline.exporter.single.otsu import otsu
from sightline.exporter.single.writer import BOOL, INT64, Writer

LEFT_OUT = -1.0
"""The share α/β of a map that is not scored: below any that is."""


def above_share(w: Writer, alpha: Term, mu: Term | None) -> Term:
    """α_k > μ·β and α_k > 0: a flag for every map.

    Args:
        w: writes the nodes.
        alpha: α_k of one block, C, in the writer's precision.
        mu: μ, one entry, likewise; None for 0.
    """
    positive = alpha > 0.0
    return positive if mu is None else positive & (alpha > mu * largest(w, alpha))


def above_otsu(w: Writer, alpha: Term) -> Term:
    """α_k/β >= Otsu's threshold over the positive ones; all positive where there are two or fewer, or no split."""
    positive = alpha > 0.0
    ratios = shares(w, alpha, positive)
    threshold, splits = otsu(w, ratios, positive)
    adapts = w.count(positive) > 2
    enough = ratios > threshold
    enough = w("Or", enough, ratios.equals(threshold))
    return positive & w("Or", enough, w("Not", adapts & splits))


def shares(w: Writer, alpha: Term, flags: Term) -> Term:
    """α_k/β where a map is flagged, less than any share elsewhere: C."""
    beta = largest(w, alpha)
    ratios = alpha / w.where(beta > 0.0, beta, 1.0)
    # Where engines multiply by a reciprocal, β/β is not always 1, and the largest maps of the blocks no longer tie.
    return w.where(flags, w.where(alpha < beta, ratios, 1.0), LEFT_OUT)


def largest(w: Writer, alpha: Term) -> Term:
    """β: one entry."""
    return w("ReduceMax", alpha, w.integers((0,)), keepdims=1)


def within_limit(
    w: Writer, ranked: Sequence[Term], flags: Sequence[Term], limit: Term, channels: Sequence[int]
) -> list[Term]:
    """Of all flagged maps only those with the largest α_k/β, ties broken by block, then by channel.

    Args:
        w: writes the nodes.
        ranked: the shares of every block.
        flags: whether a map is scored, of every block.
        limit: how many may be, int64, one entry.
        channels: the number of maps of every block.
    """
    total = sum(channels)
    every = w.concat(ranked)
    count = w.minimum(limit, total)
    _, first = w.outputs("TopK", every, count, dtypes=(w.precision, INT64), axis=0, largest=1, sorted=1)
    # Repeated for as many maps as the limit lets in.
    marks = w("ConstantOfShape", count, dtype=INT64, value=ir.tensor(np.ones(1, np.int64)))
    taken = w("ScatterElements", w.array(np.zeros(total, np.int64)), first, marks, axis=0)
    ends = np.cumsum(channels).tolist()
    # Gathered, not sliced: OpenVINO joins slices of one tensor into a split, and fails over this one (2026.4).
    return [
        flag & w.cast(w.gather(taken, np.arange(end - size, end, dtype=np.int32)), BOOL)
        for flag, size, end in zip(flags, channels, ends, strict=True)
    ]
