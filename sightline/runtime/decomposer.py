"""Taking a decision apart, layer by layer, down to the first block.

A reconstruction of gAP (Cheng et al., "Deeply Explain CNN via Hierarchical Decomposition", IJCV 2023, arXiv 2201.09205)
from its abstract; docs/hierarchy.md says what was chosen. For a decision d (a class logit, or one unit of a block) and
the block below it with feature maps A: G = ∂d/∂A through that one stage, R = ReLU(G ⊙ A), the support of channel j is
Σ_q R_j[q]. The channels with the largest supports become decisions of the next level, at argmax_q R_j[q].
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sightline.bindings import available
from sightline.bundle import Bundle, load
from sightline.errors import HierarchyError, TargetError
from sightline.numeric import real, whole, whole_or_none
from sightline.runtime.hierarchy import Hierarchy
from sightline.runtime.image import ImageLike, prepare
from sightline.runtime.stage_engines import Seen, StageEngines
from sightline.runtime.stage_pass import Evidence, Place
from sightline.runtime.tree import DECISION, Edge, Node, Unit, levels, weighed
from sightline.runtime.units import Units

if TYPE_CHECKING:
    from sightline.runtime.explainer import Explainer

Floats = npt.NDArray[np.float32]
Progress = Callable[[int, int], None]
MAX_NODES = 1000

logger = logging.getLogger(__name__)


class Decomposer:
    """Takes decisions of one network apart. One at a time: give every thread a decomposer of its own."""

    def __init__(
        self,
        bundle: Bundle | Explainer | str | Path,
        engine: str = "auto",
        *,
        threads: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Open a bundle on an engine, in float32. Stages are opened when they are first needed, and kept.

        Args:
            bundle: a bundle, the path of one, or an explainer, whose bundle and engine are then used.
            engine: a name from ``sightline doctor``, or ``"auto"``.
            threads: how many CPU threads a pass may use; by default the engine decides.
            progress: called as ``progress(done, total)`` with the number of decisions taken apart, of those known.

        Raises:
            BundleError: the bundle cannot be read, or holds no stages.
            EngineError: there is no such engine, or it cannot open the bundle.
            MissingPackageError: the engine's package is not installed.
        """
        if isinstance(bundle, (str, Path)):
            self.bundle: Bundle = load(bundle)
        elif isinstance(bundle, Bundle):
            self.bundle = bundle
        else:
            self.bundle = bundle.bundle
            if engine == "auto" and bundle.engine in {entry.name for entry in available()}:  # not one of the caller's
                engine = bundle.engine
        self._progress = progress
        self._units = Units(self.bundle)
        self._engines = StageEngines(self.bundle, engine, threads)

    @property
    def engine(self) -> str:
        """Name of the engine that runs the stages."""
        return self._engines.name

    def __call__(
        self,
        image: ImageLike,
        target: int | str | None = None,
        *,
        unit: Unit | str | None = None,
        top_k: int = 4,
        depth: int | None = None,
        min_share: float = 0.02,
        max_nodes: int = MAX_NODES,
    ) -> Hierarchy:
        """Take one decision apart.

        Args:
            image: as for :class:`~sightline.Explainer`.
            target: index or label of the class; None for the one predicted.
            unit: take this unit apart instead of a class, e.g. ``Unit("layer3", 512, (7, 7))`` or ``"layer3:512:7,7"``.
            top_k: how many children a decision has at most.
            depth: how many blocks to walk down; None for all.
            min_share: children with a smaller share of their parent are left out, in [0, 1); the strongest one stays.
            max_nodes: where a level would bring more, those of the least path weight are left out.

        Raises:
            ImageError: the image cannot be explained.
            TargetError: there is no such class or unit.
            HierarchyError: a number is out of range, or the unit is one of the first block.
            EngineError: a pass failed, or the network answers with NaN.
        """
        settings = _checked(top_k, min_share, depth, max_nodes)
        if unit is not None and target is not None:
            raise TargetError("give a class (target) or a unit, not both.")
        chosen = None if target is None else self.bundle.target(target)
        if unit is not None:
            unit = Unit.parse(unit) if isinstance(unit, str) else unit
            self._units.index(unit)  # says at once where there is none
        began = time.perf_counter()
        spec = self.bundle.input
        seen = self._engines.look(prepare(image, spec).array)
        planes = seen.image if spec.layout == "NCHW" else np.moveaxis(seen.image, 2, 0)
        if unit is None:
            chosen = int(seen.logits.argmax()) if chosen is None else chosen
            value, whole = float(seen.logits[chosen]), (0, 0, spec.width, spec.height)
            root = Node(DECISION, 0, "decision", None, None, value, 1.0, None, whole, None)
        else:
            root = replace(self._node(seen, unit, 0, None), id=DECISION, path_weight=1.0)
        hierarchy = Hierarchy(
            label=self.bundle.label(chosen) if chosen is not None else str(unit),
            target=chosen,
            score=float(seen.probabilities[chosen]) if chosen is not None else None,
            picture=prepare(planes, spec).picture,
            levels=(),
            nodes=(root,),
            edges=(),
            settings=settings,
            provenance={"passes": 1, "pass_seconds": seen.seconds, "seconds": time.perf_counter() - began},
        )
        return self._walk(hierarchy, seen, root, settings["depth"], settings)

    def expand(
        self,
        hierarchy: Hierarchy,
        node: str | Unit,
        *,
        top_k: int | None = None,
        depth: int | None = 1,
        min_share: float | None = None,
        max_nodes: int | None = None,
    ) -> Hierarchy:
        """Walk on from one node: its children, and theirs down to ``depth``, are added to the hierarchy.

        Args:
            hierarchy: of the image that this decomposer has decomposed last. It stays as it is.
            node: the id of a node, or its unit.
            top_k, min_share, max_nodes: as for a call; by default those of the hierarchy.
            depth: how many blocks to walk down from the node; None for all.

        Raises:
            HierarchyError: there is no such node, it is of the first block, or the hierarchy is of another image.
        """
        given = {"top_k": top_k, "min_share": min_share, "max_nodes": max_nodes}
        settings = {**hierarchy.settings, **{name: value for name, value in given.items() if value is not None}}
        checked = _checked(**{**settings, "depth": depth})
        seen = self._engines.seen
        if seen is None or (hierarchy.provenance.get("image"), hierarchy.provenance.get("bundle")) != (
            seen.digest,
            self.bundle.hash,
        ):
            raise HierarchyError("this decomposer has seen another image last: decompose this image with it first.")
        settings = {**checked, "depth": hierarchy.settings["depth"]}
        return self._walk(hierarchy, seen, hierarchy[node], checked["depth"], settings)

    @property
    def features(self) -> tuple[Floats, ...]:
        """The feature maps of every block for the image decomposed last: C×h×w, on the host.

        Raises:
            HierarchyError: there was none yet.
        """
        if self._engines.seen is None:
            raise HierarchyError("this decomposer has seen no image yet.")
        return self._engines.seen.features

    def close(self) -> None:
        """Free the engines."""
        self._engines.close()

    def open_stages(self) -> None:
        """Open every stage now, which happens otherwise when it is first needed: the bundle's folder may go then.

        Raises:
            EngineError: the engine cannot open a stage.
        """
        for index in range(len(self.bundle.stages)):
            self._engines.stage(index)

    def __enter__(self) -> Decomposer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _walk(
        self, hierarchy: Hierarchy, seen: Seen, start: Node, depth: int | None, settings: Mapping[str, Any]
    ) -> Hierarchy:
        """Take a node apart, then its children, and so on, a whole level in one go."""
        began, engines = time.perf_counter(), self._engines
        passes, seconds = engines.passes, engines.seconds
        below = self._units.below(start)
        if below < 0:
            raise HierarchyError(f"{start.id} is a unit of the first block: there is nothing below it but the image.")
        last = 0 if depth is None else max(0, below - depth + 1)
        nodes = {node.id: node for node in hierarchy.nodes}
        edges = {(edge.parent, edge.child): edge for edge in hierarchy.edges}
        front, done, total = {start.id}, 0, 1
        for index in range(below, last - 1, -1):
            parents = [nodes[name] for name in nodes if name in front]
            places = [_place(parent, hierarchy.target) for parent in parents]
            fresh: dict[str, tuple[float, Node]] = {}
            for parent, evidence in zip(parents, engines.stage(index)(places, settings["top_k"]), strict=True):
                nodes[parent.id] = replace(parent, kept=0.0)  # reckoned from its edges, below
                for place, edge in enumerate(self._children(parent, index, evidence, settings["min_share"])):
                    edges[edge.parent, edge.child] = edge
                    weight = parent.path_weight * edge.share
                    if edge.child not in nodes and weight > fresh.get(edge.child, (-1.0,))[0]:
                        unit = Unit.parse(edge.child)
                        fresh[edge.child] = weight, self._node(seen, unit, parent.level + 1, evidence.maps[place])
                done += 1
                if self._progress is not None:
                    self._progress(done, total)
            nodes |= {name: node for name, (_, node) in fresh.items()}
            nodes = {node.id: node for node in weighed(nodes.values(), edges.values())[0]}
            nodes = _without_the_weakest(nodes, set(fresh), settings["max_nodes"])
            edges = {ends: edge for ends, edge in edges.items() if edge.child in nodes}
            front = {child for parent, child in edges if parent in front}
            total += len(front) if index > last else 0
            if not front:
                break
        ordered, linked = weighed(nodes.values(), edges.values())
        former = hierarchy.provenance
        return replace(
            hierarchy,
            nodes=ordered,
            edges=linked,
            levels=levels(ordered, self._units.shapes(hierarchy.root)),
            settings=settings,
            provenance={
                "bundle": self.bundle.hash,
                "engine": self.engine,
                "sightline": _version(),
                "image": seen.digest,
                "passes": former["passes"] + engines.passes - passes,
                "pass_seconds": former["pass_seconds"] + engines.seconds - seconds,
                "seconds": former["seconds"] + time.perf_counter() - began,
            },
        )

    def _children(self, parent: Node, index: int, evidence: Evidence, min_share: float) -> list[Edge]:
        """The edges to the units that support a decision, the strongest first."""
        block = self.bundle.blocks[index]
        edges: list[Edge] = []
        for channel, position, support in zip(evidence.channels, evidence.positions, evidence.supports, strict=True):
            share = min(support / evidence.total, 1.0)
            if edges and share < min_share:
                break
            edges.append(Edge(parent.id, str(Unit(block.name, channel, position)), share, support))
        return edges

    def _node(self, seen: Seen, unit: Unit, level: int, heatmap: Floats | None) -> Node:
        """Its path weight follows from the edges."""
        row, column = unit.position
        value = float(seen.features[self._units.index(unit)][unit.channel, row, column])
        box = self._units.box(unit)
        return Node(str(unit), level, unit.layer, unit.channel, unit.position, value, 0.0, None, box, heatmap)


