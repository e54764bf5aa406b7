"""The networks that benchmarks run on: random weights, so that nothing is downloaded."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

import sightline
from sightline.bundle import Bundle


def resnet50(path: Path, seed: int) -> Bundle:
    """The bundle of a ResNet-50 at 224², seeded, its batch-norm statistics perturbed."""
    # A CPU build of torch lacks two operators that ``import torchvision`` looks for.
    library = torch.library.Library("torchvision", "DEF")
    for declaration in (
        "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
        "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    ):
        library.define(declaration)
    from torchvision.models import resnet50 as architecture

    torch.manual_seed(seed)
    network = architecture()
    example = torch.randn(4, 3, 224, 224)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None  # the statistics of this one batch
        network.train()(example)
        for module in network.modules():
            if (
                isinstance(module, nn.BatchNorm2d)
                and module.running_mean is not None
                and module.running_var is not None
            ):
                scale = module.running_var.sqrt()
                module.running_mean += 0.1 * scale * torch.randn_like(scale)
                module.running_var *= torch.empty_like(scale).uniform_(0.8, 1.25)
    return sightline.export(
        network.eval(), path, example=example[:1], mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
    )
