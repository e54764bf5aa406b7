"""The classifier as a torch program."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sightline.bundle import LOGITS, PROBABILITIES, Activation
from sightline.errors import ExportError, SelfCheckError
from sightline.exporter import program
from sightline.exporter.network import prepare
from sightline.exporter.program import PROGRAM, save_program
from sightline.exporter.source import run_torch, trace_torch

SHAPE = (3, 16, 12)


class Net(nn.Module):
    def __init__(self, ending: nn.Module | None = None, classes: int = 4) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Conv2d(8, classes, 1)
        self.ending = ending or nn.Identity()

    def logits(self, x: Tensor) -> Tensor:
        maps: Tensor = self.head(self.norm(self.conv(x)).relu().mean((2, 3), keepdim=True))
        return maps

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.ending(self.logits(x))
        return scores


ENDINGS = [
    (None, None, "softmax"),
    (None, None, "sigmoid"),
    (None, None, "none"),
    (nn.Softmax(1), "Softmax", "softmax"),
    (nn.Sequential(nn.Flatten(), nn.LogSoftmax(1), nn.Dropout()), "LogSoftmax", "softmax"),
    (nn.Sequential(nn.Sigmoid(), nn.Flatten()), "Sigmoid", "sigmoid"),
    (nn.Sigmoid(), None, "none"),
]


@pytest.mark.parametrize(("layer", "ending", "activation"), ENDINGS)
def test_logits_and_probabilities(
    tmp_path: Path, layer: nn.Module | None, ending: str | None, activation: Activation
) -> None:
    module = Net(layer).train()
    module.norm.eval()  # frozen, as in fine-tuning
    error = save_program(module, tmp_path, example_shape=SHAPE, activation=activation, ending=ending, image="pixels")
    assert error < 1e-5
    assert module.training
    assert not module.norm.training
    loaded = torch.export.load(tmp_path / PROGRAM).module()
    module.eval()
    for size in (1, 2, 5):
        images = torch.randn(size, *SHAPE)
        outputs = loaded(images)
        logits = (module(images) if activation == "none" else module.logits(images)).flatten(1)
        wanted = {"softmax": logits.softmax(1), "sigmoid": logits.sigmoid(), "none": logits}[activation]
        torch.testing.assert_close(outputs[LOGITS], logits)
        torch.testing.assert_close(outputs[PROBABILITIES], wanted)


@pytest.mark.parametrize("ending", [None, "Sigmoid"])
def test_one_logit_whose_axis_is_squeezed(tmp_path: Path, ending: str | None) -> None:
    module = Net(nn.Sequential(nn.Flatten(0), nn.Sigmoid() if ending else nn.Identity()), classes=1).eval()
    save_program(module, tmp_path, example_shape=SHAPE, activation="sigmoid", ending=ending)
    images = torch.randn(3, *SHAPE)
    outputs = torch.export.load(tmp_path / PROGRAM).module()(images)
    torch.testing.assert_close(outputs[LOGITS], module.logits(images).flatten(1))
    torch.testing.assert_close(outputs[PROBABILITIES], module.logits(images).flatten(1).sigmoid())


@pytest.mark.parametrize("layer", [None, nn.Softmax(1), nn.LogSoftmax(1), nn.Sigmoid()])
def test_it_ends_where_the_onnx_graph_ends(tmp_path: Path, layer: nn.Module | None) -> None:
    module = Net(layer)
    network = prepare(trace_torch(module, np.zeros((1, *SHAPE), np.float32)))
    save_program(
        module,
        tmp_path,
        example_shape=SHAPE,
        activation=network.activation,
        ending=network.ending,
        image=network.image,
    )
    signature = torch.export.load(tmp_path / PROGRAM).graph_signature
    assert signature.user_inputs == (network.image,) == ("x",)


def test_another_ending_than_the_onnx_graph_has(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="Softmax, but its ONNX graph ends in logits"):
        save_program(Net(nn.Softmax(1)), tmp_path, example_shape=SHAPE, activation="softmax")
    assert not list(tmp_path.iterdir())


def test_the_file_tells_nothing_of_where_it_was_made(tmp_path: Path) -> None:
    save_program(Net(), tmp_path, example_shape=SHAPE, activation="softmax")
    words = [Path(__file__).parent.parent.parent.name.encode(), *(part.encode() for part in tmp_path.parts[1:])]
    words += [
        b"site-packages",
        b".py",
        b"stack_trace",
        b"nn_module_stack",
        b"File ",
        b"Traceback",
        Net.__name__.encode(),
    ]
    with zipfile.ZipFile(tmp_path / PROGRAM) as archive:
        for name in archive.namelist():
            if "/weights/weight_" in name:
                continue
            content = archive.read(name)
            for word in words:
                assert not re.search(rb"\b" + re.escape(word), content), f"{word!r} in {name}"
            assert b"/" not in content.replace(b"torch.ops", b"") or name.endswith("model.json"), name
        assert not re.search(rb'"/[a-z]', archive.read("classifier/models/model.json"))
        assert archive.read("classifier/data/sample_inputs/model.pt") == b"", "an example image"


def test_modules_that_cannot_be_expressed(tmp_path: Path) -> None:
    class Branching(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if x.sum() > 0 else super().forward(-x)

    class Two(Net):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
            return super().forward(x), x

    with pytest.raises(ExportError, match="could not export Branching"):
        save_program(Branching(), tmp_path, example_shape=SHAPE, activation="softmax")
    with pytest.raises(ExportError, match="Two returns tuple"):
        save_program(Two(), tmp_path, example_shape=SHAPE, activation="softmax")


def test_a_program_that_differs_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "run_torch", lambda module, images, output: run_torch(module, images, output) * 1.01)
    with pytest.raises(SelfCheckError, match="differs from Net"):
        save_program(Net(), tmp_path, example_shape=SHAPE, activation="softmax")
