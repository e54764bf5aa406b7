"""The network that is explained: random weights, so that nothing is downloaded, in torch, in ONNX and as a bundle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from .contender import Case

SIZE = 224
_LIBRARIES: list[torch.library.Library] = []


def prepare_torchvision() -> None:
    """Declare the two operators that ``import torchvision`` looks for and a CPU build of torch lacks."""
    if _LIBRARIES:
        return
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _LIBRARIES.append(library)  # its declarations end with it


def architecture(network: str) -> nn.Module:
    """The network without its weights, ready for inference."""
    prepare_torchvision()
    from torchvision import models

    module: nn.Module = getattr(models, network)()
    return module.eval()


def load(case: Case) -> nn.Module:
    """The network with the case's weights, on the case's threads."""
    torch.set_num_threads(case.threads)
    module = architecture(case.network)
    module.load_state_dict(torch.load(case.weights, mmap=True), assign=True)
    return module.requires_grad_(False)


def prepare(folder: Path, network: str, *, passes: int, mu: float, threads: int, seed: int) -> Case:
    """Write the network's weights, ONNX file and bundle, and an image, into a folder."""
    import networks  # not in the measuring processes, which need no more than the architecture

    import sightline

    module = networks.network(network, seed)
    image = np.random.default_rng(seed).normal(size=(3, SIZE, SIZE)).astype(np.float32)
    bundle = sightline.export(module, folder / "network.sightline", input_shape=(3, SIZE, SIZE), torch_program=True)
    with torch.no_grad():
        target = int(module(torch.from_numpy(image)[None]).argmax())
    case = Case(folder, network, passes, mu, threads, seed, target, tuple(block.name for block in bundle.blocks))
    torch.save(module.state_dict(), case.weights)
    np.save(folder / "image.npy", image)
    _write_onnx(bundle.classifier, case.onnx)
    case.save()
    return case


def _write_onnx(classifier: Path, path: Path) -> None:
    """The classifier as a single file with the probabilities for its only output, which is what every peer expects."""
    import onnx

    model = onnx.load(classifier)
    kept = [output for output in model.graph.output if output.name == "probabilities"]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    onnx.save(model, path)
