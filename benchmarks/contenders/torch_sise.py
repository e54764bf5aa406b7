"""SISE as its formulas read, in float32 torch, in batches: what one writes in an afternoon."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .contender import Case, Contender, Counter, Map, Opened
from .counting import count_module

if TYPE_CHECKING:
    from torch import Tensor, nn

BATCH = 8
BINS = 256


def open_sise(case: Case) -> Opened:
    import torch

    from .subject import load

    module, counter = load(case), Counter()
    count_module(module, counter)
    image = torch.from_numpy(case.image)[None]

    def explain() -> Map:
        features, gradients = _backward(module, image, case)
        layers = []
        for maps, gradient in zip(features, gradients, strict=True):
            alphas = gradient.mean(dim=(1, 2))
            chosen = maps[(alphas > 0) & (alphas > case.mu * alphas.max())]
            with torch.no_grad():
                layer = _layer(module, image, chosen, case.target)
            if layer is not None:
                layers.append(layer)
        fused = layers[0]
        for layer in layers[1:]:
            fused = (fused + layer) * (layer >= _otsu(layer))
        return np.asarray(_minmax(fused))

    return Opened(explain, counter, "torch")


def _backward(module: nn.Module, image: Tensor, case: Case) -> tuple[list[Tensor], list[Tensor]]:
    """Features and gradients of every block, the gradient seeded with that of log(p_c / (1 − p_c))."""
    import torch

    found: list[Tensor] = []
    hooks = [
        module.get_submodule(name).register_forward_hook(lambda _module, _inputs, output: found.append(output))
        for name in case.blocks
    ]
    try:
        logits = module(image.clone().requires_grad_())
    finally:
        for hook in hooks:
            hook.remove()
    rivals = logits.detach().clone()
    rivals[0, case.target] = -torch.inf
    seed = -rivals.softmax(dim=1)
    seed[0, case.target] = 1.0
    gradients = torch.autograd.grad(logits, found, seed)
    return [maps.detach()[0] for maps in found], [gradient[0] for gradient in gradients]


def _layer(module: nn.Module, image: Tensor, maps: Tensor, target: int) -> Tensor | None:
    """Σ_k s_k · M_k / Σ_λ M_k(λ), min–max normalised; None where it is constant."""
    import torch
    import torch.nn.functional as F

    size = image.shape[2:]
    layer = torch.zeros(size)
    for batch in maps.split(BATCH):
        masks = F.interpolate(batch[:, None], size, mode="bilinear", align_corners=False)
        low, high = masks.amin(dim=(1, 2, 3), keepdim=True), masks.amax(dim=(1, 2, 3), keepdim=True)
        varied = (high > low).flatten()
        if not varied.any():
            continue
        masks = ((masks - low) / (high - low))[varied]
        scores = module(image * masks).softmax(dim=1)[:, target]
        layer += ((scores / masks.sum(dim=(1, 2, 3)))[:, None, None] * masks[:, 0]).sum(dim=0)
    return _minmax(layer) if bool(layer.max() > layer.min()) else None


def _minmax(values: Tensor) -> Tensor:
    return (values - values.min()) / (values.max() - values.min()).clamp_min(1e-30)


def _otsu(values: Tensor) -> float:
    """The upper edge of the last bin of the lower class, at the first best of the 255 splits."""
    import torch

    bins = (values.flatten() * BINS).long().clamp_max(BINS - 1)
    counts = torch.bincount(bins, minlength=BINS).double()
    lower = counts.cumsum(0)[:-1]
    moment = (counts * torch.arange(BINS)).cumsum(0)
    upper = counts.sum() - lower
    between = lower * upper * (moment[:-1] / lower - (moment[-1] - moment[:-1]) / upper) ** 2
    return (int(between.nan_to_num(0.0).argmax()) + 1) / BINS


CONTENDERS = (
    Contender("plain torch SISE", ("torch", "torchvision"), "batch 8, float32, masks at full size", open_sise),
)
