"""RISE as its authors run it: all masks made first, all masked images at once, batches of 100 in torch."""

from __future__ import annotations

import math

import numpy as np

from .contender import RISE_CELLS, RISE_KEPT, Case, Contender, Counter, Map, Opened
from .counting import count_module

BATCH = 100


def open_rise(case: Case) -> Opened:
    import torch
    import torch.nn.functional as F

    from .subject import load

    module, counter = load(case), Counter()
    count_module(module, counter)
    image = torch.from_numpy(case.image)[None]
    height, width = image.shape[2:]
    masks: list[torch.Tensor] = []

    def prepare() -> None:
        """Bernoulli grids, upsampled one cell larger than the image, cropped at a random offset."""
        generator = torch.Generator().manual_seed(case.seed)
        cells = (math.ceil(height / RISE_CELLS), math.ceil(width / RISE_CELLS))
        larger = [(RISE_CELLS + 1) * cell for cell in cells]
        all_masks = torch.empty(case.passes, 1, height, width)
        for mask in all_masks:
            grid = (torch.rand(1, 1, RISE_CELLS, RISE_CELLS, generator=generator) < RISE_KEPT).float()
            top, left = (int(torch.randint(cell, (), generator=generator)) for cell in cells)
            full = F.interpolate(grid, larger, mode="bilinear", align_corners=False)
            mask[0] = full[0, 0, top : top + height, left : left + width]
        masks[:] = [all_masks]

    def explain() -> Map:
        with torch.no_grad():
            masked = masks[0] * image
            batches = [module(masked[i : i + BATCH]).softmax(dim=1) for i in range(0, len(masked), BATCH)]
            maps = torch.cat(batches).T @ masks[0].flatten(1)  # of every class, as the authors do
            return np.asarray(maps[case.target].view(height, width) / (len(masked) * RISE_KEPT))

    return Opened(explain, counter, "torch", prepare)


CONTENDERS = (
    Contender(
        "official RISE procedure",
        ("torch", "torchvision"),
        "batch 100; the masks are made once for all images, outside of the time, as the authors do",
        open_rise,
    ),
)
