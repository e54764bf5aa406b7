"""Hierarchies as ``sightline.decompose`` writes them, made up: any size, any label."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from PIL import Image

from sightline import demo

SIDE = 224
LEVELS = (("stages.3", 112, 14), ("stages.1", 48, 28), ("stages.0", 24, 56), ("stem", 16, 112))
RADIUS = {"stages.3": 90, "stages.1": 40, "stages.0": 16, "stem": 6}


def hierarchy(label: str = "crack", *, children: int = 4, levels: int = 4, seed: int = 0) -> dict[str, Any]:
    """Every unit has this many children; two parents may have one child together. Deterministic."""
    rng = np.random.default_rng(seed)
    nodes: dict[str, dict[str, Any]] = {
        "d": {
            "id": "d",
            "level": 0,
            "layer": "decision",
            "channel": None,
            "position": None,
            "value": 7.31,
            "path_weight": 1.0,
            "kept": None,
            "box": [0, 0, SIDE, SIDE],
            "heatmap": None,
            "crop": None,
        }
    }
    edges: list[dict[str, Any]] = []
    above = ["d"]
    centres = {"d": (0.45, 0.55)}
    for level, (layer, channels, side) in enumerate(LEVELS[:levels], 1):
        below: list[str] = []
        for parent in above:
            kept = float(rng.uniform(0.55, 0.95))
            nodes[parent]["kept"] = kept
            weights = np.sort(rng.dirichlet(np.full(children, 1.2)))[::-1] * kept
            for share in map(float, weights):
                channel = int(rng.integers(channels))
                spread = RADIUS[layer] / SIDE / 3
                near = np.clip(np.array(centres[parent]) + rng.normal(0, spread, 2), 0.02, 0.98)
                y, x = (int(v * side) for v in near)
                child = f"{layer}:{channel}:{y},{x}"
                if below and rng.random() < 0.2:  # a unit that supports another one too
                    child = below[int(rng.integers(len(below)))]
                if any(edge["parent"] == parent and edge["child"] == child for edge in edges):
                    continue
                if child not in nodes:
                    below.append(child)
                    centres[child] = (float(near[0]), float(near[1]))
                    nodes[child] = _unit(child, level, layer, channel, (y, x), side, rng)
                nodes[child]["path_weight"] += nodes[parent]["path_weight"] * share
                edges.append({"parent": parent, "child": child, "share": share, "support": share * 3.2})
        above = below
    counts = [sum(node["level"] == level for node in nodes.values()) for level in range(levels + 1)]
    shapes = [("decision", 5, 1), *LEVELS[:levels]]
    mass = [
        1.0,
        *(float(sum(n["path_weight"] for n in nodes.values() if n["level"] == k)) for k in range(1, levels + 1)),
    ]
    return {
        "schema": 1,
        "kind": "sightline.hierarchy",
        "label": label,
        "score": 0.983,
        "image": {"width": SIDE, "height": SIDE, "png": picture()},
        "levels": [
            {"name": name, "channels": c, "height": s, "width": s, "kept": mass[k], "nodes": counts[k]}
            for k, (name, c, s) in enumerate(shapes)
        ],
        "nodes": list(nodes.values()),
        "edges": edges,
        "settings": {"top_k": children, "depth": levels, "min_share": 0.0},
        "provenance": {
            "bundle": "3f9a61d2c07b",
            "engine": "onnxruntime-cpu",
            "sightline": "0.1.0",
            "passes": 21,
            "seconds": 0.42,
        },
    }


def picture(name: str = "crack") -> str:
    """A picture of the demo as the contract wants it."""
    image = next(sample.image for sample in demo.samples() if sample.name == name)
    buffer = io.BytesIO()
    Image.open(image).convert("RGB").resize((SIDE, SIDE)).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _unit(
    name: str, level: int, layer: str, channel: int, at: tuple[int, int], side: int, rng: np.random.Generator
) -> dict[str, Any]:
    y, x = at
    step = SIDE / side
    radius = RADIUS[layer]
    cy, cx = (y + 0.5) * step, (x + 0.5) * step
    left, right = (int(np.clip(v, 0, SIDE)) for v in (cx - radius, cx + radius))
    top, bottom = (int(np.clip(v, 0, SIDE)) for v in (cy - radius, cy + radius))
    if side > 64:  # as fine as the product writes them
        y, x, side, step = y // 2, x // 2, side // 2, step * 2
    grid_y, grid_x = np.mgrid[:side, :side]
    reach = max(0.8, radius / step / 2.5)
    heat = np.exp(-(((grid_y - y) / reach) ** 2 + ((grid_x - x) / reach) ** 2)) * rng.uniform(0.4, 1, (side, side))
    heat /= heat.max()
    return {
        "id": name,
        "level": level,
        "layer": layer,
        "channel": channel,
        "position": [y, x],
        "value": float(rng.gamma(2, 1.3)),
        "path_weight": 0.0,
        "kept": None,
        "box": [left, top, right, bottom],
        "heatmap": {
            "height": side,
            "width": side,
            "data": base64.b64encode(np.rint(heat * 255).astype(np.uint8).tobytes()).decode(),
            "max": float(rng.gamma(2, 0.2)),
        },
        "crop": None,
    }
