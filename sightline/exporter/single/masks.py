"""The masks M_k = scale_k·up(A_k) + shift_k of a block: the graph of sightline/runtime/masks.py."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sightline.bundle import Block
from sightline.exporter.builder import Term
from sightline.exporter.single.sampling import interpolated
from sightline.exporter.single.writer import FLOAT, Writer
from sightline.kernels.sampling import patch_corners, shares

FLAT = 4 * float(np.finfo(np.float32).eps)
"""As in the runtime: below this spread, relative to its values, an upsampled map holds nothing but rounding."""


@dataclass(frozen=True)
class BlockMasks:
    """What the graph knows of the masks of every feature map of a block, chosen or not."""

    block: Block
    features: Term
    """A_k: C×h×w, float32."""
    scaled: Term
    """scale_k·A_k + shift_k: C×h×w, float32. Upsampled, it is the mask."""
    varied: Term
    """Whether a map is not constant: C."""
    sums: Term
    """Σ_λ M_k(λ) over all pixels, times max_k − min_k: C, in the writer's precision."""


def block_masks(w: Writer, block: Block, features: Term, size: tuple[int, int]) -> BlockMasks:
    """Normalise the feature maps (C×h×w) of a block to masks in [0, 1] (SISE, §3.2)."""
    height, width = size
    corners = patch_corners(block.height, height), patch_corners(block.width, width)
    low, high = w.extremes(interpolated(w, features, *corners), (1, 2))
    low, high = w.precise(low), w.precise(high)
    spread = high - low
    varied = spread > w.maximum(w("Abs", low), w("Abs", high)) * FLAT
    # A constant map is divided by one instead: nobody reads what comes of it, but it must stay finite.
    divisor = w.where(varied, spread, 1.0)
    scale, shift = (
        w("Reshape", w.cast(term, FLOAT), w.integers((-1, 1, 1))) for term in (1.0 / divisor, -low / divisor)
    )
    totals = _totals(w, block, features, size)
    # No less than the one pixel where M_k = 1: rounding must not take it to zero.
    sums = w.maximum(totals - low * float(height * width), divisor)
    return BlockMasks(block, features, features * scale + shift, varied, sums)


def _totals(w: Writer, block: Block, features: Term, size: tuple[int, int]) -> Term:
    """The sum of every upsampled map, without upsampling: 1ᵀ·W_y·A·W_xᵀ·1."""
    precise = w.precise(features)
    per_column, per_row = (
        w.constant(shares(source, target)[:, None], like=precise)
        for source, target in ((block.width, size[1]), (block.height, size[0]))
    )
    rows = w("MatMul", precise, per_column)
    rows = w("Reshape", rows, w.integers((block.channels, block.height)))
    return w("Reshape", w("MatMul", rows, per_row), w.integers((-1,)))
