"""The stages of a bundle: one vector–Jacobian product between every two neighbouring blocks, for hierarchies.

A stage takes the feature maps of one block and a batch of decisions at the next block (or at the logits), and tells
which units of the block support each of them (docs/hierarchy.md). It is cut out of ``attribution.onnx`` and refers to
the same ``weights.bin``, so that stages can be added to any bundle and hardly make it larger.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnx_ir.passes.common as passes

from sightline import bundle
from sightline.errors import ExportError, SelfCheckError
from sightline.exporter.builder import Builder
from sightline.exporter.check import TINY, session
from sightline.exporter.gradient import differentiate, expose, static_shape
from sightline.exporter.memory import peak
from sightline.exporter.network import BATCH
from sightline.exporter.receptive_field import receptive_fields
from sightline.exporter.simplify import tidy

TOLERANCE = 1e-3
"""Stage by stage, the gradient must be that of the whole graph: the same sums in float32, in another order."""

Floats = npt.NDArray[np.float32]

logger = logging.getLogger(__name__)


def add_stages(opened: bundle.Bundle | str | Path) -> bundle.Bundle:
    """Add the stages to a bundle, or make them anew; everything else in it stays byte for byte.

    Args:
        opened: the bundle, or its folder; rewritten whole or not at all.

    Returns:
        The bundle, opened anew.

    Raises:
        ExportError: a block does not lead to the next one, or a stage does not reproduce the gradient.
        BundleError: the bundle is damaged, or cannot be written.
    """
    source = bundle.load(opened.path if isinstance(opened, bundle.Bundle) else opened)
    spec = source.input
    shape = spec.shape if spec.layout == "NCHW" else (spec.height, spec.width, spec.channels)
    image = np.random.default_rng(0).standard_normal((1, *shape), np.float32)

    def save(folder: Path) -> bundle.Manifest:
        former = {stage.file for stage in source.manifest.stages}
        for other in source.path.iterdir():
            if other.name != bundle.MANIFEST and other.name not in former:
                shutil.copyfile(other, folder / other.name)
        stages, figures = save_stages(folder, spec, source.blocks, image)
        checks = {name: value for name, value in source.manifest.checks.items() if not name.startswith("stage.")}
        return replace(source.manifest, stages=stages, checks={**checks, **figures})

    return bundle.write(source.path, save, overwrite=True)


def save_stages(
    folder: Path, spec: bundle.ImageInput, blocks: Sequence[bundle.Block], image: Floats
) -> tuple[tuple[bundle.Stage, ...], dict[str, float]]:
    """Write the stages into a folder that holds ``attribution.onnx``, and check them.

    Args:
        folder: of the bundle.
        spec: its input.
        blocks: its blocks, shallow to deep.
        image: one image in the network's layout, with its batch dimension, to check the stages on.

    Returns:
        The stages, and their distance from the attribution graph, by ``stage.i``.

    Raises:
        ExportError: a block does not lead to the next one.
        SelfCheckError: a stage does not reproduce the gradient.
    """
    attribution = ir.load(folder / bundle.ATTRIBUTION)
    values = ir.convenience.create_value_mapping(attribution.graph)
    fields = receptive_fields(
        attribution.graph, values[spec.name], spec.layout, [values[block.features] for block in blocks]
    )
    stages = []
    for block, (rows, columns) in zip(blocks, fields, strict=True):
        model = stage_graph(attribution, blocks, block.index)
        stage = bundle.Stage(block.index, peak(model.graph), rows, columns)
        _free_batch(model)
        ir.save(model, folder / stage.file)
        stages.append(stage)
    return tuple(stages), _check(folder, spec, stages, image)


def segment(attribution: ir.Model, blocks: Sequence[bundle.Block], start: int, end: str) -> ir.Model:
    """The part of a network from one block's feature maps on, for one image.

    Args:
        attribution: as the bundle has it; left as it is.
        blocks: of the bundle.
        start: index of the block whose ``features.<start>`` become the input.
        end: name of the tensor to compute: ``features.<j>`` or ``logits``.

    Returns:
        A model with that input, the image as well if there is a way around the block, and that one output.

    Raises:
        ExportError: ``end`` does not depend on the block.
    """
    model = attribution.clone()
    graph = model.graph
    values = ir.convenience.create_value_mapping(graph)
    block = blocks[start]
    exposed = values[block.features]
    producer = exposed.producer()
    maps = producer.inputs[0] if producer is not None and producer.op_type == "Identity" else exposed
    exposed.name = f"{block.features}.original"
    begin = ir.val(block.features, dtype=exposed.dtype, shape=static_shape(exposed))
    for value in {maps or exposed, exposed}:
        for node, position in list(value.uses()):
            node.replace_input_with(position, begin)
    output = values[end]
    graph.outputs.clear()
    graph.outputs.append(output)
    graph.inputs.append(begin)
    passes.RemoveUnusedNodesPass()(model)
    if not begin.uses():
        raise ExportError(
            f"{end} does not depend on block {block.name!r}: a hierarchy needs blocks of which each leads to the next. "
            "Choose others (blocks=[…], --blocks)."
        )
    used = [value for value in graph.inputs if value.uses()]
    graph.inputs.clear()
    graph.inputs.extend(used)
    return model


def stage_graph(attribution: ir.Model, blocks: Sequence[bundle.Block], index: int) -> ir.Model:
    """Build ``stage.<index>.onnx``, as :mod:`sightline.bundle` describes it, for a batch of one decision.

    Raises:
        ExportError: the next block, or the logits, do not depend on this one.
        UnsupportedOperatorError: an operator between them has no differentiation rule.
    """
    last = index == len(blocks) - 1
    model = segment(attribution, blocks, index, bundle.LOGITS if last else blocks[index + 1].features)
    graph = model.graph
    reserved = {bundle.SEED, bundle.GRADIENT, bundle.EVIDENCE, bundle.SUPPORT, bundle.POSITION}
    for name, value in ir.convenience.create_value_mapping(graph).items():
        if name in reserved:
            value.name = f"{name}.original"
    maps = next(value for value in graph.inputs if value.name == blocks[index].features)
    decision = graph.outputs[0]
    shape = static_shape(maps)
    _, channels, height, width = shape
    seed = ir.val(bundle.SEED, dtype=ir.DataType.FLOAT, shape=static_shape(decision))
    graph.inputs.append(seed)
    graph.outputs.clear()
    builder = Builder(graph, "stage/")
    _unflatten(builder)
    (gradient,) = differentiate(builder, {decision: builder.term(seed)}, [maps])
    evidence = builder("Relu", gradient * builder.term(maps))
    flat = builder("Reshape", evidence, builder.integers((-1, channels, height * width)))
    position = builder("ArgMax", flat, axis=2, keepdims=0, dtype=ir.DataType.INT64)
    expose(builder, gradient, bundle.GRADIENT, shape)
    expose(builder, evidence, bundle.EVIDENCE, shape)
    expose(builder, builder.sum(evidence, (2, 3), keepdims=False), bundle.SUPPORT, shape[:2])
    expose(builder, position, bundle.POSITION, shape[:2])
    tidy(model)
    return model


def _unflatten(builder: Builder) -> None:
    """Take out the way through one dimension that torch writes for ``as_strided``: flatten, gather every element in its
    place, which is nothing but a reshape. A gradient's batch would not survive it."""
    for node in [node for node in builder.graph if node.op_type == "Gather"]:
        (source, indices), output = node.inputs, node.outputs[0]
        flat = source.producer() if source is not None else None
        order = indices.const_value.numpy().reshape(-1) if indices is not None and indices.const_value else None
        if order is None or flat is None or flat.op_type != "Reshape" or flat.inputs[0] is None:
            continue
        if static_shape(flat.outputs[0]) == order.shape and np.array_equal(order, np.arange(len(order))):
            moved = builder.reshape_exactly(builder.term(flat.inputs[0]), static_shape(output)).value
            moved.shape = output.shape
            for reader, position in list(output.uses()):
                reader.replace_input_with(position, moved)
    builder.graph.sort()


