"""Formulas beyond those of the exporter's builder: types, gathering, reductions, several outputs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy.typing as npt
import onnx_ir as ir

from sightline.exporter.builder import Builder, Term

BOOL, INT64 = ir.DataType.BOOL, ir.DataType.INT64
FLOAT, DOUBLE = ir.DataType.FLOAT, ir.DataType.DOUBLE


class Writer(Builder):
    """A builder for graphs whose tensors are of several types."""

    def __init__(self, graph: ir.Graph, prefix: str, precision: ir.DataType = DOUBLE) -> None:
        """Begin to write.

        Args:
            graph: as it is so far.
            prefix: of all names.
            precision: what sums and thresholds are computed in: float64, as in the runtime, or float32.
        """
        super().__init__(graph, prefix)
        self.precision = precision

    def precise(self, term: Term) -> Term:
        """The term in the type that sums and thresholds are computed in."""
        return self.cast(term, self.precision)

    def gather(self, term: Term, indices: Term | npt.NDArray[Any], axis: int = 0) -> Term:
        """Entries along an axis."""
        chosen = indices if isinstance(indices, Term) else self.array(indices)
        return self("Gather", term, chosen, axis=axis)

    def maximum(self, term: Term, other: Term | float) -> Term:
        """The larger one, elementwise."""
        return self("Max", term, other if isinstance(other, Term) else self.constant(other, like=term))

    def minimum(self, term: Term, other: Term | float) -> Term:
        """The smaller one, elementwise."""
        return self("Min", term, other if isinstance(other, Term) else self.constant(other, like=term))

    def concat(self, terms: Sequence[Term], axis: int = 0) -> Term:
        """Several tensors one behind the other; a single one is left as it is."""
        return terms[0] if len(terms) == 1 else self("Concat", *terms, axis=axis)

    def extremes(self, term: Term, axes: Iterable[int] | None, keepdims: bool = False) -> tuple[Term, Term]:
        """Minimum and maximum over axes, or over all of them."""
        places = None if axes is None else self.integers(axes)
        low, high = (self(operator, term, places, keepdims=int(keepdims)) for operator in ("ReduceMin", "ReduceMax"))
        return low, high

    def count(self, flags: Term) -> Term:
        """How many flags are set, as an int64 tensor of one entry."""
        return self.sum(self.cast(flags, INT64), (0,))

    def outputs(
        self, operator: str, *inputs: Term | None, dtypes: Sequence[ir.DataType], **attributes: Any
    ) -> list[Term]:
        """Append a node of several outputs."""
        node = ir.node(
            operator,
            [term.value if term else None for term in inputs],
            attributes,
            num_outputs=len(dtypes),
            name=self._name(operator),
        )
        for output, dtype in zip(node.outputs, dtypes, strict=True):
            output.name, output.dtype = self._name(operator), dtype
        self.graph.append(node)
        return [Term(self, output) for output in node.outputs]
