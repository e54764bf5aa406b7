"""The example of a detector: the target of D-RISE beside its formula, and every box of a picture explained."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import explain_boxes
import numpy as np
import numpy.typing as npt
import pytest
import torch
from boxes import REACH, Detection, Grid, decode, detect, iou
from detector import GRID, Detector, decoded_boxes, normalised, trained
from drise import Similarity
from PIL import ImageColor
from scenes import LABELS, SIZE, Picture, scene
from torch import Tensor

import sightline
from sightline import RISE, Bundle, Explainer
from sightline.runtime import targets

Doubles = npt.NDArray[np.float64]

SMALL = Grid(size=60, cells=3, classes=4)
TARGET = Detection((14.0, 9.0, 38.0, 47.0), (0.1, 0.6, 0.25, 0.05), 0.8)


def outputs(seed: int, count: int = 1, grid: Grid = SMALL) -> Doubles:
    return np.random.default_rng(seed).normal(size=(count, grid.outputs)) * 1.5


def plain_similarity(numbers: Doubles, detection: Detection, grid: Grid) -> float:
    """One image's outputs, K: the formula, proposal by proposal."""
    head = numbers.reshape(5 + grid.classes, grid.cells, grid.cells)
    side = grid.size / grid.cells
    best = 0.0
    for row in range(grid.cells):
        for column in range(grid.cells):
            o, tx, ty, tw, th, *logits = head[:, row, column].tolist()
            x = (column + 0.5) * side + (2 * logistic(tx) - 1) * REACH * side
            y = (row + 0.5) * side + (2 * logistic(ty) - 1) * REACH * side
            w, h = logistic(tw) * grid.size, logistic(th) * grid.size
            total = sum(map(math.exp, logits))
            classes = [math.exp(z) / total for z in logits]
            x0, y0, x1, y1 = detection.box
            across = max(0.0, min(x + w / 2, x1) - max(x - w / 2, x0))
            down = max(0.0, min(y + h / 2, y1) - max(y - h / 2, y0))
            overlap = across * down / (w * h + (x1 - x0) * (y1 - y0) - across * down)
            product = sum(a * b for a, b in zip(classes, detection.classes, strict=True))
            cosine = product / math.hypot(*classes) / math.hypot(*detection.classes)
            best = max(best, overlap * cosine * logistic(o))
    return best


def logistic(z: float) -> float:
    return 1 / (1 + math.exp(-z))


def torch_similarity(numbers: Tensor, detection: Detection, grid: Grid) -> Tensor:
    """The same for autograd: K -> a scalar."""
    head = numbers.reshape(5 + grid.classes, -1).T
    side = grid.size / grid.cells
    axis = (torch.arange(grid.cells, dtype=torch.float64) + 0.5) * side
    middle = torch.cartesian_prod(axis, axis).flip(1) + (2 * head[:, 1:3].sigmoid() - 1) * REACH * side
    half = head[:, 3:5].sigmoid() * grid.size / 2
    box = torch.tensor(detection.box, dtype=torch.float64)
    sides = torch.minimum(middle + half, box[2:]) - torch.maximum(middle - half, box[:2])
    both = sides.clamp(min=0).prod(1)
    overlap = both / ((2 * half).prod(1) + (box[2:] - box[:2]).prod() - both)
    classes = torch.tensor(detection.classes, dtype=torch.float64)
    cosine = torch.nn.functional.cosine_similarity(head[:, 5:].softmax(1), classes[None], dim=1)
    return (overlap * cosine * head[:, 0].sigmoid()).max()


@pytest.mark.parametrize("seed", range(3))
def test_the_similarity_is_what_its_formula_says(seed: int) -> None:
    numbers = outputs(seed, 20)
    found = Similarity(TARGET, SMALL)(numbers)
    np.testing.assert_allclose(found, [plain_similarity(row, TARGET, SMALL) for row in numbers], rtol=1e-12)
    assert found.min() > 0


@pytest.mark.parametrize("seed", range(12))
def test_its_gradient_is_that_of_autograd(seed: int) -> None:
    numbers = outputs(seed)[0]
    leaf = torch.from_numpy(numbers).requires_grad_()
    value = torch_similarity(leaf, TARGET, SMALL)
    value.backward()
    target = Similarity(TARGET, SMALL)
    assert leaf.grad is not None
    assert target(numbers[None])[0] == pytest.approx(value.item(), rel=1e-12)
    np.testing.assert_allclose(target.gradient(numbers), leaf.grad.numpy(), rtol=1e-9, atol=1e-14)
    assert np.flatnonzero(leaf.grad.numpy().reshape(9, -1).any(axis=0)).tolist() == [target.winner(numbers)]


