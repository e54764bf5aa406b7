"""The differentiation rules, one per operator, as one table.

A rule is a function of a :class:`~sightline.exporter.gradient.Step`. It returns the gradient of the first input, or a
mapping from input positions to gradients.
"""

from __future__ import annotations

from sightline.exporter.rules.arithmetic import ARITHMETIC
from sightline.exporter.rules.convolution import CONVOLUTION
from sightline.exporter.rules.normalization import NORMALIZATION
from sightline.exporter.rules.pointwise import POINTWISE
from sightline.exporter.rules.pooling import POOLING
from sightline.exporter.rules.reduction import REDUCTION
from sightline.exporter.rules.rule import Rule
from sightline.exporter.rules.sampling import SAMPLING
from sightline.exporter.rules.structure import STRUCTURE

RULES: dict[str, Rule] = {
    **POINTWISE,
    **ARITHMETIC,
    **CONVOLUTION,
    **NORMALIZATION,
    **POOLING,
    **REDUCTION,
    **SAMPLING,
    **STRUCTURE,
}
"""Operator -> rule."""

NO_GRADIENT = frozenset(
    {"And", "ArgMax", "ArgMin", "Ceil", "Equal", "Floor", "Greater", "GreaterOrEqual", "IsInf", "IsNaN", "Less"}
    | {"LessOrEqual", "Not", "Or", "Round", "Shape", "Sign", "Size", "Xor"}
)
"""Operators whose output is piecewise constant: the gradient ends there."""
