"""Variants of SISE: what the weights of the masks are made of, and how the layer maps become one. Plain numpy.

What all of them share with SISE: the masks (normalised feature maps with a positive α), the division of every mask by
its sum, and the blocks from shallow to deep. docs/quality.md has what each of them earns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sightline.kernels.sampling import BINS, samples, threshold

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Block:
    """One block of one image: what the passes and the gradients say about the K masks with a positive α."""

    maps: Doubles
    """A_k: K×h×w."""
    low: Doubles
    high: Doubles
    """Least and largest value of up(A_k): K."""
    sums: Doubles
    """Σ_λ M_k(λ): K."""
    alpha: Doubles
    """α_k > 0, of the log-odds of p_c: K."""
    kept: Doubles
    """p_c(I⊙M_k): K."""
    removed: Doubles
    """p_c(I⊙(1−M_k)): K."""
    grad_cam: Doubles
    layer_cam: Doubles
    """Of all maps of the block, by the gradient of the logit: h×w, at least 0."""

    @property
    def gradient(self) -> Doubles:
        """α_k·(max_k − min_k): how much the log-odds would lose, to first order, were the map made flat."""
        return self.alpha * (self.high - self.low)


@dataclass(frozen=True, eq=False)
class Image:
    """One image and class."""

    size: tuple[int, int]
    score: float
    """p_c(I)."""
    blocks: Sequence[Block]


Weights = Callable[[Image, Block], Doubles]
Fusion = Callable[[Sequence[Doubles]], Doubles]

WEIGHTS: Mapping[str, Weights] = {
    "kept": lambda image, block: block.kept,
    "kept·gradient": lambda image, block: block.kept * block.gradient,
    "gradient": lambda image, block: block.gradient,
    "removed": lambda image, block: _lost(image, block),
    "removed·gradient": lambda image, block: _lost(image, block) * block.gradient,
    "kept + removed": lambda image, block: block.kept + image.score - block.removed,
    "kept − removed": lambda image, block: np.maximum(block.kept - block.removed, 0),
    "kept, centred": lambda image, block: _centred(block.kept),
    "removed, centred": lambda image, block: _centred(_lost(image, block)),
    "removed·gradient, centred": lambda image, block: _centred(_lost(image, block) * block.gradient),
    "kept + removed, centred": lambda image, block: _centred(block.kept - block.removed),
}
"""``kept`` is SISE's. ``gradient`` needs no pass, those with ``+`` or ``−`` need two for every mask. What is centred
has the mean of the block's weights taken off: a mask that tells no more than the others neither adds nor takes."""


def hard(layers: Sequence[Doubles]) -> Doubles:
    """SISE's: E_b = (E_{b−1} + V_b) ⊙ [V_b ≥ t_b]."""
    return _folded(layers, lambda layer: (layer >= otsu(layer)).astype(np.float64))


def soft(width: float) -> Fusion:
    """A gate that opens gradually: E_b = (E_{b−1} + V_b) ⊙ σ((V_b − t_b)/width)."""
    return lambda layers: _folded(layers, lambda layer: 1 / (1 + np.exp(-(layer - otsu(layer)) / width)))


def product(layers: Sequence[Doubles]) -> Doubles:
    """No threshold: E_b = (E_{b−1} + V_b) ⊙ V_b."""
    return _folded(layers, lambda layer: layer)


def with_remainder(layers: Sequence[Doubles]) -> Doubles:
    """SISE's, and a thousandth of the plain sum, which ranks the pixels that the thresholds made equal."""
    return stretched(hard(layers) + 1e-3 * np.sum(layers, axis=0))


def total(layers: Sequence[Doubles]) -> Doubles:
    """The plain sum."""
    return stretched(np.sum(layers, axis=0))


FUSIONS: Mapping[str, Fusion] = {
    "hard": hard,
    "hard + remainder": with_remainder,
    "soft 0.05": soft(0.05),
    "soft 0.1": soft(0.1),
    "product": product,
    "sum": total,
}

