"""The network of the benchmark: a ResNet-18 of half width for grey pictures (He et al., CVPR 2016)."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

_WIDTHS = (32, 64, 128, 256)
_CLASSES = 6


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut; ``stride`` 2 halves the resolution."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or width_in != width:
            self.shortcut = nn.Sequential(nn.Conv2d(width_in, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        z: Tensor = self.relu(self.bn2(self.conv2(y)) + self.shortcut(x))
        return z


class ResNet(nn.Module):
    """Pictures (N, 1, H, W), normalised, to logits (N, 6).

    Of 200×200 pixels the stem makes 32 maps of 100×100, the stages 32, 64, 128 and 256 maps of 50, 25, 13 and 7.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, _WIDTHS[0], 7, 2, 3, bias=False), nn.BatchNorm2d(_WIDTHS[0]), nn.ReLU(inplace=True)
        )
        self.pool = nn.MaxPool2d(3, 2, 1)
        stages, width_in = [], _WIDTHS[0]
        for number, width in enumerate(_WIDTHS):
            first = BasicBlock(width_in, width, 1 if number == 0 else 2)
            stages.append(nn.Sequential(first, BasicBlock(width, width, 1)))
            width_in = width
        self.stages = nn.Sequential(*stages)
        self.average = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(width_in, _CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stages(self.pool(self.stem(x)))
        logits: Tensor = self.head(self.average(x).flatten(1))
        return logits


def build(weights: str | Path | None = None) -> nn.Module:
    """The network in eval mode, with the weights that ``train.py`` wrote, or untrained."""
    net = ResNet()
    if weights is not None:
        net.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return net.eval()
