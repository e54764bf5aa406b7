"""A small single-stage detector: residual blocks, and one proposal in every cell of a 12×12 grid."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import torch
from boxes import REACH, Grid
from scenes import LABELS, SIZE
from torch import Tensor, nn

# Of the training pictures, over all pixels, for RGB in [0, 1].
MEAN = (0.54, 0.54, 0.54)
STD = (0.10, 0.10, 0.10)
WEIGHTS = Path(__file__).with_name("detector.pt")
GRID = Grid(SIZE, SIZE // 16, len(LABELS))

_WIDTHS = (16, 24, 40, 64, 80)
_STRIDES = (2, 2, 2, 1)


class Block(nn.Module):
    """Two 3×3 convolutions and a shortcut; ``stride`` 2 halves the resolution."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width_in, width, 3, stride, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, 1, 1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.shortcut = nn.Sequential(nn.Conv2d(width_in, width, 1, stride, bias=False), nn.BatchNorm2d(width))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.relu(self.body(x) + self.shortcut(x))
        return y


class Detector(nn.Module):
    """Images (N, 3, 192, 192), normalised by ``MEAN`` and ``STD``, to the head (N, 5 + C, 12, 12) of ``boxes.py``."""

    def __init__(self) -> None:
        super().__init__()
        first = _WIDTHS[0]
        self.stem = nn.Sequential(
            nn.Conv2d(3, first, 3, 2, 1, bias=False), nn.BatchNorm2d(first), nn.ReLU(inplace=True)
        )
        self.stages = nn.Sequential(*(Block(a, b, s) for (a, b), s in zip(pairwise(_WIDTHS), _STRIDES, strict=True)))
        self.head = nn.Conv2d(_WIDTHS[-1], 5 + len(LABELS), 1)
        assert self.head.bias is not None
        nn.init.constant_(self.head.bias[:1], -4.0)  # hardly any cell holds a defect

    def forward(self, x: Tensor) -> Tensor:
        head: Tensor = self.head(self.stages(self.stem(x)))
        return head


def normalised(images: Tensor) -> Tensor:
    """(N, 3, H, W) uint8 to float32 by ``MEAN`` and ``STD``."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    return (images.float() / 255.0 - mean) / std


def decoded_boxes(head: Tensor) -> Tensor:
    """(N, 5 + C, G, G) -> (N, 4, G, G): x0, y0, x1, y1 in pixels, as ``boxes.decode`` has it."""
    step = GRID.size / GRID.cells
    axis = (torch.arange(GRID.cells, device=head.device) + 0.5) * step
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    middle = torch.stack([x, y]) + (2 * head[:, 1:3].sigmoid() - 1) * REACH * step
    half = head[:, 3:5].sigmoid() * GRID.size / 2
    return torch.cat([middle - half, middle + half], dim=1)


def trained(weights: str | Path = WEIGHTS) -> Detector:
    """The detector in evaluation mode with the weights that ``train_detector.py`` wrote.

    Raises FileNotFoundError if there is no such file.
    """
    path = Path(weights)
    if not path.exists():
        raise FileNotFoundError(f"no weights at {path}; run train_detector.py first")
    net = Detector()
    net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return net.eval()
