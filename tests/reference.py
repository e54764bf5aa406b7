"""SISE and Ada-SISE as their formulas read, in float64 torch: the oracle that the product is held to.

Nothing here is shared with the product and nothing is fast: every mask is made at full size, every score is one forward
pass in double precision, and the layer map is summed mask by mask (arXiv 2010.00672, §3; arXiv 2102.07799, §2).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BINS = 256


@dataclass(frozen=True)
class Gradients:
    """What one backward pass gives: the K logits and, of every block, C×h×w features and gradients."""

    logits: Tensor
    features: tuple[Tensor, ...]
    gradients: tuple[Tensor, ...]

    @property
    def alphas(self) -> tuple[Tensor, ...]:
        return tuple(gradient.mean(dim=(1, 2)) for gradient in self.gradients)


@dataclass(frozen=True)
class Layer:
    """One block: the channels kept, the score p_c(I ⊙ M_k) of each, and the layer map V_b (None: nothing to show)."""

    alphas: Tensor
    selected: tuple[int, ...]
    scores: Tensor
    map: Tensor | None


@dataclass(frozen=True)
class Explanation:
    layers: tuple[Layer, ...]
    fused: Tensor
    passes: int


def tapped(module: nn.Module, image: Tensor, taps: Sequence[str]) -> tuple[Tensor, list[Tensor]]:
    """The logits of one image, and the outputs of the named modules, still attached to the graph."""
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
            assert name not in found, f"{name} runs more than once: its output is not one tensor"
            found[name] = output

        return hook

    with ExitStack() as stack:
        for name in taps:
            stack.callback(module.get_submodule(name).register_forward_hook(keep(name)).remove)
        logits = module(image)
    return logits, [found[name] for name in taps]


def seeded_gradient(
    module: nn.Module, image: Tensor, target: int, taps: Sequence[str], *, activation: str = "softmax"
) -> Gradients:
    """The gradient at every block, seeded at the logits with ∂p_c/∂z up to a positive factor.

    Args:
        module: logits out, in the precision wanted.
        image: 1×C×H×W.
        target: the class c.
        taps: names of the modules whose outputs are the blocks.
        activation: "softmax" seeds e_c − softmax over the rivals, "sigmoid" seeds e_c.
    """
    with torch.enable_grad():
        logits, tensors = tapped(module, image.clone().requires_grad_(), taps)
        seed = torch.zeros_like(logits)
        if activation == "softmax":
            rivals = logits.detach().clone()
            rivals[0, target] = -torch.inf
            seed -= torch.softmax(rivals, dim=1)
        seed[0, target] = 1.0
        gradients = torch.autograd.grad(logits, tensors, seed)
    return Gradients(
        logits.detach()[0],
        tuple(tensor.detach()[0].clone() for tensor in tensors),
        tuple(gradient[0] for gradient in gradients),
    )


def explain(
    module: nn.Module,
    image: Tensor,
    target: int,
    taps: Sequence[str],
    *,
    mu: float = 0.0,
    adaptive: bool = False,
    activation: str = "softmax",
) -> Explanation:
    """SISE (or Ada-SISE, where ``adaptive``) of one 1×C×H×W image, in float64."""
    module, image = module.double(), image.double()
    found = seeded_gradient(module, image, target, taps, activation=activation)
    layers = []
    for features, alphas in zip(found.features, found.alphas, strict=True):
        chosen = adaptive_selection(alphas) if adaptive else selection(alphas, mu)
        layers.append(_layer(module, image, target, features, alphas, chosen, activation))
    maps = [layer.map for layer in layers if layer.map is not None]
    fused = fusion(maps) if maps else torch.zeros(image.shape[2:], dtype=torch.float64)
    return Explanation(tuple(layers), fused, sum(len(layer.selected) for layer in layers))


def selection(alphas: Tensor, mu: float) -> list[int]:
    """k with α_k > μ·β and α_k > 0, where β = max_k α_k."""
    beta = alphas.max().item()
    return [k for k, alpha in enumerate(alphas.tolist()) if alpha > 0 and alpha > mu * beta]


def adaptive_selection(alphas: Tensor) -> list[int]:
    """k with α_k/β at or above Otsu's threshold over the positive α_k/β; all of them where there is none."""
    positive = selection(alphas, 0.0)
    if not positive:
        return []
    ratios = alphas[positive] / alphas.max()
    if len(positive) <= 2 or (theta := otsu(ratios)) is None:
        return positive
    return [k for k, ratio in zip(positive, ratios.tolist(), strict=True) if ratio >= theta]


