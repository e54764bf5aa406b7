"""What a hierarchy is made of: units, the edges between them, and levels; how their numbers follow from the edges."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from sightline.errors import TargetError

Floats = npt.NDArray[np.float32]
Box = tuple[int, int, int, int]
DECISION = "d"
"""The id of the root."""


@dataclass(frozen=True)
class Unit:
    """One unit of a block: channel k of its feature maps at (row, column)."""

    layer: str
    """Name of the block."""
    channel: int
    position: tuple[int, int]

    def __str__(self) -> str:
        return f"{self.layer}:{self.channel}:{self.position[0]},{self.position[1]}"

    @classmethod
    def parse(cls, text: str) -> Unit:
        """``layer3:512:7,7`` as a unit.

        Raises:
            TargetError: it is none.
        """
        try:
            layer, channel, position = text.rsplit(":", 2)
            row, column = position.split(",")
            return cls(layer, int(channel), (int(row), int(column)))
        except ValueError as error:
            raise TargetError(f"{text!r} is no unit: write BLOCK:CHANNEL:ROW,COLUMN, e.g. layer3:512:7,7.") from error


@dataclass(frozen=True, eq=False)
class Node:
    """A unit that supports the decision, or the decision itself."""

    id: str
    level: int
    """0: the decision."""
    layer: str
    """Name of the block; ``decision`` for a class."""
    channel: int | None
    position: tuple[int, int] | None
    value: float
    """The unit's activation; for a class, its logit."""
    path_weight: float
    """The part of the decision that reaches this node: over all paths, the product of their shares. In [0, 1]."""
    kept: float | None
    """The part of this node's own support that its children carry; None where it was not decomposed."""
    box: Box
    """Left, top, right, bottom: the pixels of the network's input that it can depend on."""
    heatmap: Floats | None = field(repr=False)
    """h×w, ReLU(G ⊙ A) of its channel for the parent that it carries most of; None for the decision."""

    @property
    def unit(self) -> Unit | None:
        """None for a class."""
        if self.channel is None or self.position is None:
            return None
        return Unit(self.layer, self.channel, self.position)


@dataclass(frozen=True)
class Edge:
    """What one unit contributes to one decision."""

    parent: str
    child: str
    share: float
    """The part of the parent's support that lies on the child's channel."""
    support: float
    """Σ ReLU(G ⊙ A) over the child's channel, in the parent's own unit."""


@dataclass(frozen=True)
class Level:
    """One block of the network, or the decision."""

    name: str
    channels: int
    height: int
    width: int
    kept: float | None
    """The part of the support of this level's nodes that their children carry; None where none was decomposed."""
    mass: float
    """The part of the decision that reaches this level: the sum of the path weights."""
    nodes: int


def weighed(nodes: Iterable[Node], edges: Iterable[Edge]) -> tuple[tuple[Node, ...], tuple[Edge, ...]]:
    """Nodes and edges in order, with their path weights and what their children carry.

    Args:
        nodes: their ``path_weight`` is not read; ``kept`` tells only whether a node was decomposed.
        edges: each from one level to the next.
    """
    below: dict[str, list[Edge]] = defaultdict(list)
    for edge in edges:
        below[edge.parent].append(edge)
    weights: dict[str, float] = defaultdict(float, {DECISION: 1.0})
    done: list[Node] = []
    ordered: list[Edge] = []
    levels: dict[int, list[Node]] = defaultdict(list)
    for node in nodes:
        levels[node.level].append(node)
    for level in sorted(levels):
        for node in sorted(levels[level], key=lambda node: (-weights[node.id], node.id)):
            children = sorted(below[node.id], key=lambda edge: (-edge.share, edge.child))
            kept = None if node.kept is None else min(sum(edge.share for edge in children), 1.0)
            done.append(replace(node, path_weight=min(weights[node.id], 1.0), kept=kept))
            for edge in children:
                weights[edge.child] += weights[node.id] * edge.share
            ordered += children
    return tuple(done), tuple(ordered)


def levels(nodes: Sequence[Node], shapes: Sequence[tuple[str, tuple[int, int, int]]]) -> tuple[Level, ...]:
    """What reaches every level that has nodes, and how much of it those nodes' children carry.

    Args:
        nodes: weighed.
        shapes: name, channels, height and width of every level, the decision first.
    """
    found = []
    for number in range(max(node.level for node in nodes) + 1):
        here = [node for node in nodes if node.level == number]
        decomposed = [(node.path_weight, node.kept) for node in here if node.kept is not None]
        weight = sum(part for part, _ in decomposed)
        kept = min(sum(part * share for part, share in decomposed) / weight, 1.0) if weight > 0 else None
        name, (channels, height, width) = shapes[number]
        mass = min(sum(node.path_weight for node in here), 1.0)
        found.append(Level(name, channels, height, width, kept, mass, len(here)))
    return tuple(found)
