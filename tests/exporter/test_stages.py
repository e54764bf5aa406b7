"""The stages: one vector–Jacobian product between neighbouring blocks, against torch autograd in float64."""

from __future__ import annotations

import copy
import hashlib
import itertools
import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import pytest
import torch
from model import SurfaceNet
from torch import Tensor, nn

from sightline import bundle as contract
from sightline.bundle import EVIDENCE, GRADIENT, POSITION, SEED, SUPPORT, Bundle
from sightline.errors import BundleError, ExportError
from sightline.exporter import add_stages, export
from sightline.exporter.blocks import named_blocks
from sightline.exporter.network import prepare
from sightline.exporter.receptive_field import receptive_fields
from sightline.exporter.source import trace_torch
from sightline.exporter.stages import segment
from tests.exporter.conftest import Exported, attribute, relative_error, run
from tests.exporter.test_gradients import PLAIN_OPERATORS
from tests.zoo import fitted

TOLERANCE = 1e-4
AGAINST_AUTOGRAD = {"resnet50", "vgg16", "densenet121", "mobilenet_v2"}
SEEN = {"vgg16": 212 - 16, "resnet50_v1": 483}
"""The last block's receptive field by Araujo et al., "Computing Receptive Fields of Convolutional Neural Networks"
(Distill 2019), without VGG's last pooling. Padding is not counted, so that sizes of other frameworks hold."""


class Taps:
    """Keeps what some modules put out, with the graph of autograd."""

    def __init__(self, module: nn.Module, names: Sequence[str]) -> None:
        self.found: dict[str, Tensor] = {}
        self._hooks = [
            module.get_submodule(name).register_forward_hook(lambda _m, _x, y, name=name: self.found.update({name: y}))
            for name in names
        ]

    def close(self) -> None:
        for hook in self._hooks:
            hook.remove()


def reference(module: nn.Module, image: Tensor, names: Sequence[str]) -> list[Tensor]:
    """The outputs of the blocks and the logits, in float64, ready to be differentiated by one another."""
    module = copy.deepcopy(module).double()
    taps = Taps(module, names)
    logits = module(image.double().requires_grad_())
    taps.close()
    return [*(taps.found[name] for name in names), logits]


def product(decision: Tensor, seed: npt.NDArray[np.float32], maps: Tensor) -> npt.NDArray[np.float64]:
    """seedᵀ·∂decision/∂maps."""
    (gradient,) = torch.autograd.grad(decision, maps, torch.from_numpy(seed)[None].double(), retain_graph=True)
    return np.asarray(gradient[0].numpy())


def seeds(decision: Tensor, count: int = 3, seed: int = 0) -> npt.NDArray[np.float32]:
    """One unit each, among those that are alive: a dead one has no gradient at all."""
    random = np.random.default_rng(seed)
    values = decision.detach().numpy()[0]
    alive = np.flatnonzero(np.abs(values.reshape(-1)) > 1e-3 * np.abs(values).max())
    hot = np.zeros((count, values.size), np.float32)
    hot[np.arange(count), random.choice(alive, count)] = 1
    return hot.reshape(count, *values.shape)


def stage(bundle: Bundle, index: int, maps: Tensor, seed: npt.NDArray[Any], image: Tensor | None = None) -> Any:
    feeds = {bundle.blocks[index].features: maps.detach().float().numpy(), SEED: seed}
    if image is not None:
        feeds[bundle.input.name] = image.numpy()
    return run(bundle.path / bundle.stages[index].file, feeds)


def errors(bundle: Bundle, outputs: Sequence[Tensor], count: int = 3) -> dict[str, float]:
    """Of every stage, the relative error of a batch of vector–Jacobian products."""
    found = {}
    for index, (maps, decision) in enumerate(itertools.pairwise(outputs)):
        seed = seeds(decision, count, index)
        wanted = np.stack([product(decision, row, maps) for row in seed])
        assert np.abs(wanted).max() > 0
        found[bundle.blocks[index].name] = max(
            relative_error(got, want)
            for got, want in zip(stage(bundle, index, maps, seed)[GRADIENT], wanted, strict=True)
        )
    return found


