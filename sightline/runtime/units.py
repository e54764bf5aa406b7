"""Where the units of a bundle's blocks are, and which pixels they can depend on."""

from __future__ import annotations

from sightline.bundle import Block, Bundle
from sightline.errors import TargetError
from sightline.runtime.tree import Box, Node, Unit

Shape = tuple[int, int, int]


class Units:
    """The units of a bundle that has stages."""

    def __init__(self, bundle: Bundle) -> None:
        """Take a bundle.

        Raises:
            BundleError: it has no stages.
        """
        self._bundle = bundle
        self._stages = bundle.stages
        self._names = [block.name for block in bundle.blocks]

    def index(self, unit: Unit) -> int:
        """The index of a unit's block.

        Raises:
            TargetError: there is no such unit.
        """
        if unit.layer not in self._names:
            raise TargetError(f"there is no block {unit.layer!r}: this bundle has {', '.join(self._names)}.")
        block = self._bundle.blocks[self._names.index(unit.layer)]
        row, column = unit.position
        if not (0 <= unit.channel < block.channels and 0 <= row < block.height and 0 <= column < block.width):
            raise TargetError(
                f"there is no unit {unit}: block {block.name!r} has {block.channels} channels of "
                f"{block.height}×{block.width} positions, counted from 0."
            )
        return block.index

    def below(self, node: Node) -> int:
        """The index of the block under a node; −1 under the first block."""
        return (len(self._names) if node.unit is None else self.index(node.unit)) - 1

    def box(self, unit: Unit) -> Box:
        """Left, top, right, bottom: the pixels that a unit can depend on."""
        stage, spec = self._stages[self.index(unit)], self._bundle.input
        row, column = unit.position
        top, bottom = stage.rows.pixels(row, spec.height) if stage.rows else (0, spec.height)
        left, right = stage.columns.pixels(column, spec.width) if stage.columns else (0, spec.width)
        return left, top, right, bottom

    def shapes(self, root: Node) -> list[tuple[str, Shape]]:
        """Name, (channels, height, width) of the decision and of every block below it."""
        below = self._bundle.blocks[: self.below(root) + 1]
        decision = (self._bundle.classes, 1, 1)
        if root.unit is not None:
            decision = _shape(self._bundle.blocks[self.index(root.unit)])
        return [("decision", decision), *((block.name, _shape(block)) for block in reversed(below))]


def _shape(block: Block) -> Shape:
    return block.channels, block.height, block.width