def test_the_gradient_at_a_detections_own_proposal_is_in_its_objectness() -> None:
    numbers = outputs(5)[0]
    own = detect(numbers, SMALL, threshold=0)[0]
    target = Similarity(own, SMALL)
    assert target(numbers[None])[0] == pytest.approx(own.objectness, rel=1e-12)
    found = target.gradient(numbers)
    (place,) = np.flatnonzero(abs(found) > 1e-12)
    assert place == target.winner(numbers)  # the first of 9 planes is the objectness
    assert found[place] == pytest.approx(own.objectness * (1 - own.objectness), rel=1e-12)
    # As float32 has it, the box is off by a rounding error that must not choose the gradient.
    x0, y0, x1, y1 = own.box
    near = replace(own, box=(x0 + 1e-5, y0 - 1e-5, x1 - 1e-5, y1 + 1e-5))
    moved = Similarity(near, SMALL).gradient(numbers)
    np.testing.assert_allclose(moved, found, atol=1e-6)


def test_the_gradient_agrees_with_difference_quotients_even_at_the_peak() -> None:
    numbers = outputs(8)[0]
    for detection in (TARGET, detect(numbers, SMALL, threshold=0)[0]):
        target = Similarity(detection, SMALL)
        expected = targets.gradient(lambda rows, target=target: target(rows), numbers, "none")  # type: ignore[misc]
        np.testing.assert_allclose(targets.gradient(target, numbers, "none"), expected, atol=1e-4)


def test_a_box_that_no_proposal_touches() -> None:
    numbers = outputs(0, 2)
    # Beside all of them, at their height: then their edges are inner ones, yet nothing is covered by both.
    target = Similarity(replace(TARGET, box=(500.0, 9.0, 520.0, 47.0)), SMALL)
    assert target(numbers).tolist() == [0, 0]
    assert not target.gradient(numbers[0]).any()
    extreme = target(np.full((1, SMALL.outputs), -1e4))
    assert np.isfinite(extreme).all()


def test_detections_are_apart_and_sorted() -> None:
    numbers = outputs(1, 1, GRID)[0]
    found = detect(numbers, GRID, threshold=0.3, overlap=0.4)
    sure = [one.objectness for one in found]
    assert len(found) > 3
    assert sure == sorted(sure, reverse=True)
    assert sure[-1] >= 0.3
    boxes = np.array([one.box for one in found])
    assert max(iou(boxes[:index], boxes[index]).max() for index in range(1, len(boxes))) <= 0.4
    everything = decode(numbers[None], GRID)
    for box, objectness in zip(everything.boxes[0], everything.objectness[0], strict=True):
        assert objectness < 0.3 or iou(boxes, box).max() > 0.4 or (boxes == box).all(axis=1).any()


def test_the_network_is_trained_on_the_boxes_that_are_read() -> None:
    numbers = outputs(2, 3, GRID)
    head = torch.from_numpy(numbers).reshape(3, -1, GRID.cells, GRID.cells)
    expected = decoded_boxes(head).flatten(2).permute(0, 2, 1).numpy()
    np.testing.assert_allclose(decode(numbers, GRID).boxes, expected, rtol=1e-6)


def test_a_scene_is_the_same_every_time() -> None:
    np.testing.assert_array_equal(scene(4).image, scene(4).image)
    assert scene(4).image.shape == (SIZE, SIZE, 3)


def test_the_boxes_of_scenes_hold_their_defects_and_lie_apart() -> None:
    made = [scene(seed) for seed in range(12)]
    assert {0, 2, 3} <= {len(one.boxes) for one in made}
    for one in made:
        assert len(one.boxes) == len(one.labels) == len(one.masks)
        for box, mask in zip(one.boxes, one.masks, strict=True):
            rows, columns = np.nonzero(mask)
            assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        for a, b in combinations(one.boxes, 2):
            assert max(a[0] - b[2], b[0] - a[2], a[1] - b[3], b[1] - a[3]) > 8


@pytest.fixture(scope="module")
def net() -> Detector:
    return trained()


