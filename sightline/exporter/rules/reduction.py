"""Reductions over axes."""

from __future__ import annotations

import math

from sightline.exporter.builder import Shape, Term
from sightline.exporter.gradient import Step
from sightline.exporter.rules.rule import Rule


def _axes(s: Step) -> Shape:
    rank = len(s.shape())
    given = tuple(int(axis) for axis in s.constant(1).reshape(-1)) if s.has(1) else ()
    if not given:
        return () if s.integer("noop_with_empty_axes", 0) else tuple(range(rank))
    return tuple(sorted(axis % rank for axis in given))


def _kept(s: Step, term: Term) -> Term:
    """A term of the output's shape with the reduced axes kept as ones."""
    axes = _axes(s)
    return s.builder.reshape(term, [1 if axis in axes else size for axis, size in enumerate(s.shape())])


def _spread(s: Step, term: Term) -> Term:
    return s.builder.expand(_kept(s, term), s.shape())


def _count(s: Step) -> int:
    return math.prod(s.shape()[axis] for axis in _axes(s))


def _reduce_max(s: Step) -> Term:
    """The maxima share the gradient equally."""
    hit = s.builder.where(s.x.equals(_kept(s, s.y)), s.builder.constant(1, like=s.g), 0.0)
    axes = _axes(s)
    return hit * _kept(s, s.g) / s.builder.sum(hit, axes) if axes else s.g


def _reduce_l2(s: Step) -> Term:
    """At zero, where there is no derivative, zero, as torch has it (ConvNeXtV2 divides by such norms)."""
    norm = _kept(s, s.y)
    return s.x * _kept(s, s.g) / s.builder.where(norm > 0.0, norm, 1.0)


REDUCTION: dict[str, Rule] = {
    "ReduceL2": _reduce_l2,
    "ReduceMax": _reduce_max,
    "ReduceMean": lambda s: _spread(s, s.g * (1 / _count(s))),
    "ReduceSum": lambda s: _spread(s, s.g),
}
