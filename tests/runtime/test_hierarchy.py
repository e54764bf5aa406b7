"""A decision taken apart, against the algorithm written as it reads, in float64 torch (ALGORITHMS.md, §3)."""

from __future__ import annotations

import importlib.util
import itertools
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from torch import Tensor

import sightline
from sightline import Decomposer, Hierarchy, Unit
from sightline.bindings import available
from sightline.bundle import GRADIENT, SEED, Bundle
from sightline.errors import BundleError, EngineError, HierarchyError, MissingPackageError, SaveError, TargetError
from sightline.exporter import export
from sightline.runtime import hierarchy as hierarchy_module
from sightline.runtime import stage_engines
from sightline.runtime.tree import Node
from tests.exporter.conftest import run
from tests.runtime import tiny

ENGINES = [entry.name for entry in available() if entry.usable and entry.name in ("onnxruntime-cpu", "openvino")]
NAMES = ("one", "two", "three")
LABELS = ("good", "scratch", "pit")
HEIGHT, WIDTH = 24, 20
CHANNELS = (3, 6, 8, 10)
STRIDES = (2, 1, 2)


@dataclass(frozen=True)
class Network:
    """Three convolutions and a linear head, the second behind a max-pool."""

    weights: tuple[npt.NDArray[np.float32], ...]
    biases: tuple[npt.NDArray[np.float32], ...] | None

    @classmethod
    def random(cls) -> Network:
        rng = np.random.default_rng(0)
        shapes = [(b, a, 3, 3) for a, b in itertools.pairwise(CHANNELS)] + [(len(LABELS), CHANNELS[-1])]
        weights = [rng.standard_normal(shape) * np.sqrt(3 / math.prod(shape[1:])) for shape in shapes]
        return cls(
            tuple(each.astype(np.float32) for each in weights),
            tuple(0.3 * rng.standard_normal(len(each)).astype(np.float32) for each in weights),
        )

    @classmethod
    def whole(cls, *, positive: bool = False) -> Network:
        """Small whole numbers and no biases: float32 computes without any rounding."""
        rng = np.random.default_rng(1)
        shapes = [(b, a, 3, 3) for a, b in itertools.pairwise(CHANNELS)] + [(len(LABELS), CHANNELS[-1])]
        return cls(tuple(rng.integers(0 if positive else -1, 2, shape).astype(np.float32) for shape in shapes), None)

    def step(self, index: int, maps: Tensor) -> Tensor:
        """From one block to the next, from the image to the first, or from the last block to the logits."""
        weights = torch.from_numpy(self.weights[index]).to(maps.dtype)
        bias = None if self.biases is None else torch.from_numpy(self.biases[index]).to(maps.dtype)
        if index == 3:
            return F.linear(maps.sum((2, 3)), weights, bias)
        if index == 1:
            maps = F.max_pool2d(maps, 2)
        return torch.relu(F.conv2d(maps, weights, bias, STRIDES[index], 1))

    def forward(self, image: Tensor) -> list[Tensor]:
        """The maps of the blocks, and the logits."""
        found = [self.step(0, image)]
        for index in (1, 2, 3):
            found.append(self.step(index, found[-1]))
        return found

    def save(self, path: Path) -> Path:
        node = helper.make_node
        names = [[f"w{index}", f"b{index}"][: 1 if self.biases is None else 2] for index in range(4)]
        nodes = [
            node("Conv", ["image", *names[0]], ["z0"], strides=[2, 2], pads=[1, 1, 1, 1]),
            node("Relu", ["z0"], ["one"]),
            node("MaxPool", ["one"], ["pooled"], kernel_shape=[2, 2], strides=[2, 2]),
            node("Conv", ["pooled", *names[1]], ["z1"], pads=[1, 1, 1, 1]),
            node("Relu", ["z1"], ["two"]),
            node("Conv", ["two", *names[2]], ["z2"], strides=[2, 2], pads=[1, 1, 1, 1]),
            node("Relu", ["z2"], ["three"]),
            node("ReduceSum", ["three", "axes"], ["vector"], keepdims=0),
            node("Gemm", ["vector", *names[3]], ["logits"], transB=1),
        ]
        tensors: dict[str, npt.NDArray[Any]] = {f"w{index}": each for index, each in enumerate(self.weights)}
        tensors |= {f"b{index}": each for index, each in enumerate(self.biases or ())}
        tensors["axes"] = np.array([2, 3])
        graph = helper.make_graph(
            nodes,
            "small",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, HEIGHT, WIDTH])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", len(LABELS)])],
            [numpy_helper.from_array(value, name) for name, value in tensors.items()],
        )
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
        return path


