"""Boxes and masks of the original image, on the network's grid."""

from __future__ import annotations

import json
import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from sightline.bundle import ImageInput
from sightline.errors import AnnotationError
from sightline.metrics import Annotation, Box, annotation_of, boxes_mask, read_annotations, region_on_grid
from sightline.runtime.image import prepare


def test_a_pixel_belongs_to_a_box_if_its_centre_does() -> None:
    boxes = [Box(0.4, 1.5, 3.5, 2.6), Box(5, 0, 9, 1)]
    expected = np.zeros((4, 7), np.bool_)
    for row in range(4):
        for column in range(7):
            x, y = Fraction(2 * column + 1, 2), Fraction(2 * row + 1, 2)
            expected[row, column] = any(b.left <= x < b.right and b.top <= y < b.bottom for b in boxes)
    np.testing.assert_array_equal(boxes_mask(boxes, (7, 4)), expected)
    assert expected.sum() == 2 * 3 + 2  # the second box is cut off at the image's edge


@pytest.mark.parametrize(
    "edges", [(3, 1, 3, 2), (3, 1, 2, 2), (0, 2, 1, 1), (float("nan"), 0, 1, 1), (0, 0, float("inf"), 1)]
)
def test_boxes_without_area(edges: tuple[float, float, float, float]) -> None:
    with pytest.raises(AnnotationError, match="no area"):
        Box(*edges)


@pytest.mark.parametrize("edges", [(7, 0, 9, 1), (-5, 0, 0, 1), (0, 4, 1, 9), (0.6, 0, 1.4, 1)])
def test_boxes_that_hold_no_pixel(edges: tuple[float, float, float, float]) -> None:
    with pytest.raises(AnnotationError, match=r"7×4"):
        boxes_mask([Box(*edges)], (7, 4))


@pytest.mark.parametrize("size", [(24, 20), (60, 37), (24, 90), (10, 8)])
def test_a_region_goes_where_the_image_goes(size: tuple[int, int]) -> None:
    """A picture that is white inside the region and black outside, as the network sees it."""
    mask = boxes_mask([Box(0.3 * size[0], 0.2 * size[1], 0.8 * size[0], 0.7 * size[1])], size)
    picture = Image.fromarray(np.where(mask, 255, 0).astype(np.uint8))
    seen = prepare(picture, ImageInput("x", 1, 20, 24, colour="GRAY")).array[0]
    region = region_on_grid(mask, (24, 20))
    assert region.shape == (20, 24)
    decided = np.abs(seen - 0.5) > 0.01  # Pillow rounds pictures of 8 bits
    assert decided.mean() > 0.9
    np.testing.assert_array_equal(region[decided], seen[decided] > 0.5)


def test_the_same_size_changes_nothing() -> None:
    mask = np.random.default_rng(0).random((9, 11)) < 0.3
    np.testing.assert_array_equal(region_on_grid(mask, (11, 9)), mask)


def test_a_thin_region_does_not_vanish() -> None:
    mask = np.zeros((1000, 1000), np.bool_)
    mask[:, 480] = True
    region = region_on_grid(mask, (50, 50))
    columns = np.flatnonzero(region.any(axis=0))
    assert region[:, columns].all()
    assert 1 <= len(columns) <= 2
    assert 24 in columns or 23 in columns


@pytest.mark.parametrize(
    ("mask", "said"),
    [(np.zeros((3, 3), np.bool_), "empty"), (np.ones((3, 3)), "float64"), (np.ones(3, np.bool_), "not H×W")],
)
def test_masks_that_are_none(mask: npt.NDArray[np.generic], said: str) -> None:
    with pytest.raises(AnnotationError, match=said):
        region_on_grid(mask, (2, 2))


PLAIN = {
    "a.jpg": {
        "class": "crack",
        "boxes": [{"class": "crack", "xyxy": [1, 2, 3, 4]}, {"class": "pit", "xyxy": [0, 0, 0, 0]}],
    },
    "b.jpg": {"boxes": [{"xyxy": [0, 1, 4, 1]}]},
    "c.jpg": {"class": "good"},
}
COCO = {
    "images": [{"id": 7, "file_name": "part/a.jpg"}, {"id": 8, "file_name": "b.jpg"}],
    "annotations": [
        {"image_id": 7, "category_id": 2, "bbox": [0, 0, 2, 2]},
        {"image_id": 7, "category_id": 2, "bbox": [1, 2, 3, 1.5]},
        {"image_id": 7, "category_id": 1, "bbox": [4, 4, 3, 2]},
    ],
    "categories": [{"id": 1, "name": "pit"}, {"id": 2, "name": "crack"}],
}