# -- every family -----------------------------------------------------------------------------------------------------


def test_walking_the_stages_gives_the_gradient_of_the_whole_network(exported: Exported) -> None:
    """Which is held against float64 autograd elsewhere."""
    checks = exported.bundle.manifest.checks
    assert {f"stage.{block.index}" for block in exported.bundle.blocks} <= set(checks)
    image = exported.family.image().numpy()
    found = attribute(exported.bundle, image, exported.target, 0.0)
    seed = np.eye(exported.bundle.classes, dtype=np.float32)[exported.target][None]
    for block in reversed(exported.bundle.blocks):
        feeds = {block.features: found[block.features], SEED: np.concatenate([0 * seed, seed])}
        got = run(exported.bundle.path / exported.bundle.stages[block.index].file, feeds)[GRADIENT]
        seed = found[block.gradient]
        assert not got[0].any()
        assert relative_error(got[1:], seed) <= TOLERANCE, block.name


def test_stages_agree_with_float64_autograd(exported: Exported) -> None:
    if exported.family.name not in AGAINST_AUTOGRAD:
        pytest.skip("four families stand for all of them: the walk above covers every one")
    outputs = reference(exported.family.build(), exported.family.image(), exported.family.taps)
    found = errors(exported.bundle, outputs, count=2)
    assert max(found.values()) <= TOLERANCE, found


def test_stages_hold_plain_operators_and_hardly_any_bytes(exported: Exported) -> None:
    files = [exported.bundle.path / each.file for each in exported.bundle.stages]
    assert (
        sum(file.stat().st_size for file in files) <= 0.03 * exported.bundle.path.joinpath("weights.bin").stat().st_size
    )
    for file in files:
        model = onnx.load(file, load_external_data=False)
        assert {node.op_type for node in model.graph.node} <= PLAIN_OPERATORS
        assert [value.name for value in model.graph.input if value.name not in (SEED, exported.bundle.input.name)] == [
            exported.bundle.blocks[int(file.name.split(".")[1])].features
        ]


def test_receptive_fields_are_those_that_were_published(exported: Exported) -> None:
    last = exported.bundle.stages[-1]
    if exported.family.name in SEEN:
        for span in (last.rows, last.columns):
            assert span is not None
            assert span.size == SEEN[exported.family.name]


# -- small networks ---------------------------------------------------------------------------------------------------


