"""Reverse-mode differentiation of an ONNX graph, as another ONNX graph.

The nodes between the tensors of interest and the output are walked backwards; each one's rule (``rules``) turns the
gradient of its outputs into that of its inputs, written with ordinary inference operators.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import onnx_ir as ir

from sightline.errors import ExportError, UnsupportedOperatorError
from sightline.exporter.builder import Builder, Shape, Term


@dataclass(frozen=True)
class Step:
    """One node to be differentiated: what a rule may ask for."""

    builder: Builder
    node: ir.Node
    gradients: tuple[Term | None, ...]
    active: frozenset[ir.Value]
    bounded: bool = False
    """Whether the incoming gradients are finite, given that every tensor of the network is."""

    @property
    def g(self) -> Term:
        """The gradient of the first output."""
        gradient = self.gradients[0]
        if gradient is None:
            raise self.unsupported("is used through another output than its first")
        return gradient

    @property
    def x(self) -> Term:
        """The first input."""
        return self.input(0)

    @property
    def y(self) -> Term:
        """The first output."""
        return self.builder.term(self.node.outputs[0])

    def input(self, position: int) -> Term:
        """An input that must be there."""
        return self.builder.term(self._value(position))

    def has(self, position: int) -> bool:
        """Whether an optional input was given."""
        return position < len(self.node.inputs) and self.node.inputs[position] is not None

    def needs(self, position: int) -> bool:
        """Whether the gradient of this input is wanted."""
        return self.has(position) and self.node.inputs[position] in self.active

    def shape(self, position: int = 0) -> Shape:
        """The static shape of an input."""
        return static_shape(self._value(position), self)

    @property
    def opset(self) -> int:
        """The version of the standard operators."""
        return self.builder.graph.opset_imports[""]

    @property
    def output_shape(self) -> Shape:
        """The static shape of the first output."""
        return static_shape(self.node.outputs[0], self)

    def constant(self, position: int) -> npt.NDArray[Any]:
        """The value of an input that must be a constant."""
        tensor = self._value(position).const_value
        if tensor is None:
            raise self.unsupported(f"has an input ({self._value(position).name!r}) that is not constant")
        return tensor.numpy()

    def integers(self, name: str, default: Sequence[int]) -> tuple[int, ...]:
        """An attribute that is a list of integers."""
        attribute = self.node.attributes.get(name)
        return tuple(attribute.as_ints()) if attribute else tuple(default)

    def integer(self, name: str, default: int) -> int:
        """An integer attribute."""
        return int(self.node.attributes.get_int(name, default))

    def number(self, name: str, default: float) -> float:
        """A float attribute."""
        return float(self.node.attributes.get_float(name, default))

    def string(self, name: str, default: str) -> str:
        """A string attribute."""
        return str(self.node.attributes.get_string(name, default))

    def gated(self, condition: Term, term: Term | None = None) -> Term:
        """The incoming gradient, or a multiple of it, where a condition holds, and zero elsewhere.

        What is finite is multiplied by zero: ONNX Runtime multiplies much faster than it selects.
        """
        found = self.g if term is None else term
        if not self.bounded:
            return self.builder.where(condition, found, 0.0)
        return found * self.builder.cast(condition, found.value.dtype or ir.DataType.FLOAT)

    def unbroadcast(self, term: Term, position: int) -> Term:
        """Bring a term of the output's shape to that of an input which was broadcast."""
        return self.builder.unbroadcast(term, self.output_shape, self.shape(position))

    def unsupported(self, reason: str) -> UnsupportedOperatorError:
        """The error for a case that the rule does not cover."""
        return UnsupportedOperatorError(self.node.op_type, self.node.name or "", reason)

    def _value(self, position: int) -> ir.Value:
        value = self.node.inputs[position] if position < len(self.node.inputs) else None
        if value is None:
            raise self.unsupported(f"lacks its input {position}")
        return value