def exported(network: Network, folder: Path, **options: Any) -> Bundle:
    path = network.save(folder / "small.onnx")
    return export(path, folder / "small.sightline", blocks=NAMES, labels=LABELS, **options)


def image(seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(3, HEIGHT, WIDTH)).astype(np.float32)


def whole_image(seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).integers(0, 3, (3, HEIGHT, WIDTH)).astype(np.float32)


@pytest.fixture(scope="module")
def network() -> Network:
    return Network.random()


@pytest.fixture(scope="module")
def bundle(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return exported(network, tmp_path_factory.mktemp("small"))


@pytest.fixture(params=ENGINES)
def decomposer(bundle: Bundle, request: pytest.FixtureRequest) -> Iterator[Decomposer]:
    with Decomposer(bundle, request.param) as opened:
        yield opened


@pytest.fixture
def plain(bundle: Bundle) -> Iterator[Decomposer]:
    with Decomposer(bundle, "onnxruntime-cpu") as opened:
        yield opened


# -- the algorithm, written as it reads -------------------------------------------------------------------------------

Key = tuple[str, int, int, int]


@dataclass(frozen=True)
class Child:
    key: Key
    share: float
    support: float
    heatmap: npt.NDArray[np.float64]


class Reference:
    """One decision after the other, by recursion over the paths."""

    def __init__(self, network: Network, pixels: npt.NDArray[np.float32], top_k: int, min_share: float) -> None:
        self.network, self.top_k, self.min_share = network, top_k, min_share
        self.maps = network.forward(torch.from_numpy(pixels)[None].double())
        self.weights: dict[Key, float] = {}
        self.edges: dict[tuple[Key | None, Key], Child] = {}

    def children(self, below: int, place: tuple[int, ...]) -> list[Child]:
        """Of the decision at ``place`` of what follows block ``below``."""
        maps = self.maps[below].clone().requires_grad_()
        decision = self.network.step(below + 1, maps)[0]
        for index in place:
            decision = decision[index]
        (gradient,) = torch.autograd.grad(decision, maps)
        evidence = torch.relu(gradient * maps)[0].detach().numpy()
        supports = evidence.sum((1, 2))
        found: list[Child] = []
        for channel in sorted(range(len(supports)), key=lambda j: -supports[j])[: self.top_k]:
            share = supports[channel] / supports.sum() if supports.sum() else 0.0
            if supports[channel] > 0 and (share >= self.min_share or not found):
                row, column = np.unravel_index(evidence[channel].argmax(), evidence.shape[1:])
                key = (NAMES[below], channel, int(row), int(column))
                found.append(Child(key, share, supports[channel], evidence[channel]))
        return found

    def walk(self, below: int, place: tuple[int, ...], parent: Key | None, weight: float, last: int) -> None:
        for child in self.children(below, place):
            self.edges[parent, child.key] = child
            self.weights[child.key] = self.weights.get(child.key, 0.0) + weight * child.share
            if below > last:
                self.walk(below - 1, child.key[1:], child.key, weight * child.share, last)


def key(node: Node) -> Key | None:
    unit = node.unit
    return None if node.level == 0 or unit is None else (unit.layer, unit.channel, *unit.position)


def agree(found: Hierarchy, reference: Reference) -> None:
    weights = {key(node): node.path_weight for node in found.nodes if node.level}
    assert weights.keys() == reference.weights.keys()
    for place, weight in reference.weights.items():
        assert weights[place] == pytest.approx(weight, rel=1e-4)
    keys = {node.id: key(node) for node in found.nodes}
    edges = {(keys[edge.parent], keys[edge.child]): edge for edge in found.edges}
    assert edges.keys() == reference.edges.keys()
    for ends, child in reference.edges.items():
        assert edges[ends].share == pytest.approx(child.share, rel=1e-4)
        assert edges[ends].support == pytest.approx(child.support, rel=1e-4)
    for node in found.nodes:
        below = [child.share for (parent, _), child in reference.edges.items() if parent == key(node)]
        above = [child for (_, ours), child in reference.edges.items() if ours == key(node) and node.level]
        assert node.kept is None or node.kept == pytest.approx(sum(below), rel=1e-4)
        if above:
            assert node.heatmap is not None
            assert min(np.abs(node.heatmap - child.heatmap).max() for child in above) <= 1e-4 * node.heatmap.max()


@pytest.mark.parametrize(("top_k", "min_share"), [(4, 0.02), (3, 0.2), (10, 0.0), (4, 0.9)])
@pytest.mark.parametrize("target", range(len(LABELS)))
def test_a_class_taken_apart(
    decomposer: Decomposer, network: Network, target: int, top_k: int, min_share: float
) -> None:
    found = decomposer(image(), target, top_k=top_k, min_share=min_share)
    reference = Reference(network, image(), top_k, min_share)
    reference.walk(2, (target,), None, 1.0, 0)
    agree(found, reference)
    assert found.root.value == pytest.approx(reference.maps[3][0, target].item(), rel=1e-4)
    for node in found.nodes[1:]:
        index = NAMES.index(node.layer)
        assert node.unit is not None
        value = reference.maps[index][0, node.unit.channel][node.unit.position].item()
        assert node.value == pytest.approx(value, rel=1e-4)
        assert node.level == 3 - index


@pytest.mark.parametrize("depth", [1, 2, 3, 9])
def test_the_depth_ends_the_walk(plain: Decomposer, network: Network, depth: int) -> None:
    reference = Reference(network, image(), 4, 0.02)
    reference.walk(2, (1,), None, 1.0, max(0, 3 - depth))
    found = plain(image(), 1, depth=depth)
    agree(found, reference)
    assert [level.name for level in found.levels] == ["decision", "three", "two", "one"][: depth + 1]
    assert all((node.kept is None) == (node.level == min(depth, 3)) for node in found.nodes)


def test_any_unit_can_be_taken_apart(decomposer: Decomposer, network: Network) -> None:
    reference = Reference(network, image(), 4, 0.02)
    channel, row, column = np.argwhere(reference.maps[1][0].numpy() > 0.5)[3].tolist()
    reference.walk(0, (channel, row, column), None, 1.0, 0)
    unit = Unit("two", channel, (row, column))
    for given in (unit, str(unit)):
        found = decomposer(image(), unit=given)
        agree(found, reference)
        assert (found.label, found.score, found.target) == (f"two:{channel}:{row},{column}", None, None)
        assert (found.root.id, found.root.unit) == ("d", unit)
        assert found[unit] is found[str(unit)] is found["d"] is found.root
        again = [decomposer.expand(found, node) for node in (unit, str(unit), "d")]
        assert all([node.id for node in other.nodes] == [node.id for node in found.nodes] for other in again)
        assert found.root.value == pytest.approx(reference.maps[1][0, channel, row, column].item(), rel=1e-4)
        assert [(level.name, level.channels) for level in found.levels] == [("decision", 8), ("one", 6)]


def test_the_predicted_class_by_default_and_labels(plain: Decomposer, network: Network) -> None:
    logits = network.forward(torch.from_numpy(image())[None].double())[3][0]
    found = plain(image())
    assert found.target == int(logits.argmax())
    assert found.label == LABELS[found.target]
    assert found.score == pytest.approx(torch.softmax(logits, 0).max().item(), rel=1e-4)
    assert plain(image(), "pit").target == 2


def test_a_unit_that_several_parents_reach_is_one_node(plain: Decomposer) -> None:
    found = plain(image(), 1, top_k=10, min_share=0.0)
    parents = {node.id: [edge.parent for edge in found.edges if edge.child == node.id] for node in found.nodes}
    assert max(map(len, parents.values())) > 1
    assert len({node.id for node in found.nodes}) == len(found.nodes)
    for node in found.nodes[1:]:
        total = sum(found[edge.parent].path_weight * edge.share for edge in found.edges if edge.child == node.id)
        assert node.path_weight == pytest.approx(total)


def test_shares_weights_and_kept_mass_lie_between_0_and_1(plain: Decomposer) -> None:
    for seed in range(6):
        found = plain(image(seed), top_k=1 + seed, min_share=0.05 * seed)
        numbers = [edge.share for edge in found.edges] + [node.path_weight for node in found.nodes]
        numbers += [node.kept for node in found.nodes if node.kept is not None]
        numbers += [level.mass for level in found.levels] + [level.kept or 0.0 for level in found.levels]
        assert all(0 <= number <= 1 for number in numbers)
        masses = [level.mass for level in found.levels]
        assert masses == sorted(masses, reverse=True)
        for level, below in zip(found.levels, found.levels[1:], strict=False):
            assert level.kept is not None
            assert below.mass == pytest.approx(level.mass * level.kept)
            assert below.nodes == sum(node.layer == below.name for node in found.nodes)


# -- conservation -----------------------------------------------------------------------------------------------------


def test_without_biases_the_decision_is_the_sum_of_gradient_times_features_exactly(tmp_path: Path) -> None:
    network = Network.whole()
    bundle = exported(network, tmp_path)
    maps = network.forward(torch.from_numpy(whole_image())[None])
    checked = 0
    for index in range(3):
        decisions = maps[index + 1][0].numpy()
        flat = decisions.reshape(-1)
        seed = np.eye(flat.size, dtype=np.float32).reshape(flat.size, *decisions.shape)
        feeds = {f"features.{index}": maps[index].numpy(), SEED: seed}
        gradient = run(bundle.path / bundle.stages[index].file, feeds)[GRADIENT]
        np.testing.assert_array_equal((gradient * maps[index].numpy()).sum((1, 2, 3)), flat)
        checked += np.count_nonzero(flat)
    assert checked > 100


def test_where_nothing_speaks_against_it_the_support_is_the_whole_decision_exactly(tmp_path: Path) -> None:
    with Decomposer(exported(Network.whole(positive=True), tmp_path), "onnxruntime-cpu") as decomposer:
        found = decomposer(whole_image(), 0, top_k=10, min_share=0.0)
    for node in found.nodes:
        below = found.below(node)
        assert (node.kept is None) == (node.layer == "one")
        if below:
            assert sum(edge.support for edge in below) == node.value
            assert node.kept == pytest.approx(1.0)


# -- passes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_the_batch_changes_the_number_of_passes_and_nothing_else(
    bundle: Bundle, plain: Decomposer, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    expected = plain(image(), 1, top_k=5, min_share=0.0)
    monkeypatch.setattr(stage_engines, "BATCH", {"cpu": batch})
    monkeypatch.setattr(stage_engines, "GROWTH", 1000)
    with Decomposer(bundle, "onnxruntime-cpu") as decomposer:
        found = decomposer(image(), 1, top_k=5, min_share=0.0)
        again = decomposer(image(), 1, top_k=5, min_share=0.0)
    decisions = [sum(node.level == level for node in found.nodes) for level in (0, 1, 2)]
    passes = [math.ceil(count / size) for count, size in zip(decisions, (1, batch, batch), strict=True)]
    assert found.provenance["passes"] == 1 + sum(passes)
    assert comparable(again) == comparable(found)
    assert [(node.id, node.kept) for node in found.nodes] == [
        (node.id, pytest.approx(node.kept) if node.kept is not None else None) for node in expected.nodes
    ]


def comparable(found: Hierarchy) -> dict[str, Any]:
    document = found.document()
    document["provenance"] = {name: value for name, value in document["provenance"].items() if "seconds" not in name}
    return document


def test_one_image_after_the_other_leaves_nothing_behind(plain: Decomposer, bundle: Bundle) -> None:
    first = comparable(plain(image(1), 1))
    plain(image(2), unit="two:3:1,1")
    second = comparable(plain(image(2), 1))
    assert comparable(sightline.decompose(bundle, image(2), 1, engine="onnxruntime-cpu")) == second
    assert comparable(plain(image(1), 1)) == first
    assert comparable(sightline.decompose(bundle, image(1), 1, engine="onnxruntime-cpu")) == first


def test_large_maps_get_smaller_batches(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage_engines, "ROOM", 2 * bundle.stages[1].memory)
    engines = stage_engines.StageEngines(bundle, "onnxruntime-cpu", None)
    assert engines.stage(1).batch == 2
    engines.close()


def test_progress_is_told(bundle: Bundle) -> None:
    calls: list[tuple[int, int]] = []
    with Decomposer(bundle, "onnxruntime-cpu", progress=lambda done, total: calls.append((done, total))) as decomposer:
        found = decomposer(image(), 1)
    assert [done for done, _ in calls] == list(range(1, len(calls) + 1))
    assert len(calls) == sum(node.kept is not None for node in found.nodes)
    assert calls[-1] == (len(calls), len(calls))


def test_an_explainer_gives_its_bundle_and_engine(bundle: Bundle) -> None:
    with sightline.Explainer(bundle, engine="onnxruntime-cpu", batch_size=2) as explainer:
        found = sightline.decompose(explainer, image(1), 1)
    assert found.provenance["engine"] == "onnxruntime-cpu"
    assert found.provenance["bundle"] == bundle.hash


# -- walking on -------------------------------------------------------------------------------------------------------


def test_walking_on_from_every_leaf_is_decomposing_deeper(plain: Decomposer) -> None:
    deeper = plain(image(), 1, depth=2)
    grown = plain(image(), 1, depth=1)
    for node in grown.nodes[1:]:
        grown = plain.expand(grown, node.id)
    want, got = comparable(deeper), comparable(grown)
    assert got["nodes"] == want["nodes"]
    assert got["edges"] == want["edges"]
    assert got["levels"] == want["levels"]


def test_walking_on_adds_children_and_keeps_what_was_there(plain: Decomposer) -> None:
    found = plain(image(), 1, top_k=2, min_share=0.0)
    node = found.nodes[1]
    wider = plain.expand(found, node.unit or "", top_k=6, depth=None)
    assert {edge.child for edge in found.below(node)} < {edge.child for edge in wider.below(node.id)}
    assert {each.id for each in found.nodes} < {each.id for each in wider.nodes}
    assert len(wider.below("d")) == 2
    new = {each.id for each in wider.nodes} - {each.id for each in found.nodes}
    assert any(wider[name].level == 3 for name in new)
    assert wider.provenance["passes"] > found.provenance["passes"]
    assert len(found.nodes) < len(wider.nodes)


def test_walking_on_needs_the_image_and_a_block_below(plain: Decomposer, bundle: Bundle) -> None:
    found = plain(image(), 1)
    leaf = next(node for node in found.nodes if node.layer == "one")
    with pytest.raises(HierarchyError, match="a unit of the first block"):
        plain.expand(found, leaf.id)
    with pytest.raises(HierarchyError, match="no node 'two:99:0,0'"):
        plain.expand(found, "two:99:0,0")
    plain(image(5), 1)
    with pytest.raises(HierarchyError, match="another image"):
        plain.expand(found, found.nodes[1].id)
    with Decomposer(bundle, "onnxruntime-cpu") as fresh, pytest.raises(HierarchyError, match="another image"):
        fresh.expand(found, found.nodes[1].id)


def test_no_more_nodes_than_allowed_and_the_weakest_go(plain: Decomposer, caplog: pytest.LogCaptureFixture) -> None:
    whole = plain(image(), 1, top_k=6, min_share=0.0)
    small = plain(image(), 1, top_k=6, min_share=0.0, max_nodes=20)
    assert len(small.nodes) == 20
    assert "left out" in caplog.text
    assert {node.id for node in small.nodes} < {node.id for node in whole.nodes}
    assert all(edge.child in {node.id for node in small.nodes} for edge in small.edges)
    kept = [node.path_weight for node in small.nodes if node.layer == "two"]
    gone = {node.id for node in whole.nodes if node.layer == "two"} - {node.id for node in small.nodes}
    assert max(whole[name].path_weight for name in gone) <= min(kept)
    assert small.levels[1].kept is not None
    assert whole.levels[1].kept is not None
    assert small.levels[1].kept < whole.levels[1].kept


# -- what a node sees -------------------------------------------------------------------------------------------------


def test_a_pixel_outside_the_box_does_not_change_a_node_and_one_inside_does(
    plain: Decomposer, network: Network
) -> None:
    pixels = torch.from_numpy(image())[None].double()
    found = plain(image(), 1, depth=3)
    for node in [node for node in found.nodes if node.unit][::5]:
        assert node.unit is not None
        left, top, right, bottom = node.box
        index = (0, node.unit.channel, *node.unit.position)
        wild = pixels + 10 * torch.randn(pixels.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        outside = wild.clone()
        outside[:, :, top:bottom, left:right] = pixels[:, :, top:bottom, left:right]
        inside = pixels.clone()
        inside[:, :, top:bottom, left:right] += 0.01
        layer = NAMES.index(node.layer)
        before, unmoved, moved = (network.forward(each)[layer][index].item() for each in (pixels, outside, inside))
        assert unmoved == pytest.approx(before, rel=1e-12)
        assert moved != before
        assert found.crop(node).size == (right - left, bottom - top)
    assert found.root.box == (0, 0, WIDTH, HEIGHT)
    assert any(node.box != found.root.box for node in found.nodes)


def test_the_picture_is_what_the_network_saw(tmp_path: Path, network: Network) -> None:
    made = exported(network, tmp_path, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8))
    found = sightline.decompose(made, photo, engine="onnxruntime-cpu")
    expected = np.asarray(photo.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR), np.int16)
    assert np.abs(np.asarray(found.picture, np.int16) - expected).max() <= 1