@pytest.fixture(scope="module")
def bundle(net: Detector, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return explain_boxes.export_detector(net, tmp_path_factory.mktemp("detector") / "detector.sightline")


@pytest.fixture(scope="module")
def picture() -> Picture:
    return scene(explain_boxes.SHOWN_SEED)


@pytest.fixture(scope="module")
def sise(bundle: Bundle) -> Iterator[Explainer]:
    with Explainer(bundle, batch_size=8) as explainer:
        yield explainer


@pytest.fixture(scope="module")
def found(sise: Explainer, picture: Picture) -> list[explain_boxes.Explained]:
    return explain_boxes.explained({"sise": sise}, picture)


def test_the_bundle_hands_the_head_on(net: Detector, sise: Explainer, picture: Picture) -> None:
    assert sise.bundle.classes == GRID.outputs
    ((row,),) = sise.classify([picture.image])
    with torch.inference_mode():
        head = net(normalised(torch.from_numpy(picture.image).permute(2, 0, 1)[None]))
    np.testing.assert_allclose(row, head.flatten().numpy(), atol=1e-4)


def test_every_box_is_found_and_its_map_lies_on_it(found: list[explain_boxes.Explained], picture: Picture) -> None:
    assert sorted(one.truth for one in found if one.truth is not None) == list(range(len(picture.boxes)))
    for one in found:
        map, true = one.maps["sise"], picture.boxes[one.truth]
        assert map.label == LABELS[one.detection.label]
        assert map.score == pytest.approx(one.detection.objectness, abs=1e-4)  # IoU and cosine with itself are 1
        assert np.isfinite(map.saliency).all()
        assert explain_boxes.points_into(map, true)
        assert explain_boxes.energy_in(map, true) > 3 * explain_boxes.region(true).mean()


def test_the_boxes_of_a_picture_share_their_passes(
    sise: Explainer, found: list[explain_boxes.Explained], picture: Picture
) -> None:
    alone = [sise(picture.image, Similarity(one.detection, GRID)) for one in found]
    assert len(found) > 1
    together = found[0].maps["sise"].passes
    assert max(map.passes for map in alone) <= together < sum(map.passes for map in alone)
    for one, map in zip(found, alone, strict=True):
        np.testing.assert_allclose(one.maps["sise"].saliency, map.saliency, atol=1e-4)


def test_its_own_gradient_and_difference_quotients_give_the_same_map(
    sise: Explainer, found: list[explain_boxes.Explained], picture: Picture
) -> None:
    target = Similarity(found[0].detection, GRID)
    quotients = sise(picture.image, lambda rows: target(rows))
    assert np.corrcoef(quotients.saliency.ravel(), found[0].maps["sise"].saliency.ravel())[0, 1] > 0.999


def test_random_masks_are_scored_once_for_all_boxes(
    bundle: Bundle, found: list[explain_boxes.Explained], picture: Picture
) -> None:
    counted: list[tuple[int, int]] = []
    method = RISE(passes=40, cells=8)
    wanted = tuple(Similarity(one.detection, GRID) for one in found)
    with Explainer(bundle, method, batch_size=8, progress=lambda *of: counted.append(of)) as rise:
        maps: list[Any] = rise(picture.image, wanted)
        alone = rise(picture.image, wanted[-1])
    assert counted[4] == (40, 40)
    assert [map.passes for map in maps] == [40] * len(found)
    np.testing.assert_allclose(maps[-1].saliency, alone.saliency, atol=1e-6)


def test_the_drawing(found: list[explain_boxes.Explained], picture: Picture, tmp_path: Path) -> None:
    drawn = explain_boxes.sheet(picture, found)
    explain_boxes.save(drawn, tmp_path / "boxes.png")
    assert [file.name for file in tmp_path.iterdir()] == ["boxes.png"]
    pixels = np.asarray(drawn)
    found_colour = (pixels == ImageColor.getrgb(explain_boxes.FOUND)).all(axis=-1)
    height, middle = drawn.height / len(found), drawn.width // 2
    rows = np.flatnonzero(found_colour[:, :middle].any(axis=1)) // height
    assert set(rows.astype(int)) == set(range(len(found)))  # the box in every row, beside the maps, too
    assert found_colour[:, middle:].any()


def test_the_figures(
    sise: Explainer, found: list[explain_boxes.Explained], picture: Picture, capsys: pytest.CaptureFixture[str]
) -> None:
    explain_boxes.evaluate({"sise": sise}, iter([picture]), 1)
    said = capsys.readouterr().out
    energies = [explain_boxes.energy_in(one.maps["sise"], picture.boxes[one.truth]) for one in found]
    assert f"{len(found)} boxes on 1 pictures" in said
    assert f"EBPG {100 * np.mean(energies):.1f} [" in said
    assert "pointing 100.0 [100.0, 100.0] %" in said
    assert f"{found[0].maps['sise'].passes} passes" in said


def test_the_share_in_its_own_box(found: list[explain_boxes.Explained]) -> None:
    saliency = np.zeros((SIZE, SIZE), np.float32)
    saliency[10:20, 10:20], saliency[50:60, 50:60], saliency[100:, 100:] = 0.9, 0.3, 1.0
    boxes = np.array([[10.0, 10, 20, 20], [50, 50, 60, 60]])
    map = replace(found[0].maps["sise"], saliency=saliency)
    assert [explain_boxes.own_share(map, boxes, own) for own in (0, 1)] == pytest.approx([0.75, 0.25])


def test_a_picture_without_a_detection(bundle: Bundle, sise: Explainer) -> None:
    clean = next(one for one in map(scene, range(10, 60)) if len(one.boxes) == 0)
    assert explain_boxes.explained({"sise": sise}, replace(clean, image=np.zeros_like(clean.image))) == []
    assert sightline.load(bundle.path).hash == bundle.hash
