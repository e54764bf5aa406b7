"""The hot loop in a graph: masks of all blocks share the batches of one ``Loop`` (sightline/runtime/batching.py)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sightline import bundle
from sightline.exporter.builder import Term
from sightline.exporter.single.masks import BlockMasks
from sightline.exporter.single.sampling import interpolation_matrix
from sightline.exporter.single.writer import BOOL, FLOAT, INT64, Writer


@dataclass(frozen=True)
class Scores:
    """What the masked passes say."""

    of_blocks: list[Term]
    """s_k for every feature map of every block, 0 where it was not scored: C."""
    passes: Term
    """How many masks were scored: int64, one entry."""


def score(
    w: Writer,
    classifier: ir.Graph,
    blocks: Sequence[BlockMasks],
    kept: Sequence[Term],
    image: Term,
    target: Term,
    spec: bundle.ImageInput,
    batch_size: int,
) -> Scores:
    """Score the kept masks of all blocks, from shallow to deep, in batches of one size, the last one padded with zeros.

    Args:
        w: writes to the graph that explains.
        classifier: image (N×C×H×W) -> probabilities. Becomes the body of the loop, and so must be nobody else's. Its
            weights stay its own initializers: engines fuse convolutions only with weights of the same graph.
        blocks: the masks.
        kept: which of them to score, a flag for every map of every block.
        image: as the classifier takes it, batch of one.
        target: the class, int64, one entry.
        spec: what the network expects of an image.
        batch_size: masked images per pass.
    """
    counts = [w.count(flags) for flags in kept]
    starts, total = [w.array(np.zeros(1, np.int64))], counts[0]
    for count in counts[1:]:
        starts.append(total)
        total = total + count
    body = _Body(w, classifier, spec, batch_size, image, target)
    for masks, flags, start, count in zip(blocks, kept, starts, counts, strict=True):
        body.add(masks, flags, start, count)
    # Not even one mask is one batch of zeros: some engines take no loop that is never run.
    trips = w.maximum((total + (batch_size - 1)) / batch_size, 1)
    rows = w(
        "Loop",
        w("Reshape", trips, w.integers(())),
        w.array(np.array(True)),
        dtype=FLOAT,
        body=body.finished(),
    )
    scores = w("Reshape", rows, w.integers((-1,)))
    found = []
    for flags, start in zip(kept, starts, strict=True):
        # The place of a map among the scores: how many were kept before it.
        places = w("CumSum", w.cast(flags, INT64), w.array(np.array(0, np.int64))) + (start - 1)
        picked = w.gather(scores, w.maximum(places, 0))
        found.append(w.where(flags, w.precise(picked), 0.0))
    return Scores(found, total)


class _Body:
    """The graph of one batch: from its number to the scores of its images."""

    def __init__(
        self, outer: Writer, classifier: ir.Graph, spec: bundle.ImageInput, size: int, image: Term, target: Term
    ) -> None:
        self._outer = outer
        self._graph = classifier
        self._spec = spec
        self._size = size
        self._image = image
        self._target = target
        self._pixels = classifier.inputs[0]
        (self._scores,) = (value for value in classifier.outputs if value.name == bundle.PROBABILITIES)
        classifier.inputs.clear()
        classifier.outputs.clear()
        self._w = w = Writer(classifier, "b/e/")
        number = ir.val("b/e/number", dtype=INT64, shape=[])
        condition = ir.val("b/e/condition", dtype=BOOL, shape=[])
        classifier.inputs.extend([number, condition])
        self._begin = w("Reshape", w.term(number), w.integers((1,))) * size
        self._condition = w("Identity", w.term(condition))
        self._condition.value.shape = ir.Shape([])
        self._parts: list[Term] = []
        self._counts: list[Term] = []

    def add(self, masks: BlockMasks, kept: Term, start: Term, count: Term) -> None:
        """The masks of one block that belong to the batch, as rows of pixels: n·H×W, n = 0 … batch size."""
        # Outside of the loop, once: which maps are kept, and the matrices that upsample them.
        chosen = self._outer("Reshape", self._outer("NonZero", kept, dtype=INT64), self._outer.integers((-1,)))
        block, spec = masks.block, self._spec
        rows = interpolation_matrix(self._outer, block.height, spec.height)
        columns = interpolation_matrix(self._outer, block.width, spec.width)
        w = self._w
        begin = w.minimum(w.maximum(self._begin - w.term(start.value), 0), w.term(count.value))
        past = self._begin - w.term(start.value) + self._size
        end = w.minimum(w.maximum(past, 0), w.term(count.value))
        which = w("Slice", w.term(chosen.value), begin, end, w.integers((0,)))
        # Every product has the matrix on its right and rows of all masks on its left: ONNX Runtime multiplies no masks
        # at all in no other way.
        pixels = masks.scaled if rows is None else self._outer.transpose(masks.scaled, (0, 2, 1))
        pixels = w.gather(w.term(pixels.value), which)
        if rows is not None:
            pixels = w.transpose(w("MatMul", pixels, w.term(rows.value)), (0, 2, 1))
        pixels = w("Reshape", pixels, w.integers((-1, block.width)))
        if columns is not None:
            pixels = w("MatMul", pixels, w.term(columns.value))
        self._parts.append(pixels)
        self._counts.append(end - begin)

    def finished(self) -> ir.Graph:
        """The whole body."""
        w, spec = self._w, self._spec
        free = w.constant(self._size, like=self._begin)
        for count in self._counts:
            free = free - count
        shape = w.concat([free * spec.height, w.integers((spec.width,))])
        padding = w("ConstantOfShape", shape, dtype=FLOAT)
        masks = w.concat([*self._parts, padding])
        last = spec.layout == "NHWC"
        sizes = (self._size, spec.height, spec.width, 1) if last else (self._size, 1, spec.height, spec.width)
        masked = w("Reshape", masks, w.integers(sizes)) * w.term(self._image.value)
        self._pixels.replace_all_uses_with(masked.value)
        of_class = w.gather(w.term(self._scores), w.term(self._target.value), 1)
        scores = w("Reshape", of_class, w.integers((self._size,)))
        scores.value.shape = ir.Shape([self._size])
        self._graph.outputs.extend([self._condition.value, scores.value])
        self._graph.sort()
        return self._graph
