"""The target of D-RISE: how much of one detection is left behind a mask (Petsiuk et al., CVPR 2021, arXiv 2006.03204).

A detector does not score a box that it is asked about; it proposes boxes of its own. So D-RISE compares: the similarity
of the detection d to a proposal p is IoU(d, p) × cosine(classes of d, classes of p) × objectness of p, and the score
of a masked image is the largest similarity to any of its proposals (§3.2). Here it is a callable on the flattened
outputs, which ``explainer(image, target=…)`` takes whatever the method.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from boxes import REACH, Detection, Doubles, Grid, cells, decode, iou, sigmoid

SLACK = 0.5
"""Pixels by which an edge may miss the target's and still count as hitting it, where the gradient is taken."""


@dataclass(frozen=True)
class Similarity:
    """The similarity of one detection to the best of an image's proposals, in [0, 1)."""

    detection: Detection
    grid: Grid
    name: str = "similarity"
    """What captions call it."""

    @property
    def __name__(self) -> str:
        return self.name

    def __call__(self, outputs: Doubles) -> Doubles:
        """Flattened outputs, N×K -> N similarities."""
        overlap, cosine, objectness = self._parts(outputs)
        return np.asarray((overlap * cosine * objectness).max(axis=1))

    def winner(self, outputs: Doubles) -> int:
        """Which proposal of one image's outputs, K, is the most similar one."""
        overlap, cosine, objectness = self._parts(outputs[None])
        return int((overlap * cosine * objectness).argmax())

    def gradient(self, outputs: Doubles) -> Doubles:
        """∂similarity/∂outputs at one image's outputs: K -> K.

        That of the winning proposal: a maximum moves with the largest term, and where two tie either is a subgradient.
        Where an edge of the winner hits the target's (within ``SLACK``), IoU has a peak: it falls in either direction,
        the derivative a step aside is a matter of rounding, and 0 is the subgradient taken. So a detection compared
        with its own proposal has a gradient in its objectness alone.
        """
        overlap, cosine, objectness = (part[0] for part in self._parts(outputs[None]))
        best = int((overlap * cosine * objectness).argmax())
        proposals = decode(outputs[None], self.grid)
        classes = proposals.classes[0, best]
        found = np.zeros((self.grid.cells**2, 5 + self.grid.classes))
        found[best, 0] = overlap[best] * cosine[best] * objectness[best] * (1 - objectness[best])

        numbers = cells(outputs[None], self.grid)[0, best, 1:5]
        slope = sigmoid(numbers) * (1 - sigmoid(numbers))
        low, high = np.split(self._by_edges(proposals.boxes[0, best]), 2)
        step = REACH * self.grid.size / self.grid.cells
        moved = np.concatenate([(low + high) * 2 * step, (high - low) * self.grid.size / 2])
        found[best, 1:5] = cosine[best] * objectness[best] * slope * moved

        length = np.linalg.norm(classes)
        turned = self._direction / length - cosine[best] * classes / length**2
        # Softmax adds −classes·turned, which is 0: the cosine does not depend on the length of the classes.
        found[best, 5:] = overlap[best] * objectness[best] * classes * turned
        return np.asarray(found.T.ravel())

    @cached_property
    def _direction(self) -> Doubles:
        """The classes of the detection, of length 1."""
        classes = np.array(self.detection.classes, np.float64)
        return np.asarray(classes / np.linalg.norm(classes))

    def _parts(self, outputs: Doubles) -> tuple[Doubles, Doubles, Doubles]:
        """The three factors for every proposal, N×P each."""
        proposals = decode(outputs, self.grid)
        cosine = proposals.classes @ self._direction / np.linalg.norm(proposals.classes, axis=-1)
        return iou(proposals.boxes, self.detection.box), cosine, proposals.objectness

    def _by_edges(self, box: Doubles) -> Doubles:
        """∂IoU/∂(x0, y0, x1, y1) of a box."""
        target = np.array(self.detection.box)
        low, high = np.maximum(box[:2], target[:2]), np.minimum(box[2:], target[2:])
        sides, widths = np.maximum(high - low, 0), box[2:] - box[:2]
        both = sides.prod()
        union = widths.prod() + (target[2:] - target[:2]).prod() - both
        # An edge moves what both cover only where it is the inner one.
        inner = np.concatenate([-1.0 * (box[:2] > target[:2]), 1.0 * (box[2:] < target[2:])])
        inner *= np.tile(sides[::-1], 2) * (both > 0)
        outer = np.array([-1, -1, 1, 1]) * np.tile(widths[::-1], 2)
        slopes = (inner * (union + both) - both * outer) / union**2
        return np.where(abs(box - target) <= SLACK, 0.0, slopes)
