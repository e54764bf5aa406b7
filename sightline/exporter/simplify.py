"""Passes that leave a graph what it computes: constants folded, nothing that is unused, shapes known."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager

import onnx_ir as ir
import onnx_ir.passes.common as passes
from onnxscript import optimizer

SMALL_FILL = 64
"""Elements of a filled constant that is folded whatever it is for: the pads of eight axes and many more."""


def simplify(model: ir.Model) -> None:
    """Fold constants, drop what does nothing, and infer shapes and types."""
    with _inferable(model):
        optimizer.fold_constants(model, onnx_shape_inference=True, should_fold=_small_fill)
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    # A branch may not yield a tensor from outside directly: the Identities that give it its outputs stay.
    with _called("Dropout", _yielding(model, "Identity")):
        passes.IdentityEliminationPass()(model)
    tidy(model)


def tidy(model: ir.Model) -> None:
    """Drop what nothing uses, sort, infer shapes; unlike :func:`simplify` it keeps one tensor two outputs."""
    with _inferable(model):
        ir.passes.Sequential(
            passes.RemoveUnusedNodesPass(),
            passes.TopologicalSortPass(),
            passes.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True),
        )(model)


def _small_fill(node: ir.Node) -> bool | None:
    """Fold the short constants that TorchScript writes pads and repeats with; the optimizer leaves any fill alone."""
    shape = node.inputs[0].const_value if node.op_type == "ConstantOfShape" and node.inputs[0] is not None else None
    return True if shape is not None and math.prod(shape.numpy().tolist()) <= SMALL_FILL else None


def _yielding(model: ir.Model, operator: str) -> list[ir.Node]:
    """The nodes of an operator that give branches and loops their outputs."""
    bodies = [
        attribute.as_graph()
        for node in model.graph.all_nodes()
        for attribute in node.attributes.values()
        if attribute.type == ir.AttributeType.GRAPH
    ]
    producers = [value.producer() for body in bodies for value in body.outputs]
    return [node for node in producers if node is not None and node.op_type == operator]


def _inferable(model: ir.Model) -> AbstractContextManager[None]:
    """Call a GroupNormalization meanwhile by the name of an operator of the same inputs and shapes.

    onnx infers nothing for it, and so nothing for whatever comes behind.
    """
    nodes = [node for node in model.graph.all_nodes() if node.op_type == "GroupNormalization"]
    return _called("InstanceNormalization", nodes)


@contextmanager
def _called(operator: str, nodes: Iterable[ir.Node]) -> Iterator[None]:
    """Have nodes go by another operator's name for a while."""
    names = [(node, node.op_type) for node in nodes]
    try:
        for node, _ in names:
            node.op_type = operator
        yield
    finally:
        for node, name in names:
            node.op_type = name