class Mixed(nn.Module):
    """A stem, and behind it one block of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.early = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU())
        self.pools, self.squeeze, self.dense, self.last = Pools(), Squeeze(), Dense(), ChannelsLast()
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.last(self.dense(self.squeeze(self.pools(self.early(x)))))
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


MIXED = ["early", "pools", "squeeze", "dense", "last"]


class Pools(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.more = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool2d(torch.relu(self.conv(x)), 3, 2, 1)
        return torch.relu(self.more(nn.functional.avg_pool2d(x, 3, 1, 1)))


class Squeeze(nn.Module):
    """A residual branch behind squeeze and excitation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.gate = nn.Conv2d(8, 8, 1)
        self.down = nn.Conv2d(8, 8, 3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        y = y * torch.sigmoid(self.gate(y.mean((2, 3), keepdim=True)))
        return nn.functional.silu(self.down(x + y))


class Dense(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(8, 4, 3, 2, 1)
        self.second = nn.Conv2d(8, 4, 5, 2, 2)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(torch.cat([self.first(x), self.second(x)], 1)))


class ChannelsLast(nn.Module):
    """As in ConvNeXt: a layer norm and a linear layer between two permutations."""

    def __init__(self) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(8, 8, 7, padding=3, groups=8)
        self.norm = nn.LayerNorm(8)
        self.wide = nn.Linear(8, 16)
        self.narrow = nn.Linear(16, 8)
        self.down = nn.Conv2d(8, 8, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.narrow(nn.functional.gelu(self.wide(y))).permute(0, 3, 1, 2)
        out: Tensor = self.down(x + y)
        return out


def image(side: int = 32, seed: int = 3) -> Tensor:
    return torch.randn(1, 3, side, side + 8, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Bundle]:
    module = fitted(Mixed(), image(64))
    return module, export(module, tmp_path_factory.mktemp("mixed") / "m.sightline", example=image(64), blocks=MIXED)


def test_batches_of_decisions_pass_every_kind_of_layer(mixed: tuple[nn.Module, Bundle]) -> None:
    module, bundle = mixed
    found = errors(bundle, reference(module, image(64), MIXED), count=4)
    assert max(found.values()) <= TOLERANCE, found


def test_behind_a_global_pooling_a_unit_sees_the_whole_image(mixed: tuple[nn.Module, Bundle]) -> None:
    _, bundle = mixed
    early, pools, *others = bundle.stages
    assert early.rows is not None
    assert (early.rows.offset, early.rows.stride, early.rows.size) == (-1, 2, 3)
    assert pools.columns is not None
    assert {(each.rows, each.columns) for each in others} == {(None, None)}


@pytest.fixture(scope="module")
def surface(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Bundle]:
    """The demonstration's network, its weights drawn anew."""
    module = fitted(SurfaceNet(), image(96))
    return module, export(module, tmp_path_factory.mktemp("surface") / "surface.sightline", example=image(96))


def test_the_network_of_the_demonstration(surface: tuple[nn.Module, Bundle]) -> None:
    module, bundle = surface
    outputs = reference(module, image(96), ["stem", "stages.0", "stages.1", "stages.3"])
    found = errors(bundle, outputs)
    assert max(found.values()) <= TOLERANCE, found


def test_evidence_support_and_position_follow_from_the_gradient(surface: tuple[nn.Module, Bundle]) -> None:
    module, bundle = surface
    outputs = reference(module, image(96), ["stem", "stages.0", "stages.1", "stages.3"])
    for index, (maps, decision) in enumerate(itertools.pairwise(outputs)):
        found = stage(bundle, index, maps, seeds(decision))
        evidence = np.maximum(found[GRADIENT] * maps.detach().float().numpy(), 0)
        flat = evidence.reshape(*evidence.shape[:2], -1)
        assert flat.any()
        np.testing.assert_allclose(found[EVIDENCE], evidence, rtol=1e-6)
        np.testing.assert_allclose(found[SUPPORT], flat.sum(2), rtol=1e-5)
        assert found[POSITION].dtype == np.int64
        np.testing.assert_array_equal(found[POSITION], found[EVIDENCE].reshape(flat.shape).argmax(2))


@pytest.mark.parametrize("count", [1, 5])
def test_a_batch_may_be_of_any_size_and_its_rows_do_not_mix(surface: tuple[nn.Module, Bundle], count: int) -> None:
    module, bundle = surface
    maps, decision = reference(module, image(96), ["stages.0", "stages.1"])[:2]
    seed = seeds(decision, 5)
    together, alone = stage(bundle, 1, maps, seed[:count]), stage(bundle, 1, maps, seed[count - 1 : count])
    for name in (GRADIENT, EVIDENCE, SUPPORT):
        assert together[name].shape[0] == count
        np.testing.assert_allclose(together[name][count - 1], alone[name][0], rtol=1e-5, atol=1e-9)


class Wired(nn.Module):
    """Whose blocks are wired as the caller says."""

    def __init__(self, around: bool) -> None:
        super().__init__()
        self.around = around
        self.left = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU())
        self.right = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU())
        self.join = nn.Sequential(nn.Conv2d(6, 6, 3, 1, 1), nn.ReLU())
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.left(x), self.right(x)
        logits: Tensor = self.head((self.join(left + right) if self.around else left + right).mean((2, 3)))
        return logits


