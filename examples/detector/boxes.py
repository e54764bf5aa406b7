"""What the detector's outputs mean: proposals, one per cell of a grid, and the detections among them.

The network's head is (5 + C)×G×G: in every cell the logit of objectness, four numbers of a box, and the logits of C
classes. A bundle of activation ``none`` hands it on flattened, so everything here takes N×K, K = (5 + C)·G·G.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]

REACH = 1.5
"""How far from the middle of its cell, in cells, the middle of a box may lie."""


@dataclass(frozen=True)
class Grid:
    """The shape of a head: ``size`` pixels square, G×G cells, C classes."""

    size: int
    cells: int
    classes: int

    @property
    def outputs(self) -> int:
        """K, the numbers in the head."""
        return (5 + self.classes) * self.cells**2


@dataclass(frozen=True, eq=False)
class Proposals:
    """Every cell's suggestion, P = G·G of them for each of N images."""

    boxes: Doubles
    """N×P×4: x0, y0, x1, y1 in pixels of the network's input; they may reach beyond the image."""
    objectness: Doubles
    """N×P in (0, 1)."""
    classes: Doubles
    """N×P×C, each a distribution."""


@dataclass(frozen=True)
class Detection:
    """One box that is to be explained. Its numbers are plain so that it may be written down anywhere."""

    box: tuple[float, float, float, float]
    """x0, y0, x1, y1 in pixels of the network's input."""
    classes: tuple[float, ...]
    """The distribution over the classes; one-hot for a box that a person drew."""
    objectness: float = 1.0

    @property
    def label(self) -> int:
        """The index of the likeliest class."""
        return int(np.argmax(self.classes))


def sigmoid(z: Doubles) -> Doubles:
    """1 / (1 + e^−z) without overflow."""
    return np.asarray(np.exp(-np.logaddexp(0, -z)))


def softmax(z: Doubles) -> Doubles:
    """Over the last axis."""
    powers = np.exp(z - z.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def cells(outputs: Doubles, grid: Grid) -> Doubles:
    """N×K -> N×P×(5 + C): what the head says of each cell, cells in reading order."""
    return np.asarray(outputs.reshape(len(outputs), 5 + grid.classes, grid.cells**2).transpose(0, 2, 1))


def middles(grid: Grid) -> Doubles:
    """P×2: x, y of the middle of every cell, in pixels."""
    axis = (np.arange(grid.cells) + 0.5) * grid.size / grid.cells
    x, y = np.meshgrid(axis, axis)
    return np.stack([x.ravel(), y.ravel()], axis=1)


def decode(outputs: Doubles, grid: Grid) -> Proposals:
    """The proposals in flattened outputs, N×K.

    The middle of a box is that of its cell plus (2σ(t) − 1)·REACH cells, its width and height are σ(t)·size.
    """
    head = cells(np.asarray(outputs, np.float64), grid)
    step = REACH * grid.size / grid.cells
    middle = middles(grid) + (2 * sigmoid(head[..., 1:3]) - 1) * step
    half = sigmoid(head[..., 3:5]) * grid.size / 2
    return Proposals(
        boxes=np.concatenate([middle - half, middle + half], axis=-1),
        objectness=sigmoid(head[..., 0]),
        classes=softmax(head[..., 5:]),
    )


def iou(boxes: Doubles, box: npt.ArrayLike) -> Doubles:
    """…×4 and 4 -> …: the share of their union that both cover."""
    other = np.asarray(box, np.float64)
    sides = np.minimum(boxes[..., 2:], other[2:]) - np.maximum(boxes[..., :2], other[:2])
    both = np.maximum(sides, 0).prod(axis=-1)
    areas = (boxes[..., 2:] - boxes[..., :2]).prod(axis=-1) + (other[2:] - other[:2]).prod()
    return np.asarray(both / (areas - both))


def detect(outputs: Doubles, grid: Grid, threshold: float = 0.5, overlap: float = 0.4) -> list[Detection]:
    """The detections in one image's outputs, K, the surest first.

    Args:
        outputs: flattened.
        grid: its shape.
        threshold: the objectness below which a proposal is none.
        overlap: of two boxes whose IoU exceeds this, the surer one stays, whatever their classes.
    """
    found = decode(outputs[None], grid)
    boxes, objectness, classes = found.boxes[0], found.objectness[0], found.classes[0]
    kept: list[int] = []
    for index in np.argsort(-objectness, kind="stable").tolist():
        if objectness[index] < threshold:
            break
        if not kept or iou(boxes[kept], boxes[index]).max() <= overlap:
            kept.append(index)
    return [
        Detection(
            (float(boxes[i, 0]), float(boxes[i, 1]), float(boxes[i, 2]), float(boxes[i, 3])),
            tuple(classes[i].tolist()),
            float(objectness[i]),
        )
        for i in kept
    ]
