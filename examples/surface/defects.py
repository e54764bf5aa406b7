"""The four defects, and the harmless marks that resemble them.

A mark is factors on the colour of the surface together with a relief that the lamp shades. Lengths are given for a
canvas of 224 pixels and scale with it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from metal import Field, Rng, Scene, blur, cloud, grid, step
from PIL import Image, ImageDraw

Path = npt.NDArray[np.float64]  # (n, 3): x, y, width in pixels
_FINE = 4  # lines are drawn this many times larger, then averaged, so that they are smooth


@dataclass(frozen=True)
class Mark:
    """Something on the surface.

    colour: (H, W, 3) factors on the reflectance, 1 where nothing is.
    relief: (H, W) height in pixels, 0 where nothing is.
    mask: (H, W) bool, where the mark is.
    """

    colour: Field
    relief: Field
    mask: npt.NDArray[np.bool_]


def _coverage(paths: list[Path], size: int) -> Field:
    """(size, size) share of every pixel that the strokes cover."""
    canvas = Image.new("L", (size * _FINE, size * _FINE))
    draw = ImageDraw.Draw(canvas)
    for path in paths:
        points = path * _FINE
        for (x0, y0, w0), (x1, y1, w1) in pairwise(points):
            width = (w0 + w1) / 2
            draw.line((x0, y0, x1, y1), fill=255, width=max(1, round(width)))
            r = width / 2
            if r > 1:
                draw.ellipse((x1 - r, y1 - r, x1 + r, y1 + r), fill=255)
    return np.asarray(canvas.reduce(_FINE), dtype=np.float32) / 255.0


def _grey(factor: Field) -> Field:
    return np.repeat(factor[..., None], 3, axis=2)


def _grown(coverage: Field, margin: float) -> npt.NDArray[np.bool_]:
    """Where a stroke is, with the margin of ``margin`` pixels that an annotator's brush leaves."""
    return blur(coverage, max(0.5, margin)) > 0.12


def _place(rng: Rng, size: int, border: float) -> tuple[float, float]:
    low, high = size * border, size * (1 - border)
    return float(rng.uniform(low, high)), float(rng.uniform(low, high))


def _contains_most(path: Path, size: int) -> bool:
    inside = ((path[:, :2] > 3) & (path[:, :2] < size - 3)).all(axis=1)
    return bool(inside.mean() > 0.95)


def _scratch_path(rng: Rng, size: int, lay: float) -> Path:
    scale = size / 224.0
    n = 60
    while True:
        # Never along the lay, where nobody could tell a scratch from the machining.
        turn = lay + rng.uniform(0.3, np.pi - 0.3)
        length = scale * rng.uniform(60, 165)
        bend = rng.normal(0, 0.06) * length
        t = np.linspace(-0.5, 0.5, n)
        sway = np.cumsum(rng.normal(0, 0.05, n)) * scale
        along, side = t * length, bend * (1 - 4 * t * t) + sway
        x, y = _place(rng, size, 0.15)
        taper = np.clip(np.minimum((t + 0.5) / rng.uniform(0.1, 0.4), (0.5 - t) / 0.25), 0, 1)
        width = scale * rng.uniform(1.6, 3.6) * (0.25 + 0.75 * taper)
        path = np.stack(
            [
                x + along * np.cos(turn) - side * np.sin(turn),
                y + along * np.sin(turn) + side * np.cos(turn),
                width,
            ],
            axis=1,
        )
        if _contains_most(path, size):
            return path


def scratch(rng: Rng, size: int, scene: Scene) -> Mark:
    """One to three long thin strokes, tapered and slightly bent: bright fresh metal or dark grooves."""
    first = _scratch_path(rng, size, scene.lay)
    paths = [first]
    if rng.random() < 0.3:
        for _ in range(rng.integers(1, 3)):
            shift = np.array([*rng.normal(0, 7 * size / 224, 2), 0.0])
            start = int(rng.integers(0, 25))
            paths.append((first + shift)[start : start + int(rng.integers(20, 36))])
    cover = _coverage(paths, size)
    broken = np.clip(1 + 0.35 * cloud(rng, size, 20 * size / 224), 0.35, 1.3)
    gain = rng.uniform(0.4, 0.85) if rng.random() < 0.6 else -rng.uniform(0.38, 0.6)
    colour = _grey(1 + gain * cover * broken)
    return Mark(colour, -rng.uniform(0.2, 0.6) * cover, _grown(cover, 0.9 * size / 224))


