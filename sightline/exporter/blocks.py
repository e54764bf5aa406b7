"""Finding the outputs of the convolutional blocks.

SISE (Sattarzadeh et al., AAAI 2021, §3.1) samples the last tensor of every block: the input of every spatial
down-sampling after the stem, and the last map before global pooling. On the graph this is: walk the *cuts* (tensors
that every path from the image to the logits passes through; a tensor inside a residual branch is none), start a new
level wherever they shrink, and take the last cut of each level that convolves.
"""

from __future__ import annotations

import ast
import difflib
import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from sightline.bundle import Layout
from sightline.errors import ExportError, NoBlocksError
from sightline.exporter.builder import Builder
from sightline.exporter.pixels import CHANNELS_FIRST, CHANNELS_LAST, grids

SHRINK = 1.5
"""A level ends where a side shrinks by this factor; convolutions without padding shrink by less (149 → 147)."""
_LEARNED = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
_NONLINEAR = {
    "Celu",
    "Clip",
    "Elu",
    "Erf",
    "Gelu",
    "HardSigmoid",
    "HardSwish",
    "LeakyRelu",
    "LRN",
    "Max",
    "MaxPool",
    "Min",
    "Mish",
    "PRelu",
} | {"Relu", "Selu", "Sigmoid", "Softplus", "Softsign", "Swish", "Tanh", "ThresholdedRelu"}
_PASSING = {"Pad", "Dropout", "Identity", "Cast"}
_NORMALIZATIONS = {"BatchNormalization", "GroupNormalization", "InstanceNormalization", "LayerNormalization"}
_ELEMENTWISE = (
    _NORMALIZATIONS
    | {"Clip", "HardSwish", "Max", "Min", "Relu", "LeakyRelu", "PRelu", "Elu", "Swish", "Gelu", "Mish"}
    | {"Add", "Sub", "Mul", "Div", "Reshape", "Transpose"}
)
"""What stands between two convolutions without mixing maps: norms, activations, and what they are written with."""
_PARTS = {"Split", "Slice", "Concat"}
"""Depthwise convolutions of several sizes, or Ghost modules."""
_SCOPES = "pkg.torch.onnx.name_scopes"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cut:
    """A tensor that everything passes through."""

    value: ir.Value
    shape: tuple[int, int, int]
    """Channels, height, width."""
    convolutions: int
    """How many convolutions lie before it."""
    activated: bool
    """Whether it is more than a linear function of the image, as the patch embedding of a transformer is."""
    learned_after: int
    """How many layers with weights lie behind it."""


def find_blocks(graph: ir.Graph, image: ir.Value, logits: ir.Value, layout: Layout) -> list[ir.Value]:
    """The block outputs, shallow to deep; one may lie channels last (:func:`channels_first`).

    Args:
        graph: static shapes, sorted.
        image: its input.
        logits: its output.
        layout: of the image, ``NCHW`` or ``NHWC``.

    Raises:
        NoBlocksError: nothing in the graph is a convolutional block.
    """
    chosen: list[Cut] = []
    found = cuts(graph, image, logits, layout)
    for level in _levels(found):
        before = chosen[-1].convolutions if chosen else 0
        candidates = [cut for cut in level if cut.convolutions > before and cut.activated and cut.learned_after]
        candidates = [cut for cut in candidates if not _passed(cut)]
        if candidates:
            chosen.append(_narrow(candidates, found[found.index(level[-1]) + 1 :]))
    if not chosen:
        raise NoBlocksError(
            "no convolutional block was found: no feature map lies on every path from the image to the logits. "
            "Sightline explains 2-D CNNs; if this is one, name the feature maps to use (--blocks a,b, blocks=[...])."
        )
    return [cut.value for cut in chosen]


