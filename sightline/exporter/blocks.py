"""Finding the outputs of the convolutional blocks.

SISE (Sattarzadeh et al., AAAI 2021, §3.1) samples the last tensor of every block: the input of every spatial
down-sampling after the stem, and the last map before global pooling. On the graph this is: walk the *cuts* (tensors
that every path from the image to the logits passes through; a tensor inside a residual branch is none), start a new
level wherever they shrink, and take the last cut of each level that convolves.
"""

from __future__ import annotations

import ast
import difflib
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from sightline.errors import ExportError, NoBlocksError

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
    "MaxPool",
    "Mish",
    "PRelu",
} | {"Relu", "Selu", "Sigmoid", "Softplus", "Softsign", "Swish", "Tanh", "ThresholdedRelu"}
_PASSING = {"Pad", "Dropout", "Identity", "Cast"}
_ACTIVATED = {
    "BatchNormalization",
    "Clip",
    "HardSwish",
    "Relu",
    "LeakyRelu",
    "PRelu",
    "Elu",
    "Mul",
    "Swish",
    "Gelu",
    "Mish",
}
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


def find_blocks(graph: ir.Graph, image: ir.Value, logits: ir.Value, layout: str) -> list[ir.Value]:
    """The block outputs, shallow to deep.

    Args:
        graph: static shapes, sorted.
        image: its input.
        logits: its output.
        layout: of the image, ``NCHW`` or ``NHWC``.

    Raises:
        NoBlocksError: nothing in the graph is a convolutional block.
    """
    chosen: list[Cut] = []
    for level in _levels(cuts(graph, image, logits, layout)):
        before = chosen[-1].convolutions if chosen else 0
        candidates = [cut for cut in level if cut.convolutions > before and cut.activated and cut.learned_after]
        candidates = [cut for cut in candidates if _operator(cut.value) not in _PASSING]
        if candidates:
            chosen.append(_narrow(candidates))
    if not chosen:
        raise NoBlocksError(
            "no convolutional block was found: no feature map lies on every path from the image to the logits. "
            "Sightline explains 2-D CNNs; if this is one, name the feature maps to use (--blocks a,b, blocks=[...])."
        )
    return [cut.value for cut in chosen]


def cuts(graph: ir.Graph, image: ir.Value, logits: ir.Value, layout: str) -> list[Cut]:
    """The tensors C×H×W, channels first and larger than 1×1, that every path from image to logits passes through."""
    nodes = _between(graph, image, logits)
    uses = {image: 0}
    for node in nodes:
        for value in node.inputs:
            if value is not None:
                uses[value] = uses.get(value, 0) + 1
    inside = {image} | {value for node in nodes for value in node.outputs}
    learned = sum(_is_learned(node) for node in nodes)
    first = {image: layout == "NCHW"}
    live = {image}
    convolutions, activated = 0, False
    found = []
    for node in nodes:
        dependent = [value for value in node.inputs if value is not None and value in inside]
        for value in dependent:
            uses[value] -= 1
            if not uses[value]:
                live.discard(value)
        live.update(value for value in node.outputs if uses.get(value) or value is logits)
        convolutions += node.op_type == "Conv"
        activated |= node.op_type in _NONLINEAR
        learned -= _is_learned(node)
        output = node.outputs[0]
        first[output] = _channels_first(node, first.get(dependent[0], True))
        shape = tuple(output.shape or ())
        if live == {output} and len(shape) == 4 and first[output]:
            _, channels, height, width = (size if isinstance(size, int) else 0 for size in shape)
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


def block_names(graph: ir.Graph, blocks: Sequence[ir.Value]) -> list[str]:
    """A readable name for each block: the outermost torch module that ends in it and holds no other block, as in
    ``layer3``; where the file knows no modules, the tensor's own name."""
    modules = _module_outputs(graph)
    names = []
    for block in blocks:
        others = {scope for other in blocks if other is not block for scope in _scopes(other.producer())}
        own = [scope for scope in _scopes(block.producer()) if modules[scope] == [block] and scope not in others]
        names.append(own[0] if own else block.name or "")
    return names


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


