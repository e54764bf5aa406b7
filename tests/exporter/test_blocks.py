"""The blocks of every family, against the table worked out by hand in ``tests/zoo.py``."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sightline.errors import NoBlocksError
from sightline.exporter import export
from tests.exporter.conftest import Exported
from tests.zoo import FAMILIES


def test_the_blocks_are_those_of_the_table(exported: Exported) -> None:
    found = [(block.channels, block.height, block.width) for block in exported.bundle.blocks]
    assert found == [block.shape for block in exported.family.blocks]


def test_a_block_carries_the_name_of_a_module_that_yields_it(exported: Exported) -> None:
    # Of a module whose last child yields it too, either name will do: features or features.18.
    for block, want in zip(exported.bundle.blocks, exported.family.blocks, strict=True):
        assert want.function or f"{want.module}.".startswith(f"{block.name}."), (block.name, want.module)
    assert len({block.name for block in exported.bundle.blocks}) == len(exported.bundle.blocks)


def test_a_block_is_the_very_tensor_of_the_table(exported: Exported) -> None:
    # The right shape is not enough: an expanded tensor, or one inside a residual branch, may have it too.
    for block, want in zip(exported.bundle.blocks, exported.reference.features, strict=True):
        got = exported.attribution[block.features][0]
        assert abs(got - want.numpy()).max() <= 1e-3 * want.abs().max(), block.name


@pytest.mark.parametrize(
    ("name", "maps"), [("resnet50", 3904), ("resnet101", 3904), ("vgg16", 1472), ("densenet121", 1984)]
)
def test_the_number_of_maps_is_that_of_the_paper(name: str, maps: int) -> None:
    (family,) = (family for family in FAMILIES if family.name == name)
    assert sum(block.channels for block in family.blocks) == maps


class PatchTransformer(torch.nn.Module):
    """A vision transformer in small: its only convolution cuts the image into patches."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = torch.nn.Conv2d(3, 16, 8, 8)
        self.layer = torch.nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.head = torch.nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.layer(self.patches(x).flatten(2).transpose(1, 2))
        y: torch.Tensor = self.head(tokens.mean(1))
        return y


def test_a_patch_embedding_is_no_block(tmp_path: Path) -> None:
    with pytest.raises(NoBlocksError, match="no convolutional block"):
        export(PatchTransformer(), tmp_path / "vit.sightline", input_shape=(3, 32, 32))
    assert not list(tmp_path.iterdir())
