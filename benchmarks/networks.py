"""The networks that benchmarks run on: random weights, so that nothing is downloaded."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from torch import nn

import sightline
from sightline.bundle import Bundle

NETWORKS = ("resnet50", "vgg16", "mobilenet_v3_large")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def untrained(name: str, seed: int, classes: int = 1000) -> nn.Module:
    """A network for 224² images, its weights seeded."""
    _torchvision()
    from torchvision import models

    torch.manual_seed(seed)
    built: nn.Module = getattr(models, name)(num_classes=classes)
    return built


def network(name: str, seed: int) -> nn.Module:
    """The same, its batch-norm statistics those of noise, perturbed: ready to be explained."""
    built = untrained(name, seed)
    example = torch.randn(4, 3, 224, 224)
    with torch.no_grad():
        for module in built.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None  # the statistics of this one batch
        built.train()(example)
        for module in built.modules():
            if (
                isinstance(module, nn.BatchNorm2d)
                and module.running_mean is not None
                and module.running_var is not None
            ):
                scale = module.running_var.sqrt()
                module.running_mean += 0.1 * scale * torch.randn_like(scale)
                module.running_var *= torch.empty_like(scale).uniform_(0.8, 1.25)
    return built.eval()


def exported(name: str, path: Path, seed: int, *, torch_program: bool = False) -> Bundle:
    """The bundle of a network, or the one that an earlier run has left there."""
    if (path / "manifest.json").is_file():
        return sightline.load(path)
    return sightline.export(
        network(name, seed),
        path,
        input_shape=(3, 224, 224),
        mean=MEAN,
        std=STD,
        torch_program=torch_program,
    )


@cache
def _torchvision() -> torch.library.Library:
    """A CPU build of torch lacks two operators that ``import torchvision`` looks for."""
    library = torch.library.Library("torchvision", "DEF")
    for declaration in (
        "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
        "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    ):
        library.define(declaration)
    return library