def cuts(graph: ir.Graph, image: ir.Value, logits: ir.Value, layout: Layout) -> list[Cut]:
    """The feature maps, larger than 1×1, that every path from image to logits passes through.

    Channels last, they count behind a convolution that mixes pixels: so lie the tokens of transformers.
    """
    nodes = _between(graph, image, logits)
    uses = {image: 0}
    for node in nodes:
        for value in node.inputs:
            if value is not None:
                uses[value] = uses.get(value, 0) + 1
    inside = {image} | {value for node in nodes for value in node.outputs}
    learned = sum(_is_learned(node) for node in nodes)
    places = grids(nodes, image, layout)
    live = {image}
    convolutions, mixed, activated = 0, False, False
    found = []
    for node in nodes:
        dependent = [value for value in node.inputs if value is not None and value in inside]
        for value in dependent:
            uses[value] -= 1
            if not uses[value]:
                live.discard(value)
        live.update(value for value in node.outputs if uses.get(value) or value is logits)
        convolutions += node.op_type == "Conv"
        mixed |= _overlaps(node)
        activated |= node.op_type in _NONLINEAR
        learned -= _is_learned(node)
        output = node.outputs[0]
        shape = tuple(size if isinstance(size, int) else 0 for size in output.shape or ())
        axes = places[output].axes
        if live == {output} and len(shape) == 4 and (axes == CHANNELS_FIRST or (axes == CHANNELS_LAST and mixed)):
            height, width = (shape[axis] for axis in axes)
            channels = shape[1 if axes == CHANNELS_FIRST else 3]
            if height * width > 1:
                found.append(Cut(output, (channels, height, width), convolutions, activated, learned))
    return found


def named_blocks(graph: ir.Graph, names: Sequence[str]) -> tuple[list[ir.Value], list[str]]:
    """The tensors that the user named, by tensor or, for torch modules, by module, shallow to deep, and their names.

    Raises:
        ExportError: no such name, or not a feature map.
    """
    values = ir.convenience.create_value_mapping(graph)
    modules = {scope: outputs[0] for scope, outputs in _module_outputs(graph).items() if len(outputs) == 1}
    chosen: dict[ir.Value, str] = {}
    for name in names:
        value = values.get(name) or modules.get(name)
        if value is None:
            close = difflib.get_close_matches(name, modules or values, n=6, cutoff=0.0)
            raise ExportError(f"there is no block {name!r} in the network. Similar names: {', '.join(close)}.")
        if len(tuple(value.shape or ())) != 4 or value.producer() is None:
            raise ExportError(f"block {name!r} has shape {value.shape}: a block output is a feature map 1×C×H×W.")
        chosen[value] = name
    ordered = [value for node in graph for value in node.outputs if value in chosen]
    if not ordered:
        raise ExportError("no block was named: name at least one, or leave blocks out to have them found.")
    return ordered, [chosen[value] for value in ordered]


def channels_first(
    graphs: Sequence[ir.Graph], image: ir.Value, layout: Layout, blocks: Sequence[ir.Value]
) -> list[ir.Value]:
    """The block outputs, those that lie channels last turned: the graphs compute the same, by way of the turned ones.

    Args:
        graphs: one of static shapes, sorted, and others of the same tensors; changed in place.
        image: the first one's input.
        layout: of the image.
        blocks: of the first one.
    """
    places = grids(graphs[0], image, layout)
    turned = []
    for block in blocks:
        if block in places and places[block].axes == CHANNELS_LAST:
            block, *_ = [_turned(graph, block.name or "") for graph in graphs]
        turned.append(block)
    return turned


def _turned(graph: ir.Graph, name: str) -> ir.Value:
    """Turn a tensor N×H×W×C to N×C×H×W, and back for those that read it."""
    value = ir.convenience.create_value_mapping(graph)[name]
    readers = list(value.uses())
    builder = Builder(graph, f"{name}/")
    maps = builder.transpose(builder.term(value), (0, 3, 1, 2))
    maps.value.name = f"{name}/channels_first"  # the same in every graph
    back = builder.transpose(maps, (0, 2, 3, 1))
    if value.shape is not None:
        maps.value.shape = ir.Shape([value.shape[axis] for axis in (0, 3, 1, 2)])
        back.value.shape = ir.Shape(list(value.shape))
    for node, position in readers:
        node.replace_input_with(position, back.value)
    graph.sort()
    return maps.value


