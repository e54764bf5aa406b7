"""A classifier in the form the rest of the exporter relies on: one image in, logits and probabilities out."""

from __future__ import annotations

import logging
import math
import re
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes
from onnx import defs
from onnxscript import version_converter

from sightline import bundle
from sightline.errors import ExportError, UnsupportedOperatorError
from sightline.exporter.builder import Builder
from sightline.exporter.gradient import expose, static_shape
from sightline.exporter.simplify import simplify, tidy
from sightline.exporter.source import OLDEST_OPSET, OPSET

RESERVED = re.compile(
    "|".join(
        (
            *(bundle.LOGITS, bundle.PROBABILITIES, bundle.TARGET, bundle.SEED, bundle.RIVALS),
            r"(features|gradient|alpha|delta)\.\d+",
        )
    )
)
FINAL_ACTIVATIONS: dict[str, bundle.Activation] = {
    "Softmax": "softmax",
    "LogSoftmax": "softmax",
    "Sigmoid": "sigmoid",
}
BATCH = "N"
"""Name of the dynamic dimension."""
FIXED_BATCH = (
    "If the file fixes its batch size inside (a Reshape, Expand or Resize), export it from its framework with a "
    "dynamic batch."
)
_PASSING = {"Identity", "Dropout", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze"}

_QUANTIZED = {
    *("ConvInteger", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger"),
    *("QLinearConv", "QLinearMatMul", "QuantizeLinear"),
}

_CONVERTER_LOG = logging.getLogger("onnxscript.version_converter")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Network:
    """A classifier with one input, the image, and two outputs, ``logits`` and ``probabilities``, each N×K."""

    model: ir.Model
    """Its batch N is dynamic."""
    single: ir.Model
    """The same for one image: every shape is static."""
    image: str
    layout: bundle.Layout
    channels: int
    height: int
    width: int
    classes: int
    activation: bundle.Activation
    ending: str | None
    """The operator the original graph ends in, where that is an activation that was taken off."""
    halves: bool
    """Whether the original graph computes in float16."""


def prepare(
    model: ir.Model,
    input_shape: tuple[int, int, int] | None = None,
    activation: bundle.Activation | None = None,
    output: str | None = None,
) -> Network:
    """Bring a model into the form of :class:`Network`. The model is changed in place.

    Args:
        model: as read.
        input_shape: (C, H, W), needed where the file leaves it open.
        activation: what turns logits into probabilities, where it is not to be recognised.
        output: which output holds the classes, where there are several.

    Raises:
        UnsupportedOperatorError: an operator is none of the ONNX standard's.
        ExportError: not one image input, a size left open, not one N×K output, too old an opset.
    """
    halves = _raise_halves(model)
    _upgrade(model)
    graph = model.graph
    for node in graph:
        if node.op_type in _QUANTIZED:
            raise ExportError(
                f"the network computes in 8-bit integers ({node.op_type} at node {node.name or '?'!r}), which have no "
                "gradient: export the float32 network that it was made from; int8 is a precision to choose when it "
                "runs (sightline build BUNDLE --precision int8 --images …)."
            )
        if node.domain not in ("", "ai.onnx") or not defs.has(node.op_type):
            operator = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
            raise UnsupportedOperatorError(operator, node.name or "", "is no standard operator")
    image = _image_input(graph)
    result = _classes_output(graph, output)
    if result.dtype is not None and result.dtype.is_integer():
        raise ExportError(
            f"the output {result.name!r} is {result.dtype}: whole numbers, such as the number of a class, have no "
            "gradient. Name the output that holds the scores of the classes (output=…, --output), or export the "
            "network without its ArgMax."
        )
    _rename_reserved(graph, image)
    layout, (channels, height, width) = _image_facts(image, input_shape)
    size = (channels, height, width) if layout == "NCHW" else (height, width, channels)
    _free_batch(graph, image)
    image.shape = ir.Shape([BATCH, *size])
    _forget_shapes(graph)

    ending, logits = (None, result) if activation == "none" else _final_activation(result)
    found = FINAL_ACTIVATIONS[ending] if ending else None
    graph.outputs.clear()
    graph.outputs.append(logits)
    single = _single(model, (1, *size))
    shape = static_shape(single.graph.outputs[0])
    classes = math.prod(shape[1:])
    if len(shape) > 1 and shape[0] != 1:
        raise ExportError(f"the output {logits.name!r} has shape {shape} for a single image. {FIXED_BATCH}")
    if shape[:1] != (1,) or (classes != max(shape[1:], default=1) and activation != "none"):
        raise ExportError(
            f"the output {logits.name!r} has shape {shape} for one image, where a classifier yields 1×K. Name another "
            "output (output=…, --output), cut the network after its logits, or, to explain functions of this output "
            "(a detector's boxes), take it flattened and as it is: activation='none' (--activation none)."
        )
    kind = activation or found or ("sigmoid" if classes == 1 else "softmax")
    if kind == "softmax" and classes == 1:
        raise ExportError("softmax over one class is always 1: pass activation='sigmoid' (--activation sigmoid).")
    for version, batch in ((model, BATCH), (single, 1)):
        _end(version.graph, kind, len(shape), (batch, classes))
        tidy(version)
    return Network(model, single, image.name or "", layout, channels, height, width, classes, kind, ending, halves)


def _upgrade(model: ir.Model) -> None:
    """Inline functions and bring standard operators to a current version."""
    ir.passes.Sequential(passes.RemoveInitializersFromInputsPass(), passes.InlinePass())(model)
    version = model.graph.opset_imports.get("", model.graph.opset_imports.get("ai.onnx"))
    if version is None or version < OLDEST_OPSET:
        raise ExportError(
            f"the network is written in opset {version}: Sightline reads {OLDEST_OPSET} and newer. Export it again "
            "from its framework with a newer opset."
        )
    if version < OPSET:
        logger.info("converting from opset %d to %d", version, OPSET)
        tidy(model)  # a GroupNormalization is converted by the shape of its input
        _CONVERTER_LOG.addFilter(_is_failure)
        try:
            version_converter.convert_version(model, target_version=OPSET, fallback=True)
        finally:
            _CONVERTER_LOG.removeFilter(_is_failure)
        if model.graph.opset_imports.get("") != OPSET:
            raise ExportError(
                f"the network could not be converted from opset {version} to {OPSET} (see the log for the operator): "
                f"export it again from its framework with opset {OPSET}."
            )
    simplify(model)


def _raise_halves(model: ir.Model) -> bool:
    """Let a graph compute in float32 what it computes in float16; whether there was anything.

    Its weights keep their values. Gradients in float16 would overflow, and engines lower precision when they open.
    """
    half, single = ir.DataType.FLOAT16, ir.DataType.FLOAT
    graphs = [model.graph, *(function.graph for function in model.functions.values())]
    nodes = [node for graph in graphs for node in graph.all_nodes()]
    weights = [value for graph in graphs for value in graph.initializers.values()]
    values = [*model.graph.inputs, *model.graph.outputs, *weights, *(value for node in nodes for value in node.outputs)]
    halves = [value for value in values if value.dtype == half]
    for value in halves:
        value.dtype = single
        if value.const_value is not None:
            value.const_value = ir.tensor(value.const_value.numpy().astype(np.float32), name=value.name)
    for node in nodes:
        for name, attribute in node.attributes.items():
            if attribute.type == ir.AttributeType.TENSOR and attribute.as_tensor().dtype == half:
                raised = ir.tensor(attribute.as_tensor().numpy().astype(np.float32))
                node.attributes[name] = ir.AttrTensor(name, raised)
                halves += node.outputs
        if node.op_type == "Cast" and node.attributes.get_int("to", 0) == half:
            node.attributes["to"] = ir.AttrInt64("to", single)
            halves += node.outputs
    if halves:
        logger.info("the network computes in float16: it is raised to float32; choose a precision when it runs")
    return bool(halves)


def _is_failure(record: logging.LogRecord) -> bool:
    """Keep why a conversion failed, not the news that one of two converters takes over from the other."""
    return record.exc_info is not None


def _image_input(graph: ir.Graph) -> ir.Value:
    inputs = list(graph.inputs)
    if len(inputs) != 1:
        names = ", ".join(f"{value.name!r} {value.shape}" for value in inputs) or "none"
        raise ExportError(
            f"the network has {len(inputs)} inputs ({names}): Sightline explains networks of one image input. Make the "
            "others constants, or wrap the network."
        )
    (image,) = inputs
    rank = None if image.shape is None else len(image.shape)
    if rank != 4:
        raise ExportError(
            f"the input {image.name!r} has shape {image.shape}: an image is N×C×H×W or N×H×W×C. Networks on volumes, "
            "video or tokens are not supported."
        )
    if image.dtype != ir.DataType.FLOAT:
        raise ExportError(
            f"the input {image.name!r} is {image.dtype}: Sightline explains float32 graphs. Export the network in "
            "float32, without preprocessing inside; precision is chosen when it runs."
        )
    return image


def _classes_output(graph: ir.Graph, name: str | None) -> ir.Value:
    names = [value.name for value in graph.outputs]
    if name is not None:
        if name not in names:
            raise ExportError(f"there is no output {name!r}: the network has {', '.join(map(repr, names))}.")
        return graph.outputs[names.index(name)]
    if len(names) != 1:
        raise ExportError(
            f"the network has {len(names)} outputs ({', '.join(map(repr, names))}): say which one holds the classes "
            "(output=…, --output NAME)."
        )
    return graph.outputs[0]


def _rename_reserved(graph: ir.Graph, image: ir.Value) -> None:
    """Free the names that the bundle's own inputs and outputs carry."""
    values = ir.convenience.create_value_mapping(graph)
    for name in [name for name in values if RESERVED.fullmatch(name)]:
        fresh = "image" if values[name] is image else f"{name}.original"
        while fresh in values:
            fresh += "_"
        values[name].name = fresh
        values[fresh] = values[name]


def _image_facts(
    image: ir.Value, input_shape: tuple[int, int, int] | None
) -> tuple[bundle.Layout, tuple[int, int, int]]:
    """Layout and (C, H, W), from the file and from what the user said."""
    dimensions = [size if isinstance(size, int) else None for size in (image.shape or ())[1:]]
    operators = [node for node, _ in image.uses()]
    turned = any(
        node.op_type == "Transpose" and list(node.attributes.get_ints("perm", [])) == [0, 3, 1, 2] for node in operators
    )
    small = {1, 3, 4}
    last = turned or (dimensions[2] in small and dimensions[0] is not None and dimensions[0] not in small)
    layout: bundle.Layout = "NHWC" if last else "NCHW"
    known = (dimensions[2], dimensions[0], dimensions[1]) if last else (dimensions[0], dimensions[1], dimensions[2])
    if input_shape is None:
        if None in known:
            raise ExportError(
                f"the input {image.name!r} leaves its size open ({image.shape}): give it (--input CxHxW, "
                "input_shape=(C, H, W), or an example)."
            )
        channels, height, width = (size or 0 for size in known)
        return layout, (channels, height, width)
    if any(size is not None and size != given for size, given in zip(known, input_shape, strict=True)):
        raise ExportError(f"the network takes C×H×W = {known}, not {input_shape}: give that size, or none.")
    return layout, input_shape


def _free_batch(graph: ir.Graph, image: ir.Value) -> None:
    """Where the file fixes the batch, let reshapes take theirs from what they reshape."""
    batch = image.shape[0] if image.shape is not None else None
    if not isinstance(batch, int):
        return
    dependent = {image}
    for node in graph:
        if not any(value in dependent for value in node.inputs):
            continue
        dependent.update(node.outputs)
        shape = node.inputs[1].const_value if node.op_type == "Reshape" and node.inputs[1] is not None else None
        if shape is not None and shape.size > 1 and node.inputs[0] in dependent:
            sizes = shape.numpy().copy()
            if node.attributes.get_int("allowzero", 0):  # torch writes it everywhere, though nothing is empty
                if 0 in sizes:
                    continue
                node.attributes.pop("allowzero")
            if sizes[0] == batch:
                sizes[0] = 0 if -1 in sizes else -1
                free = ir.val(f"{node.outputs[0].name}.shape", const_value=ir.tensor(sizes))
                graph.register_initializer(free)
                node.replace_input_with(1, free)


def _final_activation(output: ir.Value) -> tuple[str | None, ir.Value]:
    """The activation that the graph ends in, and the logits before it."""
    value = output
    while (node := value.producer()) is not None and node.inputs and (before := node.inputs[0]) is not None:
        if node.op_type in FINAL_ACTIVATIONS:
            return node.op_type, before
        if node.op_type not in _PASSING:
            break
        value = before
    return None, output


def _single(model: ir.Model, shape: tuple[int, ...]) -> ir.Model:
    """A copy for one image, its shapes inferred anew."""
    copy = model.clone()
    (image,) = copy.graph.inputs
    image.shape = ir.Shape(shape)
    _forget_shapes(copy.graph)
    simplify(copy)
    return copy


def _forget_shapes(graph: ir.Graph) -> None:
    """Forget what the file says of the shapes inside: it says it of another batch."""
    for node in graph:
        for value in node.outputs:
            value.shape = None


def _end(graph: ir.Graph, activation: bundle.Activation, rank: int, shape: tuple[int | str, int]) -> None:
    """End the graph in ``logits`` and ``probabilities``, both N×K."""
    builder = Builder(graph, "head/")
    logits = builder.term(graph.outputs[0])
    if graph.outputs[0].dtype == ir.DataType.DOUBLE:
        logits = builder.cast(logits, ir.DataType.FLOAT)
    graph.outputs.clear()
    if rank == 1:  # one logit, squeezed
        logits = builder("Unsqueeze", logits, builder.integers((1,)))
    elif rank > 2:
        logits = builder("Flatten", logits, axis=1)
    if activation == "softmax":
        probabilities = builder("Softmax", logits, axis=1)
    else:
        probabilities = builder("Sigmoid" if activation == "sigmoid" else "Identity", logits)
    expose(builder, logits, bundle.LOGITS, shape)
    expose(builder, probabilities, bundle.PROBABILITIES, shape)
