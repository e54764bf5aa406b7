"""The blocks of every family, against the table worked out by hand in ``tests/zoo.py``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from sightline.errors import NoBlocksError
from sightline.exporter import export
from tests.exporter.conftest import Exported, attribute
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


class PatchTransformer(nn.Module):
    """A vision transformer in small: its only convolution cuts the image into patches."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 8, 8)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.head = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.layer(self.patches(x).flatten(2).transpose(1, 2))
        y: torch.Tensor = self.head(tokens.mean(1))
        return y


def test_a_patch_embedding_is_no_block(tmp_path: Path) -> None:
    with pytest.raises(NoBlocksError, match="no convolutional block"):
        export(PatchTransformer(), tmp_path / "vit.sightline", input_shape=(3, 32, 32))
    assert not list(tmp_path.iterdir())


class Layered(nn.Module):
    """A normalisation over the channels, channels last."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return y


class Mixed(nn.Module):
    """Depthwise convolutions of several sizes side by side, as in MixNet."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        half = channels // 2
        self.parts = nn.ModuleList([nn.Conv2d(half, half, k, stride, k // 2, groups=half) for k in (3, 5)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([part(each) for part, each in zip(self.parts, x.chunk(2, 1), strict=True)], 1)


class Blurred(nn.Module):
    """A depthwise convolution that the blur behind it thins out."""

    def __init__(self, channels: int, pooled: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        blur = nn.Conv2d(channels, channels, 3, 2, 1, groups=channels, bias=False)
        self.blur: nn.Module = nn.AvgPool2d(2) if pooled else blur

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.blur(torch.relu(self.conv(x)))
        return y


class Ghost(nn.Module):
    """Half of the maps from a convolution, half from those, as in GhostNet."""

    def __init__(self, narrow: int, wide: int) -> None:
        super().__init__()
        half = wide // 2
        self.primary = nn.Sequential(nn.Conv2d(narrow, half, 1), nn.ReLU())
        self.cheap = nn.Sequential(nn.Conv2d(half, half, 3, padding=1, groups=half), nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.primary(x)
        return torch.cat([y, self.cheap(y)], 1)


def pointwise(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1), nn.BatchNorm2d(outputs), nn.ReLU())


def depthwise(channels: int, stride: int = 1) -> nn.Module:
    return nn.Sequential(nn.Conv2d(channels, channels, 3, stride, 1, groups=channels), nn.BatchNorm2d(channels))


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(pointwise(channels, 4 * channels), depthwise(4 * channels), nn.ReLU())
        self.project = nn.Conv2d(4 * channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = x + self.project(self.body(x))
        return y


INVERTED: dict[str, tuple[nn.Module, int]] = {
    "plain": (nn.Sequential(pointwise(8, 32), depthwise(32, 2), nn.ReLU(), nn.Conv2d(32, 12, 1)), 8),
    "as wide behind": (nn.Sequential(pointwise(8, 12), depthwise(12, 2), nn.ReLU(), nn.Conv2d(12, 12, 1)), 8),
    "depthwise before": (
        nn.Sequential(depthwise(8), pointwise(8, 32), depthwise(32, 2), nn.ReLU(), nn.Conv2d(32, 12, 1)),
        8,
    ),
    "mixed": (nn.Sequential(pointwise(8, 32), Mixed(32, 2), nn.ReLU(), nn.Conv2d(32, 12, 1)), 8),
    "blurred": (nn.Sequential(pointwise(8, 32), Blurred(32, False), nn.Conv2d(32, 12, 1)), 8),
    "averaged": (nn.Sequential(pointwise(8, 32), Blurred(32, True), nn.Conv2d(32, 12, 1)), 8),
    "group norm": (
        nn.Sequential(nn.Conv2d(8, 32, 1), nn.GroupNorm(4, 32), nn.SiLU(), depthwise(32, 2), nn.Conv2d(32, 12, 1)),
        8,
    ),
    "layer norm": (
        nn.Sequential(nn.Conv2d(8, 32, 1), Layered(32), nn.GELU(), depthwise(32, 2), nn.Conv2d(32, 12, 1)),
        8,
    ),
    "ghost": (nn.Sequential(Ghost(8, 32), depthwise(32, 2), nn.ReLU(), nn.Conv2d(32, 12, 1)), 8),
    # No expansions: the last tensor before the down-sampling is the block's.
    "separable": (nn.Sequential(depthwise(8), pointwise(8, 16), depthwise(16, 2), pointwise(16, 32)), 16),
    "separable, as wide": (nn.Sequential(depthwise(8), pointwise(8, 16), depthwise(16, 2), pointwise(16, 16)), 16),
    "max-pool": (nn.Sequential(pointwise(8, 32), nn.MaxPool2d(2), pointwise(32, 12)), 32),
    "dense": (nn.Sequential(pointwise(8, 32), nn.Conv2d(32, 12, 3, 2, 1), nn.ReLU()), 32),
}


@pytest.mark.parametrize("name", INVERTED)
def test_the_narrow_tensor_before_an_inverted_bottleneck_is_the_block(name: str, tmp_path: Path) -> None:
    block, width = INVERTED[name]
    behind = 32 if name == "separable" else 16 if name == "separable, as wide" else 12
    stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), Residual(8))
    network = nn.Sequential(stem, block, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(behind, 5))
    torch.manual_seed(0)
    made = export(network.eval(), tmp_path / "x.sightline", input_shape=(3, 32, 32))
    assert [(block.channels, block.height) for block in made.blocks] == [(width, 16), (behind, 8)]
    if width == 8:
        image = np.random.default_rng(0).standard_normal((1, 3, 32, 32)).astype(np.float32)
        with torch.no_grad():
            want = stem(torch.from_numpy(image)).numpy()
        np.testing.assert_allclose(attribute(made, image)[made.blocks[0].features], want, atol=1e-5)


class AttentionPool(nn.Module):
    """What CLIP's ResNets end in: the mean asks all pixels."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.mixed = nn.Linear(channels, 3 * channels)
        self.heads = heads
        self.out = nn.Linear(channels, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        tokens = torch.cat([tokens.mean(1, keepdim=True), tokens], 1)
        q, k, v = self.mixed(tokens).reshape(-1, tokens.shape[1], 3, self.heads, 4).permute(2, 0, 3, 1, 4)
        pooled = torch.softmax(q @ k.transpose(2, 3) / 2, 3) @ v
        y: torch.Tensor = self.out(pooled.transpose(1, 2).flatten(2)[:, 0])
        return y


class Unfolded(nn.Module):
    """Pixels of the same place in their patches, side by side, as in MobileViTv2; and put back."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, c, h, w = x.shape
        patches = x.reshape(n, c, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4).reshape(n, c, 4, h * w // 4)
        patches = torch.relu(self.conv(torch.relu(self.conv(patches))))
        back = patches.reshape(n, c, 2, 2, h // 2, w // 2).permute(0, 1, 4, 2, 5, 3)
        return back.reshape(n, c, h, w)


def test_attention_heads_are_no_maps(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), AttentionPool(8, 2))
    made = export(network.eval(), tmp_path / "x.sightline", input_shape=(3, 16, 16))
    assert [(block.channels, block.height, block.width) for block in made.blocks] == [(8, 8, 8)]


class Selective(nn.Module):
    """Two convolutions side by side, stacked, weighed and summed, as in SKNet and ResNeSt."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.paths = nn.ModuleList([nn.Conv2d(channels, channels, k, padding=k // 2) for k in (3, 5)])
        self.weights = nn.Conv2d(channels, 2 * channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        stacked = torch.stack([torch.relu(path(x)) for path in self.paths], 1)
        weights = self.weights(stacked.sum(1).mean((2, 3), keepdim=True)).reshape(-1, 2, x.shape[1], 1, 1)
        y: torch.Tensor = (stacked * weights.softmax(1)).sum(1)
        return y


def test_maps_behind_a_stack_of_them_are_maps(tmp_path: Path) -> None:
    network = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 6, 3, 2, 1), nn.ReLU(), Selective(6)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5)),
    )
    made = export(network.eval(), tmp_path / "x.sightline", input_shape=(3, 32, 32))
    assert [(block.channels, block.height, block.width) for block in made.blocks] == [(8, 16, 16), (6, 8, 8)]
    assert made.blocks[-1].name == "4"


def test_maps_whose_columns_were_mixed_are_no_maps(tmp_path: Path) -> None:
    network = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Conv2d(8, 6, 1), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5)),
    )
    made = export(network.eval(), tmp_path / "x.sightline", input_shape=(3, 32, 32))
    assert [(block.name, block.channels) for block in made.blocks] == [("1", 8)]


@pytest.mark.parametrize("shuffled", [False, True])
def test_unfolded_patches_are_no_maps_and_folded_ones_are(shuffled: bool, tmp_path: Path) -> None:
    squeezed = nn.PixelUnshuffle(2) if shuffled else nn.Conv2d(8, 32, 2, 2)
    network = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), Unfolded(8), squeezed, nn.Conv2d(32, 6, 3, padding=1), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5)),
    )
    made = export(network.eval(), tmp_path / "x.sightline", input_shape=(3, 32, 32))
    assert [(block.channels, block.height, block.width) for block in made.blocks] == [(8, 16, 16), (6, 8, 8)]


class ChannelsLast(nn.Module):
    """A residual stage whose maps lie channels last, as in MambaOut: only the convolution turns them."""

    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(inputs, channels, 3, 2, 1)
        self.norm = nn.LayerNorm(channels)
        self.widen = nn.Linear(channels, 2 * channels)
        self.conv = nn.Conv2d(2 * channels, 2 * channels, 3, padding=1, groups=2 * channels)
        self.narrow = nn.Linear(2 * channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """N×H×W×C -> N×H/2×W/2×C'."""
        x = self.down(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        y = self.widen(self.norm(x))
        y = self.conv(y.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        z: torch.Tensor = x + self.narrow(nn.functional.gelu(y))
        return z


class Last(nn.Module):
    """Two such stages and a head that takes the mean of its pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ChannelsLast(3, 6)
        self.stage = ChannelsLast(6, 8)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 5)

    def maps(self, x: torch.Tensor) -> list[torch.Tensor]:
        early = self.stem(x.permute(0, 2, 3, 1))
        return [early, self.norm(self.stage(early))]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.head(self.maps(x)[1].mean((1, 2)))
        return y


@pytest.mark.parametrize("named", [False, True])
def test_maps_that_lie_channels_last_are_turned(named: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Last().eval()
    blocks = ["stem", "norm"] if named else None
    made = export(network, tmp_path / "x.sightline", input_shape=(3, 24, 32), blocks=blocks)
    assert [(block.channels, block.height, block.width) for block in made.blocks] == [(6, 12, 16), (8, 6, 8)]
    assert [block.name for block in made.blocks] == ["stem", "norm"]
    assert len(made.stages) == 2  # each leads to the next
    image = torch.randn(1, 3, 24, 32, generator=torch.Generator().manual_seed(1))
    found = attribute(made, image.numpy(), target=2, rivals=0.0)
    early, late = maps = network.maps(image)
    gradients = torch.autograd.grad(network.head(late.mean((1, 2)))[0, 2], maps)
    for block, values, gradient in zip(made.blocks, (early, late), gradients, strict=True):
        for name, want in ((block.features, values), (block.gradient, gradient)):
            np.testing.assert_allclose(found[name], want.detach().permute(0, 3, 1, 2).numpy(), rtol=1e-4, atol=1e-6)


class Turned(nn.Module):
    """What stands in it works channels last."""

    def __init__(self, *inside: nn.Module) -> None:
        super().__init__()
        self.inside = nn.Sequential(*inside)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.inside(x.permute(0, 2, 3, 1))
        return y


class Stacked(nn.Module):
    """Two linear layers side by side, stacked and summed."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.paths = nn.ModuleList([nn.Linear(channels, channels) for _ in range(2)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([torch.relu(path(x)) for path in self.paths], 1).sum(1)


class Mean(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((1, 2))


@pytest.mark.parametrize("last", [nn.Linear(6, 7), nn.Sequential(Stacked(6), nn.Linear(6, 7))])
def test_a_linear_layer_on_the_way_mixes_channels_only(last: nn.Module, tmp_path: Path) -> None:
    network = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 6, 3, 2, 1), nn.ReLU()),
        *(Turned(last, nn.ReLU()), Mean(), nn.Linear(7, 5)),
    )
    made = export(network.eval(), tmp_path / "x.sightline", input_shape=(3, 24, 32))
    assert [(block.channels, block.height, block.width) for block in made.blocks] == [(8, 12, 16), (7, 6, 8)]
    image = torch.randn(1, 3, 24, 32, generator=torch.Generator().manual_seed(1))
    want = network[:5](image).detach().permute(0, 3, 1, 2).numpy()
    np.testing.assert_allclose(attribute(made, image.numpy())[made.blocks[1].features], want, rtol=1e-4, atol=1e-6)


def test_maps_that_are_turned_to_be_flattened_stay_what_they_are(tmp_path: Path) -> None:
    network = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 6, 3, 2, 1), nn.ReLU()),
        *(Turned(nn.Flatten()), nn.Linear(288, 5)),
    )
    made = export(network.eval(), tmp_path / "x.sightline", input_shape=(3, 24, 32))
    assert [(block.name, block.channels) for block in made.blocks] == [("1", 8), ("3", 6)]
    assert "Transpose" not in [node.op_type for node in onnx.load(made.path / "stage.0.onnx").graph.node]


class Gated(nn.Module):
    """A residual block whose widened tensor is taken in parts, which the optimizer writes as one Split."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.widen, self.narrow = nn.Conv2d(channels, 2 * channels, 3, padding=1), nn.Conv2d(channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate, y = torch.split(self.widen(x), x.shape[1], 1)
        z: torch.Tensor = x + self.narrow(torch.sigmoid(gate) * torch.relu(y))
        return z


def test_a_block_whose_parts_were_split_carries_its_module_s_name(tmp_path: Path) -> None:
    network = nn.Sequential()
    for name, part in (
        *(("stem", nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU())), ("early", nn.Sequential(Gated(6), Gated(6)))),
        *(("down", nn.Conv2d(6, 8, 3, 2, 1)), ("late", nn.Sequential(Gated(8), Gated(8)))),
        *(("pool", nn.AdaptiveAvgPool2d(1)), ("flat", nn.Flatten()), ("head", nn.Linear(8, 5))),
    ):
        network.add_module(name, part)
    made = export(network.eval(), tmp_path / "x.sightline", input_shape=(3, 32, 32))
    assert [(block.name, block.height) for block in made.blocks] == [("early", 16), ("late", 8)]


def test_windows_of_a_transformer_channels_last_are_no_blocks(tmp_path: Path) -> None:
    class Windows(nn.Module):
        """Patches, channels last, and a linear layer: no convolution sees two of them."""

        def __init__(self) -> None:
            super().__init__()
            self.patches = nn.Conv2d(3, 8, 4, 4)
            self.mix = nn.Linear(8, 8)
            self.merge = nn.Conv2d(8, 8, 2, 2)
            self.head = nn.Linear(8, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.relu(self.mix(self.patches(x).permute(0, 2, 3, 1)))
            y: torch.Tensor = self.head(torch.relu(self.mix(x)).mean((1, 2)))
            return y

    with pytest.raises(NoBlocksError, match="no convolutional block"):
        export(Windows(), tmp_path / "x.sightline", input_shape=(3, 32, 32))


@pytest.mark.parametrize("clamped", [torch.clamp_min, lambda x, low: torch.maximum(x, torch.tensor(float(low)))])
def test_a_relu_may_be_written_as_a_maximum(
    clamped: Callable[[torch.Tensor, int], torch.Tensor], tmp_path: Path
) -> None:
    class Clamped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.early, self.late, self.head = nn.Conv2d(3, 6, 3, 2, 1), nn.Conv2d(6, 8, 3, 2, 1), nn.Linear(8, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = clamped(self.late(clamped(self.early(x), 0)), 0)
            y: torch.Tensor = self.head(x.mean((2, 3)))
            return y

    made = export(Clamped().eval(), tmp_path / "x.sightline", input_shape=(3, 32, 32))
    assert [(block.channels, block.height) for block in made.blocks] == [(6, 16), (8, 8)]
    found = attribute(made, np.random.default_rng(0).standard_normal((1, 3, 32, 32)).astype(np.float32))
    assert all(found[block.features].min() == 0 for block in made.blocks)
