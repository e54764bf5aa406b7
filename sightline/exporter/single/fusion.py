"""From scores to the saliency map: the graph of sightline/runtime/fusion.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sightline.exporter.builder import Term
from sightline.exporter.single.masks import BlockMasks
from sightline.exporter.single.otsu import otsu
from sightline.exporter.single.sampling import upsampled
from sightline.exporter.single.writer import DOUBLE, FLOAT, Writer

FLAT = {DOUBLE: 1e-12, FLOAT: 1e-6}
"""By precision: below this spread, relative to its values, a map holds nothing but rounding. As in the runtime."""


@dataclass(frozen=True)
class Layer:
    """A map in [0, 1], all zero where there is nothing to show."""

    map: Term
    """H×W."""
    shown: Term
    """Whether it is not constant: a flag, 1×1."""


def layer_map(w: Writer, masks: BlockMasks, scores: Term, size: tuple[int, int]) -> Layer:
    """V_b = Σ_k s_k·M_k / Σ_λ M_k(λ), summed at low resolution, upsampled once and min–max normalised."""
    block = masks.block
    weights = w("Reshape", scores / masks.sums, w.integers((1, -1)))
    maps = w("Reshape", w.precise(masks.features), w.integers((block.channels, block.height * block.width)))
    blended = w("Reshape", w("MatMul", weights, maps), w.integers((block.height, block.width)))
    return normalised(w, upsampled(w, blended, (block.height, block.width), size))


def normalised(w: Writer, map: Term) -> Layer:
    """Min–max to [0, 1]."""
    low, high = w.extremes(map, None, keepdims=True)
    # False where anything is NaN as well, and a block whose map is NaN is left out.
    shown = high - low > w.maximum(w("Abs", low), w("Abs", high)) * FLAT[w.precision]
    scaled = (map - low) / w.where(shown, high - low, 1.0)
    return Layer(w.where(shown, w.minimum(w.maximum(scaled, 0.0), 1.0), 0.0), shown)


def fuse(w: Writer, layers: Sequence[Layer]) -> Term:
    """E_1 = V_1, E_b = (E_{b−1} + V_b) ⊙ [V_b >= otsu(V_b)], then min–max; constant layer maps are left out.

    Returns:
        H×W in [0, 1], float32.
    """
    fused, begun = layers[0].map, layers[0].shown
    for layer in layers[1:]:
        threshold, _ = otsu(w, w("Reshape", layer.map, w.integers((-1,))))
        above = w("Not", layer.map < threshold)
        joined = w.where(w("Not", begun), layer.map, w.where(above, fused + layer.map, 0.0))
        fused = w.where(layer.shown, joined, fused)
        begun = w("Or", begun, layer.shown)
    return w.cast(normalised(w, fused).map, FLOAT)