def block_names(graph: ir.Graph, blocks: Sequence[ir.Value]) -> list[str]:
    """A readable name for each block: the outermost torch module that ends in it, or in what was only turned to it, and
    holds no other block, as in ``layer3``; where the file knows no modules, the tensor's own name."""
    modules = _module_outputs(graph)
    names = []
    for block in blocks:
        others = {scope for other in blocks if other is not block for scope in _scopes(other.producer())}
        own, node = _modules_of(block, modules, others), block.producer()
        while not own and node is not None and node.op_type == "Transpose" and (turned := node.inputs[0]) is not None:
            own, node = _modules_of(turned, modules, others), turned.producer()
        names.append(own[0] if own else block.name or "")
    return names


def _modules_of(value: ir.Value, modules: Mapping[str, list[ir.Value]], others: set[str]) -> list[str]:
    """The modules that end in a tensor, but for those others, the outermost first."""
    return [scope for scope in _scopes(value.producer()) if modules[scope] == [value] and scope not in others]


def _passed(cut: Cut) -> bool:
    """Whether it holds what the tensor before it holds."""
    turned = _operator(cut.value) == "Transpose" and list(cut.value.shape or ())[1:] != list(cut.shape)
    return turned or _operator(cut.value) in _PASSING


def _levels(found: Sequence[Cut]) -> list[list[Cut]]:
    levels: list[list[Cut]] = []
    for cut in found:
        if levels:
            _, height, width = levels[-1][-1].shape
            shrunk = height >= SHRINK * cut.shape[1] or width >= SHRINK * cut.shape[2]
        if not levels or shrunk:
            levels.append([])
        levels[-1].append(cut)
    return levels


def _narrow(level: Sequence[Cut], behind: Sequence[Cut]) -> Cut:
    """The last cut of a level or, where that is the expanded tensor inside an inverted bottleneck, the narrow one.

    The expanded tensor enters a depthwise down-sampling, and a convolution behind that makes it no wider. (One that
    makes it wider is the second half of a separable convolution, as in MobileNetV1.)

    Args:
        level: the cuts to choose from.
        behind: the cuts of the next levels.
    """
    last = level[-1]
    expansion = _mixing_before(last.value)
    if expansion is None or not _shrunk_by_depthwise(last.value):
        return last
    cuts_of = {cut.value: cut for cut in level}
    narrow = cuts_of.get(_entered(expansion), last)
    projection = next((cut for cut in behind if _mixing_before(cut.value) not in (None, expansion)), last)
    wide, projected = last.shape[0], projection.shape[0]
    if narrow.shape[0] >= wide or projected > wide:
        return last
    start = _convolution_before(narrow.value)
    if start is None or not _is_depthwise(start):
        return narrow
    if projected == wide:  # a row of separable convolutions
        return last
    # MobileNetV4 may begin with a depthwise convolution: the block's input lies before that.
    before = cuts_of.get(_entered(start), narrow)
    return before if before.shape[0] == narrow.shape[0] else narrow


def _shrunk_by_depthwise(value: ir.Value) -> bool:
    """Whether the next thing that shrinks a tensor is a depthwise convolution, or a pooling behind one."""
    before = _convolution_before(value)
    seen = {value}
    waiting = [(value, before is not None and _is_depthwise(before))]
    while waiting:
        value, deep = waiting.pop()
        for node, _ in value.uses():
            depthwise = _is_depthwise(node)
            strided = max(node.attributes.get_ints("strides", [1])) > 1
            if strided and (depthwise or (deep and node.op_type == "AveragePool")):
                return True
            passes = node.op_type in _PASSING | _ELEMENTWISE | _PARTS or (depthwise and not strided)
            if passes and not seen.intersection(node.outputs):
                seen.update(node.outputs)
                waiting += [(output, deep or depthwise) for output in node.outputs]
    return False


def _between(graph: ir.Graph, image: ir.Value, logits: ir.Value) -> list[ir.Node]:
    """The nodes on the paths from image to logits, in order."""
    dependent = {image}
    for node in graph:
        if any(value in dependent for value in node.inputs):
            dependent.update(node.outputs)
    needed = {logits}
    nodes = []
    for node in reversed(list(graph)):
        if any(value in needed and value in dependent for value in node.outputs):
            needed.update(value for value in node.inputs if value is not None)
            nodes.append(node)
    return nodes[::-1]