def test_where_there_is_a_way_around_a_block_its_stage_takes_the_image_too(tmp_path: Path) -> None:
    module = fitted(Wired(around=True), image())
    bundle = export(module, tmp_path / "around.sightline", example=image(), blocks=["left", "join"])
    maps, decision, _ = reference(module, image(), ["left", "join"])
    seed = seeds(decision)
    got = stage(bundle, 0, maps, seed, image())[GRADIENT]
    assert relative_error(got, np.stack([product(decision, row, maps) for row in seed])) <= TOLERANCE


def test_blocks_beside_one_another_give_no_stages_and_say_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    module = fitted(Wired(around=False), image())
    with caplog.at_level(logging.WARNING):
        bundle = export(module, tmp_path / "beside.sightline", example=image(), blocks=["left", "right"])
    assert "does not depend on block 'left'" in caplog.text
    assert bundle.manifest.stages == ()
    assert not list(bundle.path.glob("stage.*"))
    with pytest.raises(BundleError, match="--stages"):
        _ = bundle.stages
    with pytest.raises(ExportError, match="a hierarchy needs blocks of which each leads to the next"):
        add_stages(bundle)


def test_tensors_that_are_named_like_the_ports_of_a_stage_do_no_harm(
    mixed: tuple[nn.Module, Bundle], tmp_path: Path
) -> None:
    module, bundle = mixed
    model = onnx.load(bundle.attribution)
    operators = ("MaxPool", "AveragePool", "Sigmoid", "Concat")
    inner = [node.output[0] for node in model.graph.node if node.op_type in operators]
    names = dict(zip(inner, (EVIDENCE, SUPPORT, POSITION, GRADIENT), strict=False))
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    del model.graph.value_info[:]

    def save(folder: Path) -> contract.Manifest:
        onnx.save(onnx.shape_inference.infer_shapes(model), folder / contract.ATTRIBUTION)
        (folder / contract.CLASSIFIER).write_bytes(bundle.classifier.read_bytes())
        return bundle.manifest.__class__(**{**vars(bundle.manifest), "stages": ()})

    renamed = add_stages(contract.write(tmp_path / "renamed.sightline", save))
    outputs = reference(module, image(64), MIXED)
    for index, (maps, decision) in enumerate(itertools.pairwise(outputs)):
        seed = seeds(decision)
        got, want = (stage(each, index, maps, seed)[GRADIENT] for each in (renamed, bundle))
        np.testing.assert_array_equal(got, want)


def test_stages_are_added_to_a_bundle_whose_other_files_stay_as_they_are(
    surface: tuple[nn.Module, Bundle], tmp_path: Path
) -> None:
    _, bundle = surface

    def save(folder: Path) -> contract.Manifest:
        for name in (contract.CLASSIFIER, contract.ATTRIBUTION, contract.WEIGHTS):
            (folder / name).write_bytes((bundle.path / name).read_bytes())
        return bundle.manifest.__class__(**{**vars(bundle.manifest), "stages": ()})

    old = contract.write(tmp_path / "old.sightline", save)
    assert old.manifest.stages == ()
    new = add_stages(old.path)
    assert new.stages == bundle.stages
    assert digests(new.path) == digests(bundle.path)
    assert digests(add_stages(new).path) == digests(bundle.path)


def digests(folder: Path) -> dict[str, str]:
    return {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir() if file.suffix != ".json"
    }


