"""The differentiation rules, one per operator, as one table.

A rule is a function of a :class:`~sightline.exporter.gradient.Step`. It returns the gradient of the first input, or a
mapping from input positions to gradients.
"""

from __future__ import annotations

import onnx_ir as ir

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

_UNBOUNDED = frozenset({"Div", "Exp", "Log", "Pow", "Reciprocal", "Sqrt"})


def unbounded(node: ir.Node) -> bool:
    """Whether an operator's rule can make infinity or NaN of finite numbers, as that of √x does at 0."""
    if node.op_type == "Div" and node.inputs[1] is not None:
        return node.inputs[1].const_value is None
    return node.op_type in _UNBOUNDED