def _written(folder: Path, content: object) -> Path:
    path = folder / "boxes.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_plain_boxes(tmp_path: Path) -> None:
    found = read_annotations(_written(tmp_path, PLAIN))
    assert found["a.jpg"] == Annotation("crack", (Box(1, 2, 4, 5, "crack"), Box(0, 0, 1, 1, "pit")))
    crack = found["a.jpg"].region((6, 6), "crack")
    pit = found["a.jpg"].region((6, 6), "pit")
    both = found["a.jpg"].region((6, 6))
    assert crack is not None
    assert pit is not None
    assert both is not None
    assert np.argwhere(crack).min(axis=0).tolist() == [2, 1]
    assert np.argwhere(crack).max(axis=0).tolist() == [4, 3]  # the far edge included
    assert (crack.sum(), pit.sum(), both.sum()) == (9, 1, 10)
    assert found["a.jpg"].region((6, 6), "stain") is None
    nameless = found["b.jpg"].region((6, 6), "crack")  # a box without a class is of any class
    assert nameless is not None
    assert nameless.sum() == 5
    assert found["c.jpg"] == Annotation("good")
    assert found["c.jpg"].region((6, 6), "good") is None


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps(PLAIN), encoding="utf-8-sig")
    assert read_annotations(path).keys() == PLAIN.keys()


def test_coco(tmp_path: Path) -> None:
    found = read_annotations(_written(tmp_path, COCO))
    assert found["part/a.jpg"].label == "crack"  # 4 + 4.5 of area against 6
    assert found["part/a.jpg"].boxes[1] == Box(1, 2, 4, 3.5, "crack")
    assert found["b.jpg"] == Annotation()
    assert annotation_of(found, Path("/somewhere/part/a.jpg")) is found["part/a.jpg"]
    assert annotation_of(found, Path("/elsewhere/a.jpg")) is None
    assert annotation_of(found, Path("/elsewhere/b.jpg")) is found["b.jpg"]


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGB", "I;16"])
def test_masks(mode: str, tmp_path: Path) -> None:
    inside = np.zeros((5, 7), np.uint8)
    inside[1:3, 2:6] = 1
    if mode == "P":
        picture = Image.fromarray(inside, "P")
        picture.putpalette([0, 0, 0] * 256)  # the colour is not what counts
    elif mode == "I;16":
        picture = Image.fromarray(inside.astype(np.uint16) * 300)
    else:
        picture = Image.fromarray(inside * 255).convert(mode)
    picture.save(tmp_path / "part.png")
    (tmp_path / "readme.txt").write_text("no mask")
    found = read_annotations(tmp_path)
    annotation = annotation_of(found, Path("images/part.jpg"))
    assert annotation is not None
    region = annotation.region((7, 5), "anything")
    assert region is not None
    np.testing.assert_array_equal(region, inside > 0)
    with pytest.raises(AnnotationError, match=r"7×5 pixels, its image 5×7"):
        annotation.region((5, 7))


def test_masks_that_cannot_be_used(tmp_path: Path) -> None:
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("no picture")
    found = read_annotations(tmp_path)
    for stem, said in (("a", "a.png is empty"), ("b", "b.png cannot be read")):
        with pytest.raises(AnnotationError, match=said):
            found[stem].region((4, 4))
    Image.new("L", (4, 4)).save(tmp_path / "a.bmp")
    with pytest.raises(AnnotationError, match="two masks for 'a'"):
        read_annotations(tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("no json", "is no JSON"),
        ("[" * 200_000, "nested too deeply"),
        ([1, 2], "neither COCO's format"),
        ({"a": 3}, "neither COCO's format"),
        ({"a.jpg": {"boxes": [{"xyxy": [1, 2, 3]}]}}, "neither COCO's format"),
        ({"a.jpg": {"boxes": [{"xyxy": [3, 2, 1, 4]}]}}, "no area"),
        ({"images": [], "annotations": [{"image_id": 1}]}, "neither COCO's format"),
        ({}, "holds no annotation"),
    ],
)
def test_files_that_are_no_annotations(content: object, said: str, tmp_path: Path) -> None:
    path = _written(tmp_path, content)
    with pytest.raises(AnnotationError, match=f"{re.escape(str(path))}.*{said}"):
        read_annotations(path)


def test_annotations_that_do_not_exist(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match=r"missing\.json"):
        read_annotations(tmp_path / "missing.json")
    with pytest.raises(AnnotationError, match="no pictures"):
        read_annotations(tmp_path)