def _narrow(level: Sequence[Cut]) -> Cut:
    """The last cut of a level or, where that is the expanded tensor inside an inverted bottleneck, the narrow one.

    The expanded tensor feeds a strided depthwise convolution and comes from a pointwise one. A pointwise convolution
    behind a depthwise one is no expansion but the second half of a separable convolution (MobileNetV1).
    """
    last = level[-1]
    if not any(
        _is_depthwise(node) and max(node.attributes.get_ints("strides", [1])) > 1 for node in _readers(last.value)
    ):
        return last
    expansion = _convolution_before(last.value)
    if expansion is None or not _is_pointwise(expansion):
        return last
    narrow = next((cut for cut in level if cut.value is expansion.inputs[0]), None)
    if narrow is None or narrow.shape[0] >= last.shape[0]:
        return last
    source = _convolution_before(narrow.value)
    return last if source is not None and _is_depthwise(source) else narrow


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


def _channels_first(node: ir.Node, before: bool) -> bool:
    """Whether a node's output is N×C×H×W, knowing that of its input."""
    if node.op_type == "Transpose":
        permutation = list(node.attributes.get_ints("perm", []))
        if permutation in ([0, 2, 3, 1], [0, 3, 1, 2]):
            return permutation == [0, 3, 1, 2]
        return before
    return True if node.op_type in ("Conv", "ConvTranspose", "MaxPool", "AveragePool") else before


def _is_learned(node: ir.Node) -> bool:
    return node.op_type in _LEARNED and any(
        value is not None and value.const_value is not None for value in node.inputs
    )


def _is_pointwise(node: ir.Node) -> bool:
    weights = node.inputs[1]
    kernel = tuple(weights.shape or ())[2:] if weights is not None else ()
    return node.op_type == "Conv" and node.attributes.get_int("group", 1) == 1 and set(kernel) == {1}


def _is_depthwise(node: ir.Node) -> bool:
    return node.op_type == "Conv" and node.attributes.get_int("group", 1) == _channels(node.inputs[0]) > 1


def _channels(value: ir.Value | None) -> int:
    shape = tuple(value.shape or ()) if value is not None else ()
    return shape[1] if len(shape) == 4 and isinstance(shape[1], int) else 0


def _operator(value: ir.Value) -> str:
    node = value.producer()
    return node.op_type if node is not None else ""


def _readers(value: ir.Value) -> list[ir.Node]:
    """The nodes that use a tensor, through padding and the like."""
    readers = []
    for node, _ in value.uses():
        readers += _readers(node.outputs[0]) if node.op_type in _PASSING else [node]
    return readers


def _convolution_before(value: ir.Value) -> ir.Node | None:
    """The convolution whose normalised and activated output this is."""
    node = value.producer()
    while node is not None and node.op_type in _ACTIVATED:
        # x·sigmoid(x): both factors come from x; follow the one that is not the gate.
        sources = [each for each in node.inputs if each is not None and each.const_value is None]
        ungated = [each for each in sources if _operator(each) not in ("Sigmoid", "HardSigmoid")]
        node = ungated[0].producer() if ungated else None
    return node if node is not None and node.op_type == "Conv" else None


def _module_outputs(graph: ir.Graph) -> dict[str, list[ir.Value]]:
    """For every torch module, the tensors that leave it, where the file tells which node belongs to which module."""
    members: dict[str, set[ir.Node]] = {}
    for node in graph:
        for scope in _scopes(node):
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


def _scopes(node: ir.Node | None) -> list[str]:
    """The modules a node lies in, outermost first, without the root and without the operator itself."""
    text = node.metadata_props.get(_SCOPES) if node is not None else None
    return [str(scope) for scope in ast.literal_eval(text)[1:-1]] if text else []