def static_shape(value: ir.Value, step: Step | None = None) -> Shape:
    """The shape of a tensor, which must be known entirely.

    Raises:
        ExportError: a dimension is unknown.
    """
    dimensions = None if value.shape is None else tuple(value.shape)
    if dimensions is None or not all(isinstance(dimension, int) for dimension in dimensions):
        where = f" at {step.node.op_type} {step.node.name!r}" if step else ""
        raise ExportError(
            f"tensor {value.name!r}{where} has the shape {value.shape}, which depends on the image's content: "
            "give the input's size (--input CxHxW), or simplify the network."
        )
    return tuple(int(dimension) for dimension in dimensions if isinstance(dimension, int))


def differentiate(builder: Builder, seeds: Mapping[ir.Value, Term], wrt: Sequence[ir.Value]) -> list[Term]:
    """Append the nodes that compute Σ_o seed_o·∂o/∂v for every v of ``wrt``.

    Args:
        builder: writes to the graph that holds the tensors; its shapes are static.
        seeds: the gradient of each output, of that output's shape.
        wrt: the tensors to differentiate by. They may lie behind one another.

    Returns:
        The gradients, each of the shape of its tensor.

    Raises:
        UnsupportedOperatorError: an operator on the way has no rule.
        ExportError: a tensor of ``wrt`` does not reach the outputs.
    """
    from sightline.exporter.rules import NO_GRADIENT, RULES, unbounded

    nodes = list(builder.graph)
    active = _active(nodes, seeds, wrt)
    gradients: dict[ir.Value, Term] = dict(seeds)
    bounded = True
    for node in reversed(nodes):
        outgoing = tuple(gradients.get(output) for output in node.outputs)
        wanted = any(value in active for value in node.inputs if value is not None)
        if not wanted or not any(outgoing) or node.op_type in NO_GRADIENT:
            continue
        rule = RULES.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        if rule is None:
            raise UnsupportedOperatorError(f"{node.domain}::{node.op_type}".lstrip(":"), node.name or "")
        step = Step(builder, node, outgoing, active, bounded)
        result = rule(step)
        bounded = bounded and not unbounded(node)
        for position, gradient in (result if isinstance(result, Mapping) else {0: result}).items():
            if not step.needs(position):
                continue
            value = step.input(position).value
            gradients[value] = gradients[value] + gradient if value in gradients else gradient
    if unreached := [value.name for value in wrt if value not in gradients]:
        raise ExportError(f"the output does not depend on {', '.join(map(str, unreached))}: choose other blocks.")
    return [gradients[value] for value in wrt]


def _active(nodes: Sequence[ir.Node], seeds: Mapping[ir.Value, Term], wrt: Sequence[ir.Value]) -> frozenset[ir.Value]:
    """The tensors that depend on ``wrt`` and that an output depends on."""
    dependent = set(wrt)
    for node in nodes:
        if any(value in dependent for value in node.inputs):
            dependent.update(node.outputs)
    needed = set(seeds)
    for node in reversed(nodes):
        if any(value in needed for value in node.outputs):
            needed.update(value for value in node.inputs if value is not None)
    return frozenset(dependent & needed)


def vector_jacobian(model: ir.Model, output: str, wrt: Sequence[str], seed: str = "seed") -> ir.Model:
    """A model that computes seedᵀ·∂output/∂v.

    Args:
        model: static shapes throughout; left as it is.
        output: the tensor to differentiate.
        wrt: the tensors to differentiate by.
        seed: name of the new input, of the output's shape.

    Returns:
        A new model with the further input ``seed`` and the outputs ``gradient.<name>``.
    """
    result = model.clone()
    graph = result.graph
    values = ir.convenience.create_value_mapping(graph)
    target = values[output]
    incoming = ir.val(seed, dtype=target.dtype, shape=target.shape)
    graph.inputs.append(incoming)
    builder = Builder(graph, "gradient/")
    gradients = differentiate(builder, {target: builder.term(incoming)}, [values[name] for name in wrt])
    for name, gradient in zip(wrt, gradients, strict=True):
        expose(builder, gradient, f"gradient.{name}", static_shape(values[name]))
    return result


def expose(builder: Builder, term: Term, name: str, shape: Sequence[int | str]) -> None:
    """Make a tensor an output of the graph under a name of its own."""
    output = builder("Identity", term).value
    output.name, output.shape = name, ir.Shape(shape)
    builder.graph.outputs.append(output)