# -- JSON, text, graph ------------------------------------------------------------------------------------------------


def test_the_document_is_what_the_page_reads(plain: Decomposer) -> None:
    found = plain(image(), 1)
    document = json.loads(found.to_json())
    assert (document["schema"], document["kind"]) == (1, "sightline.hierarchy")
    assert {"label", "score", "image", "levels", "nodes", "edges", "settings", "provenance"} <= set(document)
    assert document["image"]["png"].startswith("data:image/png;base64,")
    assert (document["image"]["width"], document["image"]["height"]) == (WIDTH, HEIGHT)
    fields = {"id", "level", "layer", "channel", "position", "value", "path_weight", "kept", "box", "heatmap", "crop"}
    assert all(set(node) == fields for node in document["nodes"])
    assert all(set(edge) == {"parent", "child", "share", "support"} for edge in document["edges"])
    assert all({"name", "channels", "height", "width", "kept", "nodes"} <= set(level) for level in document["levels"])
    assert {"top_k", "min_share", "depth"} <= set(document["settings"])
    assert {"bundle", "engine", "sightline", "passes", "seconds"} <= set(document["provenance"])
    root = document["nodes"][0]
    assert (root["id"], root["channel"], root["position"], root["heatmap"]) == ("d", None, None, None)


def test_json_in_and_out(plain: Decomposer, tmp_path: Path) -> None:
    for found in (plain(image(), 1), plain(image(), unit="three:0:1,1")):
        found.save(tmp_path / "tree.json")
        read = Hierarchy.from_json((tmp_path / "tree.json").read_bytes())
        assert read.document() == found.document()
        for node in found.nodes[1:]:
            assert node.heatmap is not None
            other = read[node.id].heatmap
            assert other is not None
            assert np.abs(other - node.heatmap).max() <= node.heatmap.max() / 500
    assert [file.name for file in tmp_path.iterdir()] == ["tree.json"]


