"""The whole of a method as one graph: image -> logits, probabilities, explained, saliency, passes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes

from sightline import bundle
from sightline.bundle import Bundle
from sightline.exporter.builder import Term
from sightline.exporter.gradient import expose
from sightline.exporter.single.cam import CAMS, drawn
from sightline.exporter.single.fusion import fuse, layer_map
from sightline.exporter.single.image import network_input
from sightline.exporter.single.masks import block_masks
from sightline.exporter.single.passes import score
from sightline.exporter.single.selection import above_otsu, above_share, shares, within_limit
from sightline.exporter.single.weights import unshare
from sightline.exporter.single.writer import DOUBLE, FLOAT, INT64, Writer

IMAGE, MU, MAX_PASSES = "image", "mu", "max_passes"
OURS = ("e/", "b/e/")
"""How the names of our nodes and tensors begin, outside of the loop and in it; the network's are kept."""
EXPLAINED, SALIENCY, PASSES = "explained", "saliency", "passes"


@dataclass(frozen=True)
class Recipe:
    """What the file shall do."""

    method: str
    """``sise``, ``ada-sise``, ``grad-cam`` or ``layer-cam``."""
    mu: float
    max_passes: int | None
    batch_size: int
    inputs: tuple[str, ...]
    """Which of ``target``, ``mu`` and ``max_passes`` are inputs; the others are constants."""
    uint8: bool
    float64: bool
    """Whether sums and thresholds are computed in float64, as in the runtime."""

    @property
    def masked(self) -> bool:
        """Whether the method scores masks."""
        return self.method not in CAMS


def explaining_model(source: Bundle, recipe: Recipe) -> ir.Model:
    """Write the graph.

    Args:
        source: the bundle, whose two graphs are read.
        recipe: valid for this bundle.
    """
    model = _read(source, source.attribution)
    _rename(model.graph, "a/")
    graph = model.graph
    inputs = {(value.name or "").removeprefix("a/"): value for value in graph.inputs}
    outputs = {(value.name or "").removeprefix("a/"): value for value in graph.outputs}
    graph.inputs.clear()
    graph.outputs.clear()
    w = Writer(graph, "e/", DOUBLE if recipe.float64 else FLOAT)
    unshare(w)
    spec, size = source.input, (source.input.height, source.input.width)

    image = network_input(w, IMAGE, spec, uint8=recipe.uint8)
    target = _option(w, bundle.TARGET, INT64, recipe, bundle.PREDICTED)
    target = w.maximum(target, bundle.PREDICTED)  # below it the attribution graph would take a seed
    given = {
        spec.name: image,
        bundle.TARGET: target,
        bundle.SEED: w.array(np.zeros((1, source.classes), np.float32)),
        bundle.RIVALS: w.array(np.array([recipe.masked], np.float32)),
    }
    for name, value in inputs.items():
        value.replace_all_uses_with(given[name].value)
    found = {name: w.term(value) for name, value in outputs.items()}
    predicted = w("ArgMax", found[bundle.LOGITS], axis=1, keepdims=0, dtype=INT64)
    explained = w.where(target < 0, predicted, target)

    if recipe.masked:
        saliency, passes_ = _masked(w, source, recipe, found, image, explained)
    else:
        block = source.blocks[-1]
        features, gradient = _maps(w, found, block, block.features), _maps(w, found, block, block.gradient)
        saliency = drawn(w, recipe.method, block, features, gradient, size)
        passes_ = w.array(np.zeros(1, np.int64))

    for name, term, shape in (
        (bundle.LOGITS, found[bundle.LOGITS], (1, source.classes)),
        (bundle.PROBABILITIES, found[bundle.PROBABILITIES], (1, source.classes)),
        (EXPLAINED, explained, (1,)),
        (SALIENCY, saliency, size),
        (PASSES, passes_, (1,)),
    ):
        expose(w, term, name, shape)
    graph.name = "explainer"
    graph.sort()
    passes.RemoveUnusedNodesPass()(model)
    _compact(graph)
    return model