def _overlaps(node: ir.Node) -> bool:
    """Whether it is a convolution of neighbouring pixels: larger than 1×1, and not one of separate patches."""
    if node.op_type != "Conv" or node.inputs[1] is None or node.inputs[1].shape is None:
        return False
    kernel = [size for size in list(node.inputs[1].shape)[2:] if isinstance(size, int)]
    strides = node.attributes.get_ints("strides", [1] * len(kernel))
    return any(size > stride for size, stride in zip(kernel, strides, strict=True))


def _is_learned(node: ir.Node) -> bool:
    return node.op_type in _LEARNED and any(
        value is not None and value.const_value is not None for value in node.inputs
    )


def _is_depthwise(node: ir.Node) -> bool:
    return node.op_type == "Conv" and node.attributes.get_int("group", 1) == _channels(node.inputs[0]) > 1


def _channels(value: ir.Value | None) -> int:
    shape = tuple(value.shape or ()) if value is not None else ()
    return shape[1] if len(shape) == 4 and isinstance(shape[1], int) else 0


def _operator(value: ir.Value) -> str:
    node = value.producer()
    return node.op_type if node is not None else ""


def _convolution_before(value: ir.Value | None) -> ir.Node | None:
    """The convolution whose normalised and activated output this is, or a part of which it is."""
    node = value.producer() if value is not None else None
    while node is not None and node.op_type in _ELEMENTWISE | _PASSING | _PARTS:
        sources = [each for each in node.inputs if each is not None and each.const_value is None]
        if node.op_type == "Add" and len(sources) > 1:  # a residual sum
            return None
        # x·sigmoid(x): both factors come from x; follow the one that is not the gate.
        ungated = [each for each in sources if _operator(each) not in ("Sigmoid", "HardSigmoid")]
        node = ungated[0].producer() if ungated else None
    return node if node is not None and node.op_type == "Conv" else None


def _mixing_before(value: ir.Value) -> ir.Node | None:
    """The last convolution before a tensor that is not depthwise."""
    node = _convolution_before(value)
    while node is not None and _is_depthwise(node):
        node = _convolution_before(node.inputs[0])
    return node


def _entered(convolution: ir.Node) -> ir.Value:
    """What a convolution was made from: the tensor of which its input is a part, or a padded copy."""
    (value, *_) = convolution.inputs
    assert value is not None
    node = value.producer()
    while node is not None and node.op_type in _PASSING | {"Split", "Slice"} and node.inputs[0] is not None:
        value = node.inputs[0]
        node = value.producer()
    return value


def _module_outputs(graph: ir.Graph) -> dict[str, list[ir.Value]]:
    """For every torch module, the tensors that leave it, where the file tells which node belongs to which module.

    A node of which it does not tell (the optimizer's Split for several Slices) lies where all its readers lie.
    """
    places: dict[ir.Node, list[str]] = {}
    for node in reversed(graph):
        # A reader may be the body of a branch, or what the optimizer has left over.
        readers = [places[reader] for value in node.outputs for reader, _ in value.uses() if reader in places]
        lost = _SCOPES not in node.metadata_props and readers
        places[node] = _shared(readers) if lost else _scopes(node)
    members: dict[str, set[ir.Node]] = {}
    for node, scopes in places.items():
        for scope in scopes:
            members.setdefault(scope, set()).add(node)
    outputs: dict[str, list[ir.Value]] = {}
    for scope, nodes in members.items():
        outputs[scope] = [
            value
            for node in graph
            if node in nodes
            for value in node.outputs
            if value.is_graph_output() or any(user not in nodes for user, _ in value.uses())
        ]
    return outputs


def _shared(paths: Sequence[Sequence[str]]) -> list[str]:
    """What all of them begin with."""
    return [step for step, *_ in itertools.takewhile(lambda steps: len(set(steps)) == 1, zip(*paths, strict=False))]


def _scopes(node: ir.Node | None) -> list[str]:
    """The modules a node lies in, outermost first, without the root and without the operator itself."""
    text = node.metadata_props.get(_SCOPES) if node is not None else None
    return [str(scope) for scope in ast.literal_eval(text)[1:-1]] if text else []
