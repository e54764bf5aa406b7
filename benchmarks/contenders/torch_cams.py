"""Score-CAM of pytorch-grad-cam and of torch-cam.

Both score the maps of one layer. A transform of the activations, which both offer, keeps the first N of them, so that
the number of passes is the one asked for; everything else is as it comes.
"""

from __future__ import annotations

import numpy as np

from .contender import Case, Contender, Counter, Map, Opened
from .counting import count_module


def open_pytorch_grad_cam(case: Case) -> Opened:
    import torch

    from .subject import load, prepare_torchvision

    prepare_torchvision()  # which pytorch-grad-cam imports
    from pytorch_grad_cam import ScoreCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    module, counter, image = load(case), Counter(), torch.from_numpy(case.image)[None]
    layer = module.get_submodule(case.blocks[-1])
    extractor = ScoreCAM(module, [layer], reshape_transform=lambda maps: maps[:, : case.passes])
    count_module(module, counter)

    def explain() -> Map:
        return np.asarray(extractor(image, [ClassifierOutputTarget(case.target)])[0])

    return Opened(explain, counter, "torch")


def open_torch_cam(case: Case) -> Opened:
    import torch
    from torchcam.methods import ScoreCAM

    from .subject import load

    module, counter, image = load(case), Counter(), torch.from_numpy(case.image)[None]
    extractor = ScoreCAM(module, case.blocks[-1], reshape_transform=lambda maps: maps[:, : case.passes])
    count_module(module, counter)

    def explain() -> Map:
        with torch.no_grad():
            module(image)
            maps = extractor(class_idx=case.target)
        return np.asarray(maps[0][0])

    return Opened(explain, counter, "torch")


CONTENDERS = (
    Contender(
        "pytorch-grad-cam Score-CAM",
        ("pytorch_grad_cam", "torch", "torchvision"),
        "batch 16 (its default), first N maps of the last block, the rest as it comes",
        open_pytorch_grad_cam,
    ),
    Contender(
        "torch-cam Score-CAM",
        ("torchcam.methods", "torch", "torchvision"),
        "batch 32 (its default), first N maps of the last block, map left at low resolution",
        open_torch_cam,
    ),
)