def test_a_segment_is_the_network_from_a_block_on(surface: tuple[nn.Module, Bundle]) -> None:
    module, bundle = surface
    outputs = reference(module, image(96), ["stem", "stages.0", "stages.1", "stages.3"])
    attribution = ir.load(bundle.attribution)
    model = segment(attribution, bundle.blocks, 1, contract.LOGITS)
    ir.save(ir.external_data.load_to_model(model), bundle.path.with_name("segment.onnx"))
    feeds = {"features.1": outputs[1].detach().float().numpy()}
    (logits,) = run(bundle.path.with_name("segment.onnx"), feeds).values()
    assert relative_error(logits, outputs[-1].detach().numpy()) <= TOLERANCE


# -- receptive fields -------------------------------------------------------------------------------------------------


def positive(module: nn.Module) -> nn.Module:
    """Linear with positive weights: whatever a unit depends on, it depends on it visibly."""
    for parameter in module.parameters():
        torch.nn.init.uniform_(parameter, 0.5, 1.0, generator=torch.Generator().manual_seed(0))
    return module.requires_grad_(False).eval()


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.narrow = nn.Conv2d(4, 4, 1, 2)
        self.wide = nn.Conv2d(4, 4, (3, 5), 2, (2, 4), dilation=2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.narrow(x) + self.wide(x)
        return out


class Joined(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(4, 2, (1, 3), padding=(0, 1))
        self.right = nn.Conv2d(4, 2, (5, 1), padding=(2, 0))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.left(x), self.right(x)], 1)