def decompose(
    explainer_or_bundle: Explainer | Bundle | str | Path,
    image: ImageLike,
    target: int | str | None = None,
    top_k: int = 4,
    depth: int | None = None,
    min_share: float = 0.02,
    *,
    unit: Unit | str | None = None,
    engine: str = "auto",
) -> Hierarchy:
    """Take one decision of a network apart: which units carried it, layer by layer.

    Opens the engines, and closes them again; for several images or to walk on from a node, keep a :class:`Decomposer`.
    Arguments and errors are those of :class:`Decomposer` and of calling it.
    """
    with Decomposer(explainer_or_bundle, engine) as decomposer:
        return decomposer(image, target, unit=unit, top_k=top_k, depth=depth, min_share=min_share)


def _checked(top_k: int, min_share: float, depth: int | None, max_nodes: int) -> dict[str, Any]:
    if not 0 <= real(min_share) < 1:
        raise HierarchyError(
            f"min_share={min_share!r} is out of range: choose a number from 0 up to, not including, 1."
        )
    return {
        "top_k": whole("top_k", top_k, HierarchyError),
        "min_share": real(min_share),
        "depth": whole_or_none("depth", depth, HierarchyError),
        "max_nodes": whole("max_nodes", max_nodes, HierarchyError),
    }


def _place(node: Node, target: int | None) -> Place:
    """Where a decision stands in its tensor."""
    if node.unit is not None:
        return node.unit.channel, *node.unit.position
    assert target is not None  # a root without a unit is a class
    return (target,)


def _without_the_weakest(nodes: Mapping[str, Node], fresh: set[str], limit: int) -> dict[str, Node]:
    """Where there are more nodes than ``limit``, the new ones of the least path weight go."""
    surplus = max(0, len(nodes) - limit)
    dropped = set(sorted(fresh, key=lambda name: (nodes[name].path_weight, name))[:surplus])
    if dropped:
        logger.warning("%d units of the least path weight are left out: more than %d nodes", len(dropped), limit)
    return {name: node for name, node in nodes.items() if name not in dropped}


def _version() -> str:
    try:
        return metadata.version("sightline")
    except metadata.PackageNotFoundError:
        return "unknown"
