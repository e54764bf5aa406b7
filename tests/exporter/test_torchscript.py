"""Files of torch's older exporter, TorchScript's: shapes, pads and repeats computed from constants in the graph."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sightline.exporter import export
from tests.exporter.conftest import attribute, relative_error
from tests.reference import seeded_gradient


class Grey(nn.Module):
    """One channel becomes three."""

    def forward(self, x: Tensor) -> Tensor:
        return x.repeat(1, 3, 1, 1)


class Wide(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.expand(-1, 3, -1, -1)


class Double(nn.Module):
    """Logits in float64."""

    def forward(self, x: Tensor) -> Tensor:
        return x.double()


def network(
    *, first: nn.Module | None = None, middle: nn.Module | None = None, last: nn.Module | None = None
) -> nn.Module:
    torch.manual_seed(0)
    blocks = nn.Sequential(
        nn.Sequential(first or nn.Identity(), nn.Conv2d(3, 16, 3, padding=1), nn.ReLU()),
        nn.Sequential(middle or nn.Identity(), nn.Conv2d(16, 24, 3, 2), nn.ReLU()),
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 5), last or nn.Identity()),
    )
    return blocks.eval()


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "zeros beside": (lambda: network(middle=nn.ZeroPad2d((0, 1, 0, 1))), 3),
    "reflected": (lambda: network(middle=nn.ReflectionPad2d(1)), 3),
    "zeros before a pool": (lambda: network(middle=nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.AvgPool2d(2, 1))), 3),
    "local response": (lambda: network(middle=nn.LocalResponseNorm(5)), 3),
    "repeated": (lambda: network(first=Grey()), 1),
    "expanded": (lambda: network(first=Wide()), 1),
    "float64 at the end": (lambda: network(last=Double()), 3),
}


@pytest.mark.parametrize("opset", [11, 17])
@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_agree_with_autograd(name: str, opset: int, tmp_path: Path) -> None:
    make, channels = NETWORKS[name]
    image = torch.randn(1, channels, 32, 32, generator=torch.Generator().manual_seed(3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            make(),
            (image,),
            str(tmp_path / "a.onnx"),
            dynamo=False,
            opset_version=opset,
            input_names=["x"],
            dynamic_axes={"x": {0: "n"}},
        )
    bundle = export(tmp_path / "a.onnx", tmp_path / "a.sightline", example=image.numpy())
    found = attribute(bundle, image.numpy())
    expected = seeded_gradient(make().double(), image.double(), int(found["logits"].argmax()), ("0", "1"))
    assert relative_error(found["logits"][0], expected.logits.numpy()) < 1e-5
    # The first block ends in the normalisation or the pool where there is one.
    pairs = [(1, 1)] if name in ("local response", "zeros before a pool") else [(0, 0), (1, 1)]
    for block, tap in pairs:
        gradient = found[bundle.blocks[block].gradient][0]
        assert relative_error(gradient, expected.gradients[tap].numpy()) < 1e-4
    assert len(bundle.blocks) == 2
