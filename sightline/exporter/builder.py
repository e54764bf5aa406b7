"""Writing ONNX nodes as formulas: a :class:`Term` is a tensor of the graph with arithmetic, a :class:`Builder` appends.

Only operators that every inference engine has are emitted, with constant shapes. Reshapes leave the leading dimension
open, so that a gradient graph takes a batch of seeds over one forward pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

Shape = tuple[int, ...]


class Term:
    """A tensor of the graph under construction. Arithmetic on it appends nodes."""

    def __init__(self, builder: Builder, value: ir.Value) -> None:
        self.builder = builder
        self.value = value

    def _binary(self, operator: str, other: Term | float, swapped: bool = False) -> Term:
        right = other if isinstance(other, Term) else self.builder.constant(other, like=self)
        return self.builder(operator, *((right, self) if swapped else (self, right)))

    def _comparison(self, operator: str, other: Term | float) -> Term:
        right = other if isinstance(other, Term) else self.builder.constant(other, like=self)
        return self.builder(operator, self, right, dtype=ir.DataType.BOOL)

    def __add__(self, other: Term | float) -> Term:
        return self._binary("Add", other)

    def __radd__(self, other: float) -> Term:
        return self._binary("Add", other)

    def __sub__(self, other: Term | float) -> Term:
        return self._binary("Sub", other)

    def __rsub__(self, other: float) -> Term:
        return self._binary("Sub", other, swapped=True)

    def __mul__(self, other: Term | float) -> Term:
        return self._binary("Mul", other)

    def __rmul__(self, other: float) -> Term:
        return self._binary("Mul", other)

    def __truediv__(self, other: Term | float) -> Term:
        return self._binary("Div", other)

    def __rtruediv__(self, other: float) -> Term:
        return self._binary("Div", other, swapped=True)

    def __pow__(self, exponent: Term | float) -> Term:
        return self._binary("Pow", exponent)

    def __neg__(self) -> Term:
        return self.builder("Neg", self)

    def __gt__(self, other: Term | float) -> Term:
        return self._comparison("Greater", other)

    def __lt__(self, other: Term | float) -> Term:
        return self._comparison("Less", other)

    def __and__(self, other: Term) -> Term:
        return self.builder("And", self, other)

    def equals(self, other: Term) -> Term:
        """Elementwise equality, a boolean tensor."""
        return self._comparison("Equal", other)


class Builder:
    """Appends nodes and constants to a graph under names that nothing else has."""

    def __init__(self, graph: ir.Graph, prefix: str) -> None:
        self.graph = graph
        self.prefix = prefix
        self._count = 0
        self._constants: dict[tuple[str, Shape, bytes], ir.Value] = {}
        self._taken = {value.name for node in graph for value in node.outputs} | set(graph.initializers)
        self._taken |= {value.name for value in graph.inputs}

    def __call__(
        self, operator: str, *inputs: Term | None, dtype: ir.DataType | None = None, **attributes: Any
    ) -> Term:
        """Append one node and return its first output.

        Args:
            operator: a standard operator.
            inputs: None for an optional input that is left out.
            dtype: the output's type where it is not that of the first input.
            attributes: as the operator has them; those that are None are left out.
        """
        node = ir.node(
            operator,
            [term.value if term else None for term in inputs],
            {name: value for name, value in attributes.items() if value is not None},
            name=self._name(operator),
        )
        (output,) = node.outputs
        output.name = node.name
        if known := dtype or next((term.value.dtype for term in inputs if term and term.value.dtype), None):
            output.dtype = known
        self.graph.append(node)
        return Term(self, output)

    def term(self, value: ir.Value) -> Term:
        """A tensor that stands in the graph already."""
        return Term(self, value)

    def constant(self, value: npt.ArrayLike, like: Term | None = None) -> Term:
        """A constant, stored once however often it is used; of the type of ``like``, float32 by default."""
        dtype = like.value.dtype.numpy() if like and like.value.dtype else np.dtype(np.float32)
        return self.array(np.asarray(value, dtype=dtype))

    def array(self, array: npt.NDArray[Any]) -> Term:
        """A constant of the array's own type."""
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            value = ir.Value(name=self._name("constant"), const_value=ir.tensor(array))
            value.shape, value.dtype = ir.Shape(array.shape), ir.DataType.from_numpy(array.dtype)
            self.graph.register_initializer(value)
            self._constants[key] = value
        return Term(self, self._constants[key])

    def integers(self, values: Iterable[int]) -> Term:
        """A 1-D int64 constant: axes, shapes, pads."""
        return self.array(np.array(list(values), dtype=np.int64))

    def where(self, condition: Term, then: Term, otherwise: Term | float) -> Term:
        """One tensor where a condition holds and another, or a number, where not."""
        other = otherwise if isinstance(otherwise, Term) else self.constant(otherwise, like=then)
        return self("Where", condition, then, other, dtype=then.value.dtype)

    def cast(self, term: Term, dtype: ir.DataType) -> Term:
        """A tensor in another type; nothing is emitted where it is of that type."""
        return term if term.value.dtype == dtype else self("Cast", term, dtype=dtype, to=int(dtype))

    def reshape(self, term: Term, shape: Sequence[int]) -> Term:
        """Reshape to a static shape, its leading dimension left to be inferred."""
        return self("Reshape", term, self.integers((-1, *shape[1:]) if shape else ()))

    def expand(self, term: Term, shape: Sequence[int]) -> Term:
        """Broadcast to a static shape; a larger leading dimension of the term is kept."""
        return self("Expand", term, self.integers(shape))

    def sum(self, term: Term, axes: Iterable[int], keepdims: bool = True) -> Term:
        """Sum over axes."""
        return self("ReduceSum", term, self.integers(axes), keepdims=int(keepdims))

    def mean(self, term: Term, axes: Iterable[int], keepdims: bool = True) -> Term:
        """Mean over axes."""
        return self("ReduceMean", term, self.integers(axes), keepdims=int(keepdims))

    def slice(
        self, term: Term, starts: Sequence[int], ends: Sequence[int], axes: Sequence[int], steps: Sequence[int]
    ) -> Term:
        """Slice along axes."""
        return self("Slice", term, *map(self.integers, (starts, ends, axes, steps)))

    def pad(self, term: Term, begins: Sequence[int], ends: Sequence[int], value: float = 0.0) -> Term:
        """Pad every axis with a constant; negative amounts crop. Nothing is emitted where there is nothing to pad."""
        if not any(begins) and not any(ends):
            return term
        return self("Pad", term, self.integers((*begins, *ends)), self.constant(value, like=term))

    def transpose(self, term: Term, permutation: Sequence[int]) -> Term:
        """Permute the axes; nothing is emitted for the identity."""
        if list(permutation) == sorted(permutation):
            return term
        return self("Transpose", term, perm=list(permutation))

    def unbroadcast(self, term: Term, shape: Shape, target: Shape) -> Term:
        """Sum a term of ``shape`` over the axes along which a tensor of shape ``target`` was broadcast to it."""
        missing = len(shape) - len(target)
        widened = (1,) * missing + target
        axes = [axis for axis, (size, to) in enumerate(zip(shape, widened, strict=True)) if size != to]
        if axes:
            term = self.sum(term, axes)
        return self.reshape_exactly(term, target) if missing else term

    def reshape_exactly(self, term: Term, shape: Shape) -> Term:
        """Reshape to exactly this shape."""
        return self("Reshape", term, self.integers(shape))

    def along_axis(self, term: Term, matrix: npt.NDArray[Any], axis: int, rank: int) -> Term:
        """Apply a constant matrix (to × from) along one axis."""
        if axis == rank - 2 and rank > 1:
            return self("MatMul", self.constant(matrix, like=term), term)
        order = [*(other for other in range(rank) if other != axis), axis]
        moved = self("MatMul", self.transpose(term, order), self.constant(matrix.T, like=term))
        return self.transpose(moved, [order.index(position) for position in range(rank)])

    def _name(self, stem: str) -> str:
        while True:
            self._count += 1
            name = f"{self.prefix}{stem}_{self._count}"
            if name not in self._taken:
                self._taken.add(name)
                return name
