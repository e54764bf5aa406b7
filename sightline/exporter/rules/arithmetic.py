"""Operators on several tensors that broadcast, and matrix products."""

from __future__ import annotations

from collections.abc import Callable

from sightline.exporter.builder import Term
from sightline.exporter.gradient import Step
from sightline.exporter.rules.rule import Gradients, Rule


def _broadcast(*partials: Callable[[Step], Term]) -> Rule:
    """A rule from the gradient of each input as it is before summing over the broadcast axes."""

    def rule(s: Step) -> Gradients:
        return {
            position: s.unbroadcast(partial(s), position)
            for position, partial in enumerate(partials)
            if s.needs(position)
        }

    return rule


def _sum(s: Step) -> Gradients:
    return {position: s.unbroadcast(s.g, position) for position in range(len(s.node.inputs)) if s.needs(position)}


def _mean(s: Step) -> Gradients:
    share = s.g * (1 / len(s.node.inputs))
    return {position: s.unbroadcast(share, position) for position in range(len(s.node.inputs)) if s.needs(position)}


def _extremum(s: Step) -> Gradients:
    """The gradient goes to the input that was taken; on a tie to the first of them."""
    gradients = {}
    taken: Term | None = None
    for position in range(len(s.node.inputs)):
        # Expanded, so that "taken" has the output's shape whatever the shapes of the inputs.
        hit = s.builder.expand(s.input(position), s.output_shape).equals(s.y)
        free = hit if taken is None else hit & s.builder("Not", taken)
        taken = hit if taken is None else s.builder("Or", taken, hit)
        if s.needs(position):
            gradients[position] = s.unbroadcast(s.gated(free), position)
    return gradients


def _where(s: Step) -> Gradients:
    condition = s.input(0)
    return {
        position: s.unbroadcast(gradient, position)
        for position, gradient in {1: s.gated(condition), 2: s.gated(s.builder("Not", condition))}.items()
        if s.needs(position)
    }


def _gemm(s: Step) -> Gradients:
    alpha, beta = s.number("alpha", 1.0), s.number("beta", 1.0)
    a_transposed, b_transposed = s.integer("transA", 0), s.integer("transB", 0)

    def product(left: Term, right: Term, left_transposed: int, right_transposed: int) -> Term:
        return s.builder("Gemm", left, right, transA=left_transposed, transB=right_transposed, alpha=alpha)

    gradients = {}
    if s.needs(0):
        b = s.input(1)
        gradients[0] = product(b, s.g, b_transposed, 1) if a_transposed else product(s.g, b, 0, 1 - b_transposed)
    if s.needs(1):
        a = s.input(0)
        gradients[1] = product(s.g, a, 1, a_transposed) if b_transposed else product(a, s.g, 1 - a_transposed, 0)
    if s.needs(2):
        gradients[2] = s.unbroadcast(s.g * beta, 2)
    return gradients


def _matmul(s: Step) -> Gradients:
    """A vector on either side counts as a matrix of one row or one column."""
    left, right, out = s.shape(0), s.shape(1), s.output_shape
    rows = left if len(left) > 1 else (1, *left)
    columns = right if len(right) > 1 else (*right, 1)
    batch = out[: len(out) - (len(left) > 1) - (len(right) > 1)]
    full = (*batch, rows[-2], columns[-1])
    g = s.g if full == out else s.builder.reshape_exactly(s.g, full)

    def swapped(term: Term, shape: tuple[int, ...], widened: tuple[int, ...]) -> Term:
        matrix = term if shape == widened else s.builder.reshape_exactly(term, widened)
        rank = len(widened)
        return s.builder.transpose(matrix, [*range(rank - 2), rank - 1, rank - 2])

    def narrowed(term: Term, shape: tuple[int, ...], widened: tuple[int, ...]) -> Term:
        summed = s.builder.unbroadcast(term, (*batch, *widened[-2:]), widened)
        return summed if shape == widened else s.builder.reshape_exactly(summed, shape)

    gradients = {}
    if s.needs(0):
        gradients[0] = narrowed(s.builder("MatMul", g, swapped(s.input(1), right, columns)), left, rows)
    if s.needs(1):
        gradients[1] = narrowed(s.builder("MatMul", swapped(s.input(0), left, rows), g), right, columns)
    return gradients


ARITHMETIC: dict[str, Rule] = {
    "Add": _broadcast(lambda s: s.g, lambda s: s.g),
    "Div": _broadcast(lambda s: s.g / s.input(1), lambda s: -(s.g * s.y / s.input(1))),
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Max": _extremum,
    "Mean": _mean,
    "Min": _extremum,
    "Mul": _broadcast(lambda s: s.g * s.input(1), lambda s: s.g * s.input(0)),
    "Sub": _broadcast(lambda s: s.g, lambda s: -s.g),
    "Sum": _sum,
    "Where": _where,
}
