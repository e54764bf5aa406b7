"""What a torch module may return: a tensor, or several of which one holds the classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from sightline import Explainer
from sightline.errors import ExportError
from sightline.exporter import export
from tests.exporter.conftest import run

SHAPE = (3, 16, 16)


class Pair(NamedTuple):
    classes: torch.Tensor
    maps: torch.Tensor


@dataclass
class Output:
    """As the image classifiers of Hugging Face's libraries return it."""

    loss: torch.Tensor | None
    logits: torch.Tensor
    hidden_states: tuple[torch.Tensor, ...]


class Several(nn.Module):
    def __init__(self, returned: Callable[[torch.Tensor, torch.Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU())
        self.head = nn.Linear(8, 5)
        self.returned = returned

    def forward(self, x: torch.Tensor) -> Any:
        maps = self.body(x)
        return self.returned(self.head(maps.mean((2, 3))), maps)


RETURNED: dict[str, tuple[Callable[[torch.Tensor, torch.Tensor], Any], str | None]] = {
    "a tuple of one": (lambda z, maps: (z,), None),
    "a tuple": (lambda z, maps: (maps, z), "1"),
    "a named tuple": (lambda z, maps: Pair(z, maps), "classes"),
    "a mapping of one": (lambda z, maps: {"scores": z, "size": 5}, None),
    "a mapping": (lambda z, maps: {"maps": maps, "scores": z}, "scores"),
    "a mapping with logits": (lambda z, maps: {"maps": maps, "logits": z}, None),
    "an object with logits": (lambda z, maps: Output(None, z, (maps,)), None),
    "an object": (lambda z, maps: Output(z, maps, ()), "loss"),
}


@pytest.mark.parametrize("kind", RETURNED)
def test_the_tensor_with_the_classes_is_found_or_named(kind: str, tmp_path: Path) -> None:
    returned, output = RETURNED[kind]
    network = Several(returned)
    made = export(network, tmp_path / "x.sightline", input_shape=SHAPE, output=output, torch_program=True)
    assert [block.name for block in made.blocks] == ["body"]
    image = np.random.default_rng(0).standard_normal((1, *SHAPE)).astype(np.float32)
    with torch.no_grad():
        want = network.head(network.body(torch.from_numpy(image)).mean((2, 3))).numpy()
    np.testing.assert_allclose(run(made.classifier, {made.input.name: image})["logits"], want, atol=1e-5)
    with Explainer(made, engine="torch", batch_size=1) as explainer:
        (found,) = explainer.classify([image[0]])
    np.testing.assert_allclose(found, torch.softmax(torch.from_numpy(want), 1).numpy(), atol=1e-5)
    assert not network._forward_hooks
    assert network.training


@pytest.mark.parametrize(
    ("returned", "output", "match"),
    [
        (lambda z, maps: (z, maps), None, r"Several returns tuple with '0', '1': name .*--output"),
        (lambda z, maps: {"a": z, "b": maps}, "c", "returns dict with 'a', 'b', and no 'c'"),
        (lambda z, maps: z, "scores", "returns Tensor, and no 'scores'"),
        (lambda z, maps: None, None, "returns NoneType: name"),
        (lambda z, maps: ([z],), None, "returns tuple: name"),
    ],
)
def test_what_does_not_say_where_the_classes_are(
    returned: Callable[[torch.Tensor, torch.Tensor], Any], output: str | None, match: str, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=match):
        export(Several(returned), tmp_path / "x.sightline", input_shape=SHAPE, output=output)
    assert not list(tmp_path.iterdir())


def test_a_module_that_fails_on_the_size_says_so_itself(tmp_path: Path) -> None:
    network = Several(lambda z, maps: z)
    with pytest.raises(ExportError, match=r"Several fails on images of 1×1×16×16: .*channels"):
        export(network, tmp_path / "x.sightline", input_shape=(1, 16, 16))
    assert not network._forward_hooks