def otsu(values: Tensor) -> float | None:
    """Otsu's threshold of values in [0, 1], in exact arithmetic; None where all values are equal.

    256 equal bins; the first split that maximises w₀·w₁·(m₀ − m₁)², with the means taken over bin numbers; the upper
    edge of the last bin of the lower class.
    """
    if values.min() == values.max():
        return None
    counts = [0] * BINS
    for value in values.flatten().tolist():
        counts[min(int(value * BINS), BINS - 1)] += 1
    total, moment = sum(counts), sum(i * count for i, count in enumerate(counts))
    best, best_split, lower, lower_moment = Fraction(-1), 0, 0, 0
    for i, count in enumerate(counts[:-1]):
        lower, lower_moment = lower + count, lower_moment + i * count
        upper, upper_moment = total - lower, moment - lower_moment
        variance = (
            lower * upper * (Fraction(lower_moment, lower) - Fraction(upper_moment, upper)) ** 2
            if lower and upper
            else Fraction(0)
        )
        if variance > best:
            best, best_split = variance, i
    return (best_split + 1) / BINS


def up(feature_map: Tensor, size: Sequence[int]) -> Tensor:
    """h×w to H×W, bilinear, half-pixel centres, no antialiasing."""
    return F.interpolate(feature_map[None, None], size=tuple(size), mode="bilinear", align_corners=False)[0, 0]


def mirrored(feature_map: Tensor, size: Sequence[int]) -> Tensor:
    """h×w to H×W as RISE's authors upsample a grid: beyond the centres of its outermost pixels it is mirrored."""
    axes = []
    for source, target in zip(feature_map.shape, size, strict=True):
        position = (torch.arange(target, dtype=torch.float64) + 0.5) * source / target - 0.5
        axes.append(2 * position / max(source - 1, 1) - 1)  # -1 and 1 are the centres of the outermost pixels
    y, x = torch.meshgrid(*axes, indexing="ij")
    where = torch.stack([x, y], dim=-1).to(feature_map.dtype)
    sampled = F.grid_sample(feature_map[None, None], where[None], padding_mode="reflection", align_corners=True)
    return sampled[0, 0]


def attribution_mask(feature_map: Tensor, size: Sequence[int]) -> Tensor | None:
    """M_k = (up(A_k) − min) / (max − min); None for a constant map."""
    full = up(feature_map, size)
    low, high = full.min(), full.max()
    return None if low == high else (full - low) / (high - low)


def fusion(maps: Sequence[Tensor]) -> Tensor:
    """E_1 = V_1; E_b = (E_{b−1} + V_b) ⊙ [V_b ≥ t_b]; min–max normalised at the end."""
    fused = maps[0]
    for layer_map in maps[1:]:
        threshold = otsu(layer_map)
        assert threshold is not None
        fused = (fused + layer_map) * (layer_map >= threshold)
    return minmax(fused)


def minmax(values: Tensor) -> Tensor:
    """To [0, 1]; zeros where all values are equal."""
    low, high = values.min(), values.max()
    return torch.zeros_like(values) if low == high else (values - low) / (high - low)


def _layer(
    module: nn.Module,
    image: Tensor,
    target: int,
    features: Tensor,
    alphas: Tensor,
    chosen: Sequence[int],
    activation: str,
) -> Layer:
    size = image.shape[2:]
    layer_map = torch.zeros(size, dtype=torch.float64)
    selected, scores = [], []
    for k in chosen:
        mask = attribution_mask(features[k], size)
        if mask is None:
            continue
        with torch.no_grad():
            logits = module(image * mask)[0]
        probabilities = torch.sigmoid(logits) if activation == "sigmoid" else torch.softmax(logits, dim=0)
        score = probabilities[target]
        layer_map += score * mask / mask.sum()
        selected.append(k)
        scores.append(score)
    constant = not selected or layer_map.min() == layer_map.max()
    return Layer(
        alphas,
        tuple(selected),
        torch.stack(scores) if scores else torch.zeros(0, dtype=torch.float64),
        None if constant else minmax(layer_map),
    )