def test_large_heatmaps_are_made_coarser_without_losing_their_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    heatmap = np.random.default_rng(0).random((9, 14)).astype(np.float32)
    monkeypatch.setattr(hierarchy_module, "FINEST", 5)
    written = hierarchy_module._heatmap_document(heatmap)
    assert (written["height"], written["width"], written["max"]) == (3, 5, float(heatmap.max()))
    found = hierarchy_module._heatmap(written)
    for row in range(3):
        for column in range(5):
            tile = heatmap[3 * row : 3 * row + 3, 3 * column : 3 * column + 3]
            assert found[row, column] == pytest.approx(tile.max(), abs=1 / 500)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"kind": "sightline.hierarchy", "schema": 2}', '{"kind": "other", "schema": 1}', "null"],
)
def test_what_is_no_hierarchy_is_refused(text: str) -> None:
    with pytest.raises(HierarchyError):
        Hierarchy.from_json(text)


def test_a_truncated_document_is_refused(plain: Decomposer) -> None:
    document = plain(image(), 1).document()
    for missing in ("nodes", "levels", "image", "edges"):
        with pytest.raises(HierarchyError):
            Hierarchy.from_json(json.dumps({name: value for name, value in document.items() if name != missing}))
    document["nodes"][1]["heatmap"]["data"] = document["nodes"][1]["heatmap"]["data"][:-8]
    with pytest.raises(HierarchyError):
        Hierarchy.from_json(json.dumps(document))