def _crack_path(rng: Rng, x: float, y: float, turn: float, length: float, width: float, scale: float) -> Path:
    points = []
    gone = 0.0
    heading = turn
    drift = rng.normal(0, 0.04)
    while gone < length:
        hop = scale * rng.uniform(1.5, 5.0)
        heading = turn + 0.75 * (heading - turn) + rng.normal(drift, 0.42)
        x, y = x + hop * np.cos(heading), y + hop * np.sin(heading)
        gone += hop
        fade = np.clip((length - gone) / (0.45 * length), 0.15, 1.0)
        points.append((x, y, width * fade * rng.uniform(0.55, 1.35)))
    return np.array(points)


def crack(rng: Rng, size: int, scene: Scene) -> Mark:
    """A dark walk of short jagged steps and varying width that throws off finer branches."""
    scale = size / 224.0
    while True:
        x, y = _place(rng, size, 0.15)
        turn = rng.uniform(0, 2 * np.pi)
        length = scale * rng.uniform(65, 150)
        width = scale * rng.uniform(1.8, 3.8)
        trunk = _crack_path(rng, x, y, turn, length, width, scale)
        if _contains_most(trunk, size):
            break
    paths = [trunk]
    for _ in range(rng.integers(1, 5)):
        at = int(rng.integers(2, max(3, int(len(trunk) * 0.8))))
        bx, by, bw = trunk[at]
        away = turn + rng.choice((-1, 1)) * rng.uniform(0.4, 1.2)
        paths.append(_crack_path(rng, bx, by, away, length * rng.uniform(0.15, 0.45), min(bw, width) * 0.65, scale))
    cover = _coverage(paths, size)
    halo = blur(cover, 2.2 * scale)
    dark = rng.uniform(0.5, 0.85)
    colour = _grey(1 - dark * cover - 0.22 * dark * halo)
    return Mark(colour, -rng.uniform(0.5, 1.2) * cover, _grown(cover, 0.9 * scale))


def _pit_depth(rng: Rng, size: int, x: float, y: float, radius: float) -> tuple[Field, Field]:
    """(depth in [0, 1], rim in [0, 1]) of a ragged bowl round (x, y)."""
    gx, gy = grid(size)
    dx, dy = gx - x, gy - y
    angle = np.arctan2(dy, dx)
    stretch, turn = rng.uniform(0.72, 1.0), rng.uniform(0, np.pi)
    across = dx * np.cos(turn) + dy * np.sin(turn)
    other = -dx * np.sin(turn) + dy * np.cos(turn)
    distance = np.hypot(across, other / stretch)
    ragged = np.ones_like(gx)
    for k in range(2, 7):
        ragged += rng.normal(0, 0.15 / k) * np.cos(k * angle + rng.uniform(0, 2 * np.pi))
    t = distance / (radius * np.clip(ragged, 0.6, 1.5))
    depth = 1 - step(t.astype(np.float32), 0.35, 1.0)
    rim = np.exp(-0.5 * ((t - 1.08) / 0.13) ** 2)
    return depth, rim.astype(np.float32)


def pit(rng: Rng, size: int, scene: Scene) -> Mark:
    """One bowl, or a cluster of smaller ones: a dark floor, one wall in shade, one lit."""
    scale = size / 224.0
    cluster = rng.random() < 0.4
    count = int(rng.integers(3, 7)) if cluster else 1
    low, high = (5.0, 10.0) if cluster else (11.0, 22.0)
    x, y = _place(rng, size, 0.16)
    depth = np.zeros((size, size), np.float32)
    rim = np.zeros((size, size), np.float32)
    for i in range(count):
        dx, dy = rng.normal(0, 15 * scale, 2) if i else (0.0, 0.0)
        px, py = np.clip((x + dx, y + dy), 0.06 * size, 0.94 * size)
        bowl, edge = _pit_depth(rng, size, px, py, scale * rng.uniform(low, high))
        depth, rim = np.maximum(depth, bowl), np.maximum(rim, edge)
    mask = (depth > 0.1) | (rim > 0.5)
    rough = np.clip(1 + 0.25 * cloud(rng, size, 10 * scale), 0.4, 1.6)
    floor = rng.uniform(0.4, 0.72)
    rim = rim * (1 - step(depth, 0.0, 0.3))
    colour = _grey((1 - floor * depth * rough) * (1 + rng.uniform(0.02, 0.1) * rim))
    height = rng.uniform(3.5, 7.5) * scale
    return Mark(colour, -height * depth + 0.07 * height * rim, mask)


