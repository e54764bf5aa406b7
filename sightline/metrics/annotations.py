"""The truth about images, read from files: boxes in JSON (plain or COCO's), or a folder of masks."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sightline.errors import AnnotationError
from sightline.metrics.ranking import Mask
from sightline.metrics.truth import Box, boxes_mask


@dataclass(frozen=True)
class Annotation:
    """What is known about one image."""

    label: str | None = None
    """The class that the image is of; None where the annotations do not name one."""
    boxes: tuple[Box, ...] = ()
    mask: Path | None = None
    """A picture of the image's size, above 0 where the object is."""

    def region(self, size: tuple[int, int], label: str | None = None) -> Mask | None:
        """Where the object is: H×W booleans at the original image's size; None where nothing of the class is annotated.

        Args:
            size: (width, height) of the upright original image.
            label: boxes of other classes do not count; None for the boxes of all.

        Raises:
            AnnotationError: a box lies outside of the image, or the mask cannot be read or has another size.
        """
        if self.mask is not None:
            return _read_mask(self.mask, size)
        boxes = [box for box in self.boxes if label is None or box.label in (None, label)]
        return boxes_mask(boxes, size) if boxes else None


def read_annotations(path: Path) -> dict[str, Annotation]:
    """Read what is known about images, by their names.

    - A **folder** of masks: every picture in it is the mask of the image with its stem (``a.png`` of ``a.jpg``), above
      0 where the object is. The keys are stems.
    - **COCO** (``images``, ``annotations``, ``categories``): boxes ``[x, y, width, height]``; polygons and run lengths
      are not read. The image is of the category whose boxes have the largest area together. The keys are file names.
    - **Plain JSON**: ``{"a.jpg": {"class": "crack", "boxes": [{"class": "crack", "xyxy": [x0, y0, x1, y1]}]}}`` in
      whole pixels, the far edge included. Both classes may be left out. The keys are file names.

    Raises:
        AnnotationError: the file cannot be read, or is none of these.
    """
    if path.is_dir():
        return _read_masks(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise AnnotationError(f"{path} cannot be read ({error.strerror or error}): check the path.") from error
    except ValueError as error:
        raise AnnotationError(f"{path} is no JSON ({error}): pass boxes as JSON, or a folder of masks.") from error
    except RecursionError as error:
        raise AnnotationError(f"{path} is nested too deeply for annotations: see docs/evaluation.md.") from error
    try:
        if isinstance(content, dict) and "images" in content and "annotations" in content:
            found = _from_coco(content)
        else:
            found = {str(name): _from_plain(entry) for name, entry in content.items()}
    except AnnotationError as error:
        raise AnnotationError(f"{path}: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise AnnotationError(
            f"{path} is neither COCO's format nor a JSON object of images with their boxes "
            f"({type(error).__name__}: {error}): see docs/evaluation.md."
        ) from error
    if not found:
        raise AnnotationError(f"{path} holds no annotation.")
    return found


def annotation_of(annotations: Mapping[str, Annotation], path: Path) -> Annotation | None:
    """What is known about the image at a path: by its name, with as many folders as a key has, or by its stem."""
    parts = path.parts
    keys = ["/".join(parts[start:]) for start in range(len(parts))]
    return next((annotations[key] for key in (*keys, path.stem) if key in annotations), None)


def _from_plain(entry: Mapping[str, Any]) -> Annotation:
    label = entry.get("class")
    boxes = []
    for box in entry.get("boxes", ()):
        left, top, right, bottom = map(float, box["xyxy"])
        boxes.append(Box(left, top, right + 1, bottom + 1, _text(box.get("class"))))
    return Annotation(_text(label), tuple(boxes))


def _from_coco(content: Mapping[str, Any]) -> dict[str, Annotation]:
    names = {category["id"]: str(category["name"]) for category in content.get("categories", ())}
    boxes: defaultdict[Any, list[Box]] = defaultdict(list)
    for entry in content["annotations"]:
        left, top, width, height = map(float, entry["bbox"])
        boxes[entry["image_id"]].append(
            Box(left, top, left + width, top + height, names.get(entry["category_id"], _text(entry["category_id"])))
        )
    return {str(image["file_name"]): _of_largest(boxes[image["id"]]) for image in content["images"]}


def _of_largest(boxes: Sequence[Box]) -> Annotation:
    areas: defaultdict[str | None, float] = defaultdict(float)
    for box in boxes:
        areas[box.label] += (box.right - box.left) * (box.bottom - box.top)
    return Annotation(max(areas, key=lambda label: areas[label], default=None), tuple(boxes))


def _read_masks(folder: Path) -> dict[str, Annotation]:
    suffixes = Image.registered_extensions()
    masks = sorted(path for path in folder.iterdir() if path.suffix.lower() in suffixes)
    if not masks:
        raise AnnotationError(f"{folder} holds no pictures: masks are expected, named as the images are.")
    found: dict[str, Annotation] = {}
    for path in masks:
        if path.stem in found:
            raise AnnotationError(f"{folder} holds two masks for {path.stem!r}: remove one.")
        found[path.stem] = Annotation(mask=path)
    return found


def _read_mask(path: Path, size: tuple[int, int]) -> Mask:
    try:
        with Image.open(path) as picture:
            # Palette images hold class numbers: what counts is the number, not its colour.
            values = np.asarray(picture if picture.mode in ("1", "L", "P", "I", "I;16", "F") else picture.convert("L"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise AnnotationError(f"the mask {path} cannot be read ({error}).") from error
    if values.shape != (size[1], size[0]):
        raise AnnotationError(
            f"the mask {path.name} has {values.shape[1]}×{values.shape[0]} pixels, its image {size[0]}×{size[1]}: they "
            "must be the same."
        )
    inside = values > 0
    if not inside.any():
        raise AnnotationError(f"the mask {path.name} is empty: remove it if nothing is to be found in this image.")
    return inside


def _text(value: object) -> str | None:
    return None if value is None else str(value)