def test_saving_says_what_is_wrong(plain: Decomposer, tmp_path: Path) -> None:
    found = plain(image(), 1)
    with pytest.raises(SaveError, match=r"\.json"):
        found.save(tmp_path / "tree.html")
    with pytest.raises(SaveError, match="could not be written"):
        found.save(tmp_path / "nowhere" / "tree.json")
    assert not list(tmp_path.iterdir())


def test_a_networkx_graph(plain: Decomposer, monkeypatch: pytest.MonkeyPatch) -> None:
    found = plain(image(), 1)
    if importlib.util.find_spec("networkx"):
        graph = found.to_networkx()
        assert set(graph.nodes) == {node.id for node in found.nodes}
        assert graph.number_of_edges() == len(found.edges)
        for edge in found.edges:
            assert graph.edges[edge.parent, edge.child]["share"] == edge.share
        assert graph.nodes["d"]["value"] == found.root.value
    monkeypatch.setitem(__import__("sys").modules, "networkx", None)
    with pytest.raises(MissingPackageError, match="networkx"):
        found.to_networkx()


def test_lines_show_every_path_or_as_many_as_asked_for(plain: Decomposer) -> None:
    found = plain(image(), 1)
    lines = list(found.lines())
    paths = {"d": 1}
    for node in found.nodes[1:]:
        paths[node.id] = sum(paths[edge.parent] for edge in found.edges if edge.child == node.id)
    assert len(lines) == sum(paths.values())
    assert lines[0].startswith("scratch")
    assert found.below("d")[0].child in lines[1]
    assert list(found.lines(3)) == [*lines[:3], "…"]


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"top_k": 0}, HierarchyError, "top_k=0"),
        ({"top_k": 2.5}, HierarchyError, "top_k=2.5"),
        ({"depth": 0}, HierarchyError, "depth=0"),
        ({"min_share": 1.0}, HierarchyError, "min_share=1.0"),
        ({"min_share": float("nan")}, HierarchyError, "min_share=nan"),
        ({"max_nodes": 0}, HierarchyError, "max_nodes=0"),
        ({"unit": "two:8:0,0"}, TargetError, "8 channels of 6×5"),
        ({"unit": "two:0:6,0"}, TargetError, "8 channels of 6×5"),
        ({"unit": "two:0:-1,0"}, TargetError, "8 channels of 6×5"),
        ({"unit": "four:0:0,0"}, TargetError, "one, two, three"),
        ({"unit": "two:0"}, TargetError, "BLOCK:CHANNEL:ROW,COLUMN"),
        ({"unit": "one:0:0,0"}, HierarchyError, "first block"),
        ({"unit": "two:0:0,0", "target": 1}, TargetError, "not both"),
        ({"target": 3}, TargetError, "class 3"),
        ({"target": "bent"}, TargetError, "bent"),
    ],
)
def test_what_cannot_be_taken_apart_says_why(
    plain: Decomposer, options: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        plain(image(), **options)


def test_a_unit_that_is_off_has_no_support(plain: Decomposer, network: Network) -> None:
    maps = network.forward(torch.from_numpy(image())[None].double())[1][0].numpy()
    channel, row, column = np.argwhere(maps == 0)[0].tolist()
    found = plain(image(), unit=Unit("two", channel, (row, column)))
    assert (len(found.nodes), found.edges, found.root.kept, found.root.value) == (1, (), 0.0, 0.0)
    assert Hierarchy.from_json(found.to_json()).document() == found.document()


def test_names_of_blocks_may_hold_colons() -> None:
    assert Unit.parse("net:layer:3:1,2") == Unit("net:layer", 3, (1, 2))
    assert str(Unit("net:layer", 3, (1, 2))) == "net:layer:3:1,2"


def test_a_bundle_without_stages_says_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="--stages"):
        Decomposer(tiny.write(tmp_path / "tiny.sightline"))


