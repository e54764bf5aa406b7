"""SurfaceNet: a small residual network that sorts pictures of metal surfaces into five classes."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import torch
from render import LABELS
from torch import Tensor, nn

__all__ = ["LABELS", "MEAN", "SIZE", "STD", "SurfaceNet", "model"]

SIZE = 224
# Of the training pictures, over all pixels, for RGB in [0, 1].
MEAN = (0.54, 0.54, 0.54)
STD = (0.10, 0.10, 0.10)

_WIDTHS = (24, 48, 80, 112)
# The last stage stays at 14x14: a cell of a 7x7 grid would be larger than most of the defects.
_STRIDES = (2, 2, 2, 1)
_WEIGHTS = Path(__file__).with_name("surface.pt")


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; ``stride`` 2 halves the resolution."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = nn.Sequential(nn.Conv2d(width_in, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        z: Tensor = self.relu(y + self.shortcut(x))
        return z


class SurfaceNet(nn.Module):
    """Images (N, 3, 224, 224), normalised by ``MEAN`` and ``STD``, to logits (N, 5).

    The stem gives 16 maps of 112x112, the stages 24, 48, 80 and 112 maps of 56, 28, 14 and 14.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True))
        widths = (16, *_WIDTHS)
        self.stages = nn.Sequential(
            *(BasicBlock(a, b, s) for (a, b), s in zip(pairwise(widths), _STRIDES, strict=True))
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(widths[-1], len(LABELS))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stages(self.stem(x))
        logits: Tensor = self.head(self.pool(x).flatten(1))
        return logits


def model(weights: str | Path = _WEIGHTS) -> nn.Module:
    """SurfaceNet in eval mode with the weights that ``train.py`` wrote.

    Raises FileNotFoundError if there is no such file: run ``train.py`` first.
    """
    path = Path(weights)
    if not path.exists():
        raise FileNotFoundError(f"no weights at {path}; run train.py first")
    net = SurfaceNet()
    net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return net.eval()