class Shuffled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return x.reshape(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


class Last(nn.Module):
    """A linear layer on the last axis, between two permutations."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return y


class Uneven(nn.Module):
    """Pads one side, and cuts off the other."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.pad(x, (1, 0, 0, 1))[:, :, 1:, :-1]


EXACT: dict[str, Callable[[], list[nn.Module]]] = {
    "convolutions": lambda: [nn.Conv2d(4, 4, 3, 2, 1), nn.Conv2d(4, 4, (5, 3), (1, 2), (0, 1))],
    "pools": lambda: [nn.AvgPool2d(3, 2, 1), nn.Conv2d(4, 4, 3, padding=1), nn.AvgPool2d(2)],
    "concatenation": lambda: [Joined(), nn.Conv2d(4, 4, 3, 2, 1)],
    "shuffle": lambda: [nn.Conv2d(4, 4, 3, padding=1), Shuffled(), nn.Conv2d(4, 4, 3, padding=1)],
    "channels last": lambda: [nn.Conv2d(4, 4, 3, 2, 1), Last(), nn.Conv2d(4, 4, 3, padding=1)],
    "uneven": lambda: [nn.Conv2d(4, 4, 3, padding=1), Uneven(), nn.Conv2d(4, 4, 3, padding=1)],
}
# Windows with holes, of which a box is the hull, and operators whose bound is a simple one.
GENEROUS: dict[str, Callable[[], list[nn.Module]]] = {
    "transposed": lambda: [nn.Conv2d(4, 4, 3, 2, 1), nn.ConvTranspose2d(4, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, padding=1)],
    "branches": lambda: [Branches(), nn.Conv2d(4, 4, 3)],
    "dilation": lambda: [nn.Conv2d(4, 4, 3, padding=4, dilation=4), nn.Conv2d(4, 4, 3, 2)],
    "reflection": lambda: [nn.ReflectionPad2d(3), nn.Conv2d(4, 4, 3)],
    "replication": lambda: [nn.ReplicationPad2d(2), nn.Conv2d(4, 4, 5)],
    "nearest": lambda: [nn.Conv2d(4, 4, 3, 2, 1), nn.Upsample(scale_factor=2), nn.Conv2d(4, 4, 3, padding=1)],
    "bilinear": lambda: [nn.Conv2d(4, 4, 3, 2, 1), nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(4, 4, 1)],
    "pixel shuffle": lambda: [nn.Conv2d(4, 16, 3, 2, 1), nn.PixelShuffle(2), nn.Conv2d(4, 4, 3, padding=1)],
}


CHAINS = {**EXACT, **GENEROUS}
HEIGHT, WIDTH = 22, 26
Box = tuple[int, int, int, int]


class Side(nn.Module):
    """Every chain of layers, side by side."""

    def __init__(self) -> None:
        super().__init__()
        chains = {name.replace(" ", "_"): nn.Sequential(nn.Conv2d(1, 4, 1), *make()) for name, make in CHAINS.items()}
        self.chains = nn.ModuleDict(chains)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([chain(x).mean((2, 3)) for chain in self.chains.values()], 1)


@pytest.fixture(scope="module")
def sides() -> tuple[dict[str, list[Box]], dict[str, list[Box]]]:
    """The boxes (top, bottom, left, right) of all units: as claimed from the graph, and as one moved pixel shows."""
    module = positive(Side())
    graph = prepare(trace_torch(module, np.zeros((1, 1, HEIGHT, WIDTH), np.float32)), (1, HEIGHT, WIDTH)).single.graph
    chains = {name: module.get_submodule(f"chains.{name.replace(' ', '_')}") for name in CHAINS}
    lasts = {f"chains.{name.replace(' ', '_')}.{len(make())}": name for name, make in CHAINS.items()}
    values, names = named_blocks(graph, list(lasts))
    fields = receptive_fields(graph, graph.inputs[0], "NCHW", values)
    spans = {lasts[name]: field for name, field in zip(names, fields, strict=True)}
    claimed: dict[str, list[Box]] = {}
    found: dict[str, list[Box]] = {}
    module.double()
    pixels = torch.eye(HEIGHT * WIDTH, dtype=torch.float64).reshape(-1, 1, HEIGHT, WIDTH)
    for name, chain in chains.items():
        rows, columns = spans[name]
        with torch.no_grad():
            # The network is affine, so that every pixel may be moved from zero, one by one in a single batch.
            still = chain(torch.zeros_like(pixels[:1]))
            moved = ((chain(pixels) - still).abs() > 1e-9 * still.abs().max()).any(1).numpy()
        seen = moved.reshape(HEIGHT, WIDTH, *moved.shape[1:])
        places = list(np.ndindex(*moved.shape[1:]))
        sides = [np.nonzero(seen[:, :, row, column]) for row, column in places]
        found[name] = [(int(y.min()), int(y.max()) + 1, int(x.min()), int(x.max()) + 1) for y, x in sides]
        claimed[name] = [
            (
                *((0, HEIGHT) if rows is None else rows.pixels(row, HEIGHT)),
                *((0, WIDTH) if columns is None else columns.pixels(column, WIDTH)),
            )
            for row, column in places
        ]
    return claimed, found


@pytest.mark.parametrize("kind", EXACT)
def test_a_pixel_changes_a_unit_if_and_only_if_it_lies_in_the_box(
    sides: tuple[dict[str, list[Box]], dict[str, list[Box]]], kind: str
) -> None:
    claimed, found = sides
    assert claimed[kind] == found[kind]


@pytest.mark.parametrize("kind", GENEROUS)
def test_no_pixel_outside_the_box_changes_a_unit(
    sides: tuple[dict[str, list[Box]], dict[str, list[Box]]], kind: str
) -> None:
    claimed, found = (each[kind] for each in sides)
    for box, seen in zip(claimed, found, strict=True):
        assert box[0] <= seen[0] < seen[1] <= box[1]
        assert box[2] <= seen[2] < seen[3] <= box[3]
    areas = [sum((b - a) * (d - c) for a, b, c, d in each) for each in (claimed, found)]
    assert areas[0] < 0.5 * len(claimed) * HEIGHT * WIDTH
    assert areas[0] <= 20 * areas[1]


def test_memory_grows_with_what_a_stage_holds(surface: tuple[nn.Module, Bundle]) -> None:
    _, bundle = surface
    for block, made in zip(bundle.blocks, bundle.stages, strict=True):
        # The maps themselves, their gradient, and what is made of the two.
        assert made.memory >= 3 * 4 * math.prod((block.channels, block.height, block.width))