VARIANTS: Sequence[tuple[str, str]] = (
    ("kept", "hard"),
    ("kept", "hard + remainder"),
    ("kept", "soft 0.05"),
    ("kept", "product"),
    ("kept", "sum"),
    ("kept·gradient", "soft 0.05"),
    ("gradient", "hard"),
    ("gradient", "soft 0.05"),
    ("removed", "hard"),
    ("removed", "soft 0.05"),
    ("removed·gradient", "hard"),
    ("removed·gradient", "soft 0.05"),
    ("removed·gradient", "soft 0.1"),
    ("kept + removed", "soft 0.05"),
    ("kept − removed", "soft 0.05"),
    ("Grad-CAM of all blocks", "hard"),
    ("LayerCAM of all blocks", "hard"),
    ("kept, centred", "hard"),
    ("kept, centred", "soft 0.05"),
    ("removed, centred", "hard"),
    ("removed, centred", "soft 0.05"),
    ("removed·gradient, centred", "soft 0.05"),
    ("kept + removed, centred", "soft 0.05"),
)
"""Weights and fusion; the first is SISE itself."""


def map_of(image: Image, weights: str, fusion: str) -> Doubles:
    """The map of a variant: H×W in [0, 1]; zeros where no block has anything to show."""
    layers = [layer for block in image.blocks if (layer := _layer(image, block, weights)) is not None]
    return FUSIONS[fusion](layers) if layers else np.zeros(image.size)


def passes(image: Image, weights: str) -> int:
    """Masked passes that the variant needs."""
    masks = sum(len(block.maps) for block in image.blocks)
    free = weights == "gradient" or weights not in WEIGHTS
    return 0 if free else masks * (1 + ("+" in weights or "−" in weights))


def _layer(image: Image, block: Block, weights: str) -> Doubles | None:
    if weights == "Grad-CAM of all blocks":
        low = block.grad_cam
    elif weights == "LayerCAM of all blocks":
        low = block.layer_cam
    else:
        factors = WEIGHTS[weights](image, block) / block.sums / (block.high - block.low)
        low = np.tensordot(factors, block.maps, 1)
    layer = upsampled(low, image.size)
    return None if np.ptp(layer) <= 1e-12 * np.abs(layer).max(initial=0) else stretched(layer)


def _centred(weights: Doubles) -> Doubles:
    return np.asarray(weights - weights.mean())


def _lost(image: Image, block: Block) -> Doubles:
    return np.maximum(image.score - block.removed, 0)


def _folded(layers: Sequence[Doubles], gate: Callable[[Doubles], Doubles]) -> Doubles:
    fused = layers[0]
    for layer in layers[1:]:
        fused = (fused + layer) * gate(layer)
    return stretched(fused)


def stretched(map: Doubles) -> Doubles:
    """Min–max to [0, 1]; a constant map becomes zeros."""
    low, high = map.min(), map.max()
    return (map - low) / (high - low) if high > low else np.zeros_like(map)


def upsampled(maps: Doubles, size: tuple[int, int]) -> Doubles:
    """…×h×w to …×H×W: bilinear, half-pixel centres."""
    down, across = (_matrix(source, side) for source, side in zip(maps.shape[-2:], size, strict=True))
    return np.asarray(down @ maps @ across.T)


def otsu(map: Doubles) -> float:
    """Otsu's threshold of a map in [0, 1] that is not constant."""
    counts = np.bincount(np.minimum((map * BINS).astype(np.intp), BINS - 1).ravel(), minlength=BINS)
    found = threshold(counts.astype(np.int64))
    assert found is not None
    return found


def _matrix(source: int, size: int) -> Doubles:
    first, second, weight = samples(source, size)
    matrix = np.zeros((size, source))
    np.add.at(matrix, (np.arange(size), first), 1 - weight)
    np.add.at(matrix, (np.arange(size), second), weight)
    return matrix
