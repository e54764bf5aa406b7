"""A decision taken apart: which units carried it, layer by layer, and how much of it (docs/hierarchy.md)."""

from __future__ import annotations

import base64
import io
import json
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from sightline.errors import HierarchyError, MissingPackageError, SaveError
from sightline.runtime import rendering
from sightline.runtime.saving import save
from sightline.runtime.tree import Edge, Level, Node, Unit

if TYPE_CHECKING:
    import networkx

Floats = npt.NDArray[np.float32]

SCHEMA, KIND = 1, "sightline.hierarchy"
FINEST = 64
"""Heatmaps with a longer side are made coarser where they are written as JSON."""


@dataclass(frozen=True, eq=False)
class Hierarchy:
    """A decision and the units that carried it, from the deepest block to the shallowest. Every number is finite."""

    label: str
    """Of the class, or the unit."""
    target: int | None
    """Index of the class; None for a unit."""
    score: float | None
    """p_c; None for a unit."""
    picture: Image.Image = field(repr=False)
    """The image as the network saw it: RGB, of the network's width and height."""
    levels: tuple[Level, ...]
    nodes: tuple[Node, ...] = field(repr=False)
    """Level by level, within a level by falling path weight."""
    edges: tuple[Edge, ...] = field(repr=False)
    settings: Mapping[str, Any]
    provenance: Mapping[str, Any]

    @cached_property
    def _by_id(self) -> Mapping[str, Node]:
        of_root = {} if self.root.unit is None else {str(self.root.unit): self.root}
        return of_root | {node.id: node for node in self.nodes}

    @cached_property
    def _below(self) -> Mapping[str, tuple[Edge, ...]]:
        below: dict[str, list[Edge]] = defaultdict(list)
        for edge in self.edges:
            below[edge.parent].append(edge)
        return {parent: tuple(edges) for parent, edges in below.items()}

    @property
    def root(self) -> Node:
        """The decision."""
        return self.nodes[0]

    def __getitem__(self, node: str | Unit) -> Node:
        """A node by its id (``layer3:512:7,7``; ``d`` is the decision) or its unit.

        Raises:
            HierarchyError: there is no such node.
        """
        if str(node) not in self._by_id:
            raise HierarchyError(f"there is no node {str(node)!r} in this hierarchy of {len(self.nodes)} nodes.")
        return self._by_id[str(node)]

    def below(self, node: str | Node) -> tuple[Edge, ...]:
        """The edges to the children of a node, the largest share first."""
        return self._below.get(node.id if isinstance(node, Node) else node, ())

    def crop(self, node: str | Node) -> Image.Image:
        """The part of the picture that a node can depend on."""
        return self.picture.crop((node if isinstance(node, Node) else self[node]).box)

    def lines(self, limit: int | None = None) -> Iterator[str]:
        """The tree as lines of text, at most ``limit`` of them, depth first. A unit with two parents shows twice."""
        count = 0
        stack: list[tuple[Node, Edge | None, str, str]] = [(self.root, None, "", "")]
        while stack:
            if limit is not None and count == limit:
                yield "…"
                return
            node, edge, stem, branch = stack.pop()
            said = self.label if edge is None else f"{edge.share:4.0%}  {node.id}"
            kept = "" if node.kept is None else f", children carry {node.kept:.0%}"
            yield f"{stem}{branch}{said}  ({node.value:.3g}{kept})"
            count += 1
            below = self.below(node)
            inner = stem + {"": "", "├─ ": "│  ", "└─ ": "   "}[branch]
            for place, child in reversed(list(enumerate(below))):
                stack.append((self[child.child], child, inner, "└─ " if place == len(below) - 1 else "├─ "))

    def document(self) -> dict[str, Any]:
        """Everything as types that JSON knows; heatmaps in 8 bits, at most 64 wide or high."""
        return {
            "schema": SCHEMA,
            "kind": KIND,
            "label": self.label,
            "target": self.target,
            "score": self.score,
            "image": {"width": self.picture.width, "height": self.picture.height, "png": _png(self.picture)},
            "levels": [vars(level) for level in self.levels],
            "nodes": [_node_document(node) for node in self.nodes],
            "edges": [vars(edge) for edge in self.edges],
            "settings": dict(self.settings),
            "provenance": dict(self.provenance),
        }

    def to_json(self) -> str:
        """:meth:`document` as text."""
        return json.dumps(self.document(), ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Hierarchy:
        """Read what :meth:`to_json` wrote.

        Raises:
            HierarchyError: it is no hierarchy, or one of another schema.
        """
        try:
            document = json.loads(text)
            if (document["kind"], document["schema"]) != (KIND, SCHEMA):
                raise HierarchyError(
                    f"this is a {document['kind']} of schema {document['schema']}; this Sightline reads {KIND} of "
                    f"schema {SCHEMA}."
                )
            nodes = tuple(_node(entry) for entry in document["nodes"])
            return cls(
                label=str(document["label"]),
                target=document["target"],
                score=document["score"],
                picture=_picture(document["image"]["png"]),
                levels=tuple(Level(**entry) for entry in document["levels"]),
                nodes=nodes,
                edges=tuple(Edge(**entry) for entry in document["edges"]),
                settings=document["settings"],
                provenance=document["provenance"],
            )
        except (KeyError, TypeError, ValueError, AttributeError, OSError, IndexError) as error:
            if isinstance(error, HierarchyError):
                raise
            raise HierarchyError(f"this is no hierarchy ({error!r}): decompose the image again.") from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the hierarchy as JSON, under a temporary name which is then renamed.

        Raises:
            SaveError: a suffix other than ``.json``, or the file cannot be written.
        """
        path = Path(path)
        if path.suffix.lower() != ".json":
            raise SaveError(f"{path.name!r} is not named like JSON: use .json (for a page: sightline decompose -o).")
        save(path, self.to_json())

    def to_networkx(self) -> networkx.DiGraph[str]:
        """A directed graph from the decision downwards, with everything that nodes and edges hold as attributes.

        Raises:
            MissingPackageError: networkx is not installed.
        """
        try:
            import networkx
        except ImportError as error:
            raise MissingPackageError("networkx", purpose="Hierarchy.to_networkx", extra="graph") from error
        graph: networkx.DiGraph[str] = networkx.DiGraph(label=self.label, score=self.score, **self.settings)
        for node in self.nodes:
            graph.add_node(node.id, **{name: value for name, value in vars(node).items() if name != "id"})
        for edge in self.edges:
            graph.add_edge(edge.parent, edge.child, share=edge.share, support=edge.support)
        return graph


def _node_document(node: Node) -> dict[str, Any]:
    return {
        "id": node.id,
        "level": node.level,
        "layer": node.layer,
        "channel": node.channel,
        "position": None if node.position is None else list(node.position),
        "value": node.value,
        "path_weight": node.path_weight,
        "kept": node.kept,
        "box": list(node.box),
        "heatmap": None if node.heatmap is None else _heatmap_document(node.heatmap),
        "crop": None,
    }


def _node(entry: Mapping[str, Any]) -> Node:
    left, top, right, bottom = (int(side) for side in entry["box"])
    position = entry["position"]
    return Node(
        id=str(entry["id"]),
        level=int(entry["level"]),
        layer=str(entry["layer"]),
        channel=entry["channel"],
        position=None if position is None else (int(position[0]), int(position[1])),
        value=float(entry["value"]),
        path_weight=float(entry["path_weight"]),
        kept=entry["kept"],
        box=(left, top, right, bottom),
        heatmap=None if entry["heatmap"] is None else _heatmap(entry["heatmap"]),
    )


def _heatmap_document(heatmap: Floats) -> dict[str, Any]:
    small = _coarser(heatmap)
    highest = float(small.max())
    levels = np.rint(small / highest * 255) if highest > 0 else small
    height, width = small.shape
    data = base64.b64encode(levels.astype(np.uint8).tobytes()).decode("ascii")
    return {"height": height, "width": width, "data": data, "max": highest}


def _coarser(heatmap: Floats) -> Floats:
    """The maxima of blocks, so that no side is longer than ``FINEST`` and no peak is lost."""
    height, width = heatmap.shape
    factor = -(-max(height, width) // FINEST)
    if factor == 1:
        return heatmap
    padded = np.pad(heatmap, ((0, -height % factor), (0, -width % factor)))
    tiles = padded.reshape(padded.shape[0] // factor, factor, padded.shape[1] // factor, factor)
    return np.asarray(tiles.max(axis=(1, 3)), np.float32)


def _heatmap(entry: Mapping[str, Any]) -> Floats:
    levels = np.frombuffer(base64.b64decode(entry["data"]), np.uint8).reshape(entry["height"], entry["width"])
    return np.asarray(levels * np.float32(entry["max"] / 255), np.float32)


def _png(picture: Image.Image) -> str:
    return "data:image/png;base64," + base64.b64encode(rendering.png(picture)).decode("ascii")


def _picture(url: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(url.split(",", 1)[1]))).convert("RGB")
