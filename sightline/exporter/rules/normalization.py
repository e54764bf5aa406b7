"""Normalisations. Batch normalisation is affine at inference; the others depend on the statistics of their input."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sightline.exporter.builder import Term
from sightline.exporter.gradient import Step
from sightline.exporter.rules.rule import Rule


def _batch_normalization(s: Step) -> Term:
    scale, variance = (s.constant(position).astype(np.float64) for position in (1, 4))
    factor = scale / np.sqrt(variance + s.number("epsilon", 1e-5))
    return s.g * s.builder.constant(factor.reshape(-1, *[1] * (len(s.shape()) - 2)), like=s.g)


def _standardized(s: Step, x: Term, g: Term, axes: Sequence[int]) -> Term:
    """Gradient of (x − mean)/√(var + ε) over axes: (g − mean(g) − x̂·mean(g·x̂))/√(var + ε)."""
    centred = x - s.builder.mean(x, axes)
    deviation = s.builder("Sqrt", s.builder.mean(centred * centred, axes) + s.number("epsilon", 1e-5))
    standard = centred / deviation
    return (g - s.builder.mean(g, axes) - standard * s.builder.mean(g * standard, axes)) / deviation


def _layer_normalization(s: Step) -> Term:
    rank = len(s.shape())
    axis = s.integer("axis", -1) % rank
    return _standardized(s, s.x, s.g * s.input(1), range(axis, rank))


def _per_channel(s: Step, position: int) -> Term:
    """A vector of one number per channel, shaped to broadcast over N×C×…"""
    return s.builder.reshape_exactly(s.input(position), (-1, *[1] * (len(s.shape()) - 2)))


def _instance_normalization(s: Step) -> Term:
    return _standardized(s, s.x, s.g * _per_channel(s, 1), range(2, len(s.shape())))


def _group_normalization(s: Step) -> Term:
    groups = s.builder.integers(
        (-1, s.integer("num_groups", 1), int(np.prod(s.shape()[1:])) // s.integer("num_groups", 1))
    )
    x = s.builder("Reshape", s.x, groups)
    g = s.builder("Reshape", s.g * _per_channel(s, 1), groups)
    return s.builder.reshape(_standardized(s, x, g, [2]), s.shape())


def _rms_normalization(s: Step) -> Term:
    rank = len(s.shape())
    axes = range(s.integer("axis", -1) % rank, rank)
    g = s.g * s.input(1)
    root = s.builder("Sqrt", s.builder.mean(s.x * s.x, axes) + s.number("epsilon", 1e-5))
    standard = s.x / root
    return (g - standard * s.builder.mean(g * standard, axes)) / root


def _local_response_normalization(s: Step) -> Term:
    """y_i = x_i·D_i^−β with D_i = bias + α/n·Σ x_j² over n neighbouring channels, so
    ∂/∂x_i = g_i·D_i^−β − 2αβ/n·x_i·Σ_j g_j·x_j·D_j^−β−1 over the channels j whose window holds i."""
    size, beta = s.integer("size", 1), s.number("beta", 0.75)
    share = s.number("alpha", 1e-4) / size
    shape = s.shape()
    before, after = (size - 1) // 2, size // 2

    def summed(term: Term, begin: int, end: int) -> Term:
        planes = s.builder("Reshape", term, s.builder.integers((-1, 1, shape[1], int(np.prod(shape[2:])))))
        padded = s.builder.pad(planes, [0, 0, begin, 0], [0, 0, end, 0])
        means = s.builder("AveragePool", padded, kernel_shape=[size, 1])
        return s.builder.reshape(means, shape) * float(size)

    scale = s.number("bias", 1.0) + share * summed(s.x * s.x, before, after)
    reaching = summed(s.g * s.y / scale, after, before)
    return s.g * scale ** (-beta) - (2 * share * beta) * s.x * reaching


def _softmax(s: Step) -> Term:
    axis = s.integer("axis", -1) % len(s.shape())
    weighted = s.g * s.y
    return weighted - s.y * s.builder.sum(weighted, [axis])


def _log_softmax(s: Step) -> Term:
    axis = s.integer("axis", -1) % len(s.shape())
    return s.g - s.builder("Exp", s.y) * s.builder.sum(s.g, [axis])


NORMALIZATION: dict[str, Rule] = {
    "BatchNormalization": _batch_normalization,
    "GroupNormalization": _group_normalization,
    "InstanceNormalization": _instance_normalization,
    "LRN": _local_response_normalization,
    "LayerNormalization": _layer_normalization,
    "LogSoftmax": _log_softmax,
    "RMSNormalization": _rms_normalization,
    "Softmax": _softmax,
}