def _free_batch(model: ir.Model) -> None:
    """Let the batch of decisions be any number; what was inferred for one of them is forgotten."""
    graph = model.graph
    seed = next(value for value in graph.inputs if value.name == bundle.SEED)
    dependent = {seed}
    for node in graph:
        if any(value in dependent for value in node.inputs):
            dependent.update(node.outputs)
    for value in dependent:
        shape = static_shape(value)
        outside = value is seed or value.is_graph_output()
        value.shape = ir.Shape([BATCH, *shape[1:]]) if outside else None


def _check(folder: Path, spec: bundle.ImageInput, stages: Sequence[bundle.Stage], image: Floats) -> dict[str, float]:
    """Walk back the whole graph's gradient, and a multiple of it beside it, one stage after the other."""
    attribution = session(folder / bundle.ATTRIBUTION)
    feed: dict[str, npt.NDArray[Any]] = {
        given.name: np.zeros(given.shape, np.int64 if given.type == "tensor(int64)" else np.float32)
        for given in attribution.get_inputs()
    }
    feed |= {spec.name: image, bundle.TARGET: np.array([bundle.PREDICTED], np.int64)}
    names = [output.name for output in attribution.get_outputs()]
    found = dict(zip(names, attribution.run(names, feed), strict=True))
    seed = np.zeros_like(found[bundle.LOGITS])
    seed[0, found[bundle.LOGITS].argmax()] = 1
    figures: dict[str, float] = {}
    for stage in reversed(stages):
        block = bundle.Block("", stage.index, 0, 0, 0)
        graph = session(folder / stage.file)
        given = {
            block.features: found[block.features],
            bundle.SEED: np.concatenate([seed, -2 * seed]),
            spec.name: image,
        }
        taken = {value.name: given[value.name] for value in graph.get_inputs()}
        try:
            (gradient,) = graph.run([bundle.GRADIENT], taken)
        except Exception as failure:  # ONNX Runtime's own errors share no base class
            raise SelfCheckError(
                f"what lies behind block {stage.index} does not take several decisions at once, as attention over "
                f"patches does not, which moves the batch into another axis ({failure})."
            ) from failure
        seed = found[block.gradient]
        wanted = np.concatenate([seed, -2 * seed])
        error = float(np.linalg.norm(gradient - wanted) / max(np.linalg.norm(wanted), TINY))
        if gradient.shape != wanted.shape or not error <= TOLERANCE:
            raise SelfCheckError(
                f"stage {stage.index} differs from the gradient of the whole network by {error:.1e} (tolerance "
                f"{TOLERANCE:.0e}): please report this network as a bug of Sightline."
            )
        figures[f"stage.{stage.index}"] = error
    return figures