def _masked(
    w: Writer, source: Bundle, recipe: Recipe, found: dict[str, Term], image: Term, explained: Term
) -> tuple[Term, Term]:
    """Saliency and the number of passes of SISE or Ada-SISE."""
    size = (source.input.height, source.input.width)
    mu = None
    if recipe.method == "sise" and (recipe.mu or MU in recipe.inputs):
        mu = w.precise(_option(w, MU, FLOAT, recipe, recipe.mu))
    masks, chosen, worth = [], [], []
    for block in source.blocks:
        alpha = w.precise(w("Reshape", found[block.alpha], w.integers((-1,))))
        chosen.append(above_share(w, alpha, mu) if recipe.method == "sise" else above_otsu(w, alpha))
        worth.append(shares(w, alpha, chosen[-1]))
        masks.append(block_masks(w, block, _maps(w, found, block, block.features), size))
    if recipe.max_passes is not None or MAX_PASSES in recipe.inputs:
        channels = [block.channels for block in source.blocks]
        limit = _option(w, MAX_PASSES, INT64, recipe, recipe.max_passes or sum(channels))
        chosen = within_limit(w, worth, chosen, limit, channels)
    kept = [flags & of_block.varied for flags, of_block in zip(chosen, masks, strict=True)]
    classifier = _read(source, source.classifier).graph
    for value in classifier.outputs:
        value.shape = None
    scores = score(w, classifier, masks, kept, image, explained, source.input, recipe.batch_size)
    _rename(classifier, "b/", OURS)
    layers = [layer_map(w, *each, size) for each in zip(masks, scores.of_blocks, strict=True)]
    return fuse(w, layers), scores.passes


def _maps(w: Writer, found: dict[str, Term], block: bundle.Block, name: str) -> Term:
    """C×h×w of an output of the attribution graph."""
    return w("Reshape", found[name], w.integers((block.channels, block.height, block.width)))


def _option(w: Writer, name: str, dtype: ir.DataType, recipe: Recipe, default: float) -> Term:
    """A parameter of one entry: an input, whose values below the allowed ones mean the default, or that constant."""
    own = w.array(np.array([default], dtype.numpy()))
    if name not in recipe.inputs:
        return own
    value = ir.val(name, dtype=dtype, shape=[1])
    w.graph.inputs.append(value)
    given = w.term(value)
    if name == bundle.TARGET:
        return given
    return w.where(given < (1 if name == MAX_PASSES else 0), own, given)


def _read(source: Bundle, path: object) -> ir.Model:
    return ir.external_data.load_to_model(ir.load(str(path)))


def _rename(graph: ir.Graph, prefix: str, ours: tuple[str, ...] = ()) -> None:
    """Prefix every name: the names of nested graphs must differ from those around them."""
    for value in (*graph.inputs, *list(graph.initializers.values()), *(out for node in graph for out in node.outputs)):
        if value.name and not value.name.startswith(ours):
            value.name = prefix + value.name
    for node in graph:
        if node.name and not node.name.startswith(ours):
            node.name = prefix + node.name


def _compact(graph: ir.Graph) -> None:
    """Shorten what a small network's file would feel: our nodes go without names, the tensors between have short ones.

    What the graph says of types and shapes is dropped as well: engines infer them, and some were those of other sizes.
    """
    number = 0
    for inner in (graph, *graph.subgraphs()):
        keep = {*inner.inputs, *inner.outputs}
        for node in inner:
            ours = (node.name or "").startswith(OURS)
            if ours:
                node.name = None
            for value in node.outputs:
                if value not in keep:
                    value.shape = value.type = None
                    if ours:
                        number, value.name = number + 1, f"{number:x}"
        for value in list(inner.initializers.values()):
            value.shape = value.type = None
            if (value.name or "").startswith(OURS):
                number, value.name = number + 1, f"{number:x}"