# Rust, tan oil, blue heat tint, grey-green water, dark residue: what it leaves of R, G, B.
_CASTS = (
    (0.80, 0.52, 0.34),
    (0.86, 0.70, 0.42),
    (0.55, 0.66, 0.90),
    (0.52, 0.70, 0.54),
    (0.50, 0.47, 0.45),
)


def stain(rng: Rng, size: int, scene: Scene) -> Mark:
    """A blotch with a soft ragged border, a tide mark along it, and a colour of its own."""
    scale = size / 224.0
    gx, gy = grid(size)
    while True:
        x, y = _place(rng, size, 0.17)
        radius = scale * rng.uniform(19, 36)
        stretch, turn = rng.uniform(0.55, 1.0), rng.uniform(0, np.pi)
        across = (gx - x) * np.cos(turn) + (gy - y) * np.sin(turn)
        other = -(gx - x) * np.sin(turn) + (gy - y) * np.cos(turn)
        level = 1 - np.hypot(across, other / stretch) / radius
        level = (level + rng.uniform(0.22, 0.4) * cloud(rng, size, 2 * radius, 1.5)).astype(np.float32)
        # Far away the noise alone must not make an island.
        level = np.where(np.hypot(across, other) < 1.9 * radius, level, -1.0).astype(np.float32)
        mask = level > 0.05
        if 0.006 < mask.mean() < 0.065:
            break
    soft = rng.uniform(0.18, 0.5)
    body = step(level, 0.05 - soft / 2, 0.05 + soft)
    tide = np.exp(-0.5 * ((level - 0.12) / 0.07) ** 2) * rng.uniform(0.0, 0.7)
    blotchy = np.clip(0.8 + 0.25 * cloud(rng, size, 20 * scale, 1.5), 0.25, 1.2)
    opacity = rng.uniform(0.6, 0.95) * np.clip(body * blotchy + tide * body, 0, 1.15)
    cast = np.array(_CASTS[rng.integers(len(_CASTS))]) * (1 + rng.normal(0, 0.05, 3))
    colour = 1 - opacity[..., None] * (1 - cast)
    return Mark(colour.astype(np.float32), np.zeros((size, size), np.float32), mask)


Maker = Callable[[Rng, int, Scene], Mark]
DEFECTS: dict[str, Maker] = {"scratch": scratch, "pit": pit, "crack": crack, "stain": stain}


def harmless(rng: Rng, size: int, scene: Scene) -> Field:
    """(H, W, 3) colour factors of what is no defect: oil sheen, grinding marks, dust."""
    scale = size / 224.0
    colour = np.ones((size, size, 3), np.float32)
    gx, gy = grid(size)
    if rng.random() < 0.4:
        x, y = _place(rng, size, 0.0)
        reach = scale * rng.uniform(40, 100)
        film = np.exp(-0.5 * ((gx - x) ** 2 + (gy - y) ** 2) / reach**2)
        # Thin films interfere: the hue turns with thickness.
        phase = film * rng.uniform(2, 6) + 0.4 * cloud(rng, size, 150 * scale, 0.5)
        for channel in range(3):
            colour[..., channel] *= 1 + 0.035 * film * np.sin(phase + channel * 2.1)
        colour *= (1 + rng.uniform(-0.06, 0.04) * film)[..., None]
    if rng.random() < 0.45:
        strokes = []
        for _ in range(rng.integers(2, 9)):
            turn = scene.lay + rng.normal(0, 0.03)
            x, y = _place(rng, size, 0.0)
            half = scale * rng.uniform(30, 160)
            ends = np.array([-half, half])
            strokes.append(np.stack([x + ends * np.cos(turn), y + ends * np.sin(turn), np.full(2, 1.2 * scale)], 1))
        colour *= (1 + rng.uniform(-0.14, 0.14) * _coverage(strokes, size))[..., None]
    if rng.random() < 0.6:
        specks = np.zeros((size, size), np.float32)
        for _ in range(rng.integers(1, 12)):
            x, y = _place(rng, size, 0.0)
            r = scale * rng.uniform(0.5, 1.4)
            bump = np.exp(-0.5 * ((gx - x) ** 2 + (gy - y) ** 2) / r**2)
            specks += rng.uniform(-0.45, 0.35) * bump.astype(np.float32)
        colour *= np.clip(1 + specks, 0.4, 1.5)[..., None]
    return colour
