"""The attribution graph: one pass that yields the probabilities, every block's feature maps, and their gradients."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from sightline import bundle
from sightline.exporter.builder import Builder, Term
from sightline.exporter.gradient import differentiate, expose, static_shape
from sightline.exporter.network import Network
from sightline.exporter.simplify import tidy


def attribution_graph(network: Network, blocks: Sequence[ir.Value]) -> ir.Model:
    """Build ``attribution.onnx``, as :mod:`sightline.bundle` describes it.

    Args:
        network: whose ``single`` graph holds the block outputs.
        blocks: shallow to deep.

    Raises:
        UnsupportedOperatorError: an operator between a block and the logits has no differentiation rule.
    """
    model = network.single.clone()
    graph = model.graph
    values = ir.convenience.create_value_mapping(graph)
    features = [values[block.name or ""] for block in blocks]
    logits = values[bundle.LOGITS]

    target = ir.val(bundle.TARGET, dtype=ir.DataType.INT64, shape=[1])
    custom = ir.val(bundle.SEED, dtype=ir.DataType.FLOAT, shape=[1, network.classes])
    graph.inputs.extend([target, custom])
    builder = Builder(graph, "gradient/")
    seed = _chosen(builder, logits, builder.term(target), network.classes)
    if network.activation == "softmax":
        rivals = ir.val(bundle.RIVALS, dtype=ir.DataType.FLOAT, shape=[1])
        graph.inputs.append(rivals)
        # Far below any logit, so that the chosen class gets no share of the softmax over its rivals.
        others = builder("Softmax", builder.term(logits) - seed * 1e30, axis=1)
        seed = seed - builder.term(rivals) * others
    seeded = builder.term(target) < bundle.PREDICTED
    seed = builder.where(builder.reshape(seeded, (1, 1)), builder.term(custom), seed)
    gradients = differentiate(builder, {logits: seed}, features)
    for index, (maps, gradient) in enumerate(zip(features, gradients, strict=True)):
        shape = static_shape(maps)
        block = bundle.Block("", index, *shape[1:])
        # The tensor itself: behind an Identity ONNX Runtime loses it where it fuses it with a Pad that reads it.
        maps.name, maps.shape = block.features, ir.Shape(shape)
        graph.outputs.append(maps)
        expose(builder, gradient, block.gradient, shape)
        expose(builder, builder.mean(gradient, (2, 3), keepdims=False), block.alpha, shape[:2])
    tidy(model)
    return model


def _chosen(builder: Builder, logits: ir.Value, target: Term, classes: int) -> Term:
    """One-hot row of the target, or of the largest logit where the target is negative."""
    predicted = builder("ArgMax", builder.term(logits), axis=1, keepdims=0, dtype=ir.DataType.INT64)
    index = builder.where(target < 0, predicted, target)
    hit = index.equals(builder.array(np.arange(classes, dtype=np.int64)))
    one = builder.constant(np.ones((1, 1)))
    return builder.where(hit, one, 0.0)