@pytest.mark.filterwarnings("ignore:overflow")
def test_a_network_that_answers_with_nan(tmp_path: Path) -> None:
    made = exported(Network.random(), tmp_path)
    with Decomposer(made, "onnxruntime-cpu") as decomposer, pytest.raises(EngineError, match="NaN or infinity"):
        decomposer(np.full((3, HEIGHT, WIDTH), 3e38, np.float32))


def test_channels_last(network: Network, tmp_path: Path, plain: Decomposer) -> None:
    model = onnx.load(network.save(tmp_path / "small.onnx"))
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["N", HEIGHT, WIDTH, 3]))
    model.graph.node.insert(0, helper.make_node("Transpose", ["pixels"], ["image"], perm=[0, 3, 1, 2]))
    onnx.save(model, tmp_path / "last.onnx")
    made = export(tmp_path / "last.onnx", tmp_path / "last.sightline", blocks=NAMES, labels=LABELS)
    assert made.input.layout == "NHWC"
    found, want = sightline.decompose(made, image(), 1, engine="onnxruntime-cpu"), plain(image(), 1)
    assert [(node.id, node.box) for node in found.nodes] == [(node.id, node.box) for node in want.nodes]
    assert np.array_equal(np.asarray(found.picture), np.asarray(want.picture))


def test_replacing_a_node_leaves_the_hierarchy_frozen(plain: Decomposer) -> None:
    found = plain(image(), 1, depth=1)
    with pytest.raises(AttributeError):
        found.label = "other"  # type: ignore[misc]
    assert replace(found, label="other").nodes is found.nodes
