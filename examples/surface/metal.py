"""The part without a defect: machined metal, the light on it, and what may lie on it harmlessly.

Arrays are float32 in linear light. A *field* is (H, W); lengths are in pixels of the canvas.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

Field = npt.NDArray[np.float32]
Rng = np.random.Generator

# Reflectance of clean metal: steel, stainless, aluminium, galvanised, titanium, brass, bronze.
_TINTS = (
    (0.97, 1.00, 1.02),
    (1.00, 1.00, 1.00),
    (0.98, 1.00, 1.01),
    (0.93, 1.00, 1.07),
    (1.04, 1.00, 0.95),
    (1.16, 1.03, 0.76),
    (1.13, 0.99, 0.86),
)
_TINT_ODDS = (0.24, 0.24, 0.2, 0.12, 0.1, 0.05, 0.05)


@dataclass(frozen=True)
class Scene:
    """What the camera sees before any defect is added.

    surface: (H, W) reflectance of the metal around 1, with its machining marks.
    light: (H, W) illumination, positive.
    tint: (3,) colour of the metal.
    lay: direction of the machining marks at the centre, in radians.
    lamp: (2,) unit vector in the image plane pointing to the lamp, as (x, y).
    """

    surface: Field
    light: Field
    tint: Field
    lay: float
    lamp: tuple[float, float]


def grid(size: int) -> tuple[Field, Field]:
    """Pixel-centre coordinates (x, y), each (size, size)."""
    axis = np.arange(size, dtype=np.float32) + 0.5
    x, y = np.meshgrid(axis, axis)
    return x, y


def smooth_noise(rng: Rng, size: int, cell: float) -> Field:
    """(size, size) noise of mean 0 and variance 1 whose features are about ``cell`` pixels wide."""
    n = max(2, round(size / cell)) + 3
    coarse = Image.fromarray(rng.standard_normal((n, n)).astype(np.float32))
    fine = np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC), dtype=np.float32)
    return np.asarray((fine - fine.mean()) / (fine.std() + 1e-6), dtype=np.float32)


def cloud(rng: Rng, size: int, cell: float, rough: float = 1.0) -> Field:
    """(size, size) noise of mean 0 and variance 1, flat down to ``cell`` pixels, ever weaker below.

    A large ``rough`` leaves much fine detail, a small one little.
    """
    n = size + (size & 1)
    spectrum = np.fft.rfft2(rng.standard_normal((n, n), dtype=np.float32))
    fy = np.fft.fftfreq(n)[:, None]
    fx = np.fft.rfftfreq(n)[None, :]
    # Isotropic on purpose: noise on a grid of cells gives blotches with straight sides.
    falloff = (1.0 + (cell * np.hypot(fx, fy)) ** 2) ** (-1.0 - 0.6 / rough)
    noise = np.fft.irfft2(spectrum * falloff, s=(n, n))[:size, :size]
    return np.asarray((noise - noise.mean()) / (noise.std() + 1e-6), dtype=np.float32)


def step(field: Field, low: float, high: float) -> Field:
    """Smooth step of ``field`` from 0 at ``low`` to 1 at ``high``."""
    t = np.clip((field - low) / (high - low), 0.0, 1.0)
    return np.asarray(t * t * (3.0 - 2.0 * t), dtype=np.float32)


def _gaussian(sigma: float) -> Field:
    """A normalised Gaussian kernel of standard deviation ``sigma`` pixels."""
    radius = max(1, int(np.ceil(2.5 * sigma)))
    offsets = np.arange(-radius, radius + 1)
    kernel = np.exp(-0.5 * (offsets / sigma) ** 2)
    return np.asarray(kernel / kernel.sum(), dtype=np.float32)


def blur(field: Field, sigma: float) -> Field:
    """Gaussian blur over the first two axes of (H, W) or (H, W, 3); edges are repeated."""
    kernel = _gaussian(sigma)
    radius = len(kernel) // 2
    for axis in (0, 1):
        length = field.shape[axis]
        pad = [(radius, radius) if a == axis else (0, 0) for a in range(field.ndim)]
        wide = np.pad(field, pad, mode="edge")
        field = sum(
            (weight * np.take(wide, range(i, i + length), axis=axis) for i, weight in enumerate(kernel)),
            np.zeros_like(field),
        )
    return field


def _streaks(rng: Rng, n: int, along: float, across: float) -> Field:
    """(n, n) periodic noise, correlated over ``along`` pixels in x and ``across`` in y."""
    spectrum = np.fft.rfft2(rng.standard_normal((n, n), dtype=np.float32))
    fy = np.fft.fftfreq(n).astype(np.float32)[:, None]
    fx = np.fft.rfftfreq(n).astype(np.float32)[None, :]
    # Lorentzian along the marks: single strokes start and stop, a Gaussian would only fade.
    low_pass = np.exp(-2.0 * (np.pi * fy * across) ** 2) / (1.0 + (2.0 * np.pi * fx * along) ** 2)
    noise = np.fft.irfft2(spectrum * low_pass, s=(n, n)).astype(np.float32)
    return np.asarray(noise / (noise.std() + 1e-6), dtype=np.float32)


def _sample(texture: Field, u: Field, v: Field) -> Field:
    """Bilinear samples of a periodic (n, n) texture at column u, row v (pixels)."""
    n = texture.shape[0]
    u0, v0 = np.floor(u), np.floor(v)
    fu, fv = u - u0, v - v0
    i, j = u0.astype(np.int64) % n, v0.astype(np.int64) % n
    i1, j1 = (i + 1) % n, (j + 1) % n
    top = texture[j, i] * (1 - fu) + texture[j, i1] * fu
    low = texture[j1, i] * (1 - fu) + texture[j1, i1] * fu
    return np.asarray(top * (1 - fv) + low * fv, dtype=np.float32)


def _machined(rng: Rng, size: int, lay: float) -> Field:
    """(size, size) machining marks, mean 0 and variance 1, running in direction ``lay``.

    One of: brushed, rolled, ground in arcs, cross-ground, matte (blasted).
    """
    scale = size / 224.0
    x, y = grid(size)
    cx, cy = x - size / 2, y - size / 2
    u: Field = (cx * np.cos(lay) + cy * np.sin(lay)).astype(np.float32)
    v: Field = (-cx * np.sin(lay) + cy * np.cos(lay)).astype(np.float32)
    kind = rng.choice(5, p=(0.34, 0.22, 0.2, 0.1, 0.14))
    n = 1 << int(np.ceil(np.log2(size * 1.1)))
    if kind == 0:
        layers = ((rng.uniform(12, 50), 0.35, 1.0), (4.0, 0.4, 0.6), (60.0, 3.0, 0.5))
    elif kind == 1:
        layers = ((rng.uniform(25, 60), 1.0, 0.7), (1.2, 0.6, 0.6), (70.0, 7.0, 0.6))
    elif kind == 2:
        layers = ((rng.uniform(15, 40), 0.4, 1.0), (5.0, 0.45, 0.6), (60.0, 4.0, 0.4))
        # Marks of a wheel: arcs round a centre far away from the picture.
        radius = size * rng.uniform(0.9, 3.0)
        turned, distance = np.arctan2(u, v + radius), np.hypot(u, v + radius)
        u = (turned * radius).astype(np.float32)
        v = (distance - radius).astype(np.float32)
    elif kind == 3:
        layers = ((rng.uniform(12, 30), 0.4, 1.0), (4.0, 0.45, 0.5), (50.0, 4.0, 0.3))
    else:
        layers = ((1.0, 0.55, 1.0), (2.0, 1.5, 0.5), (20.0, 8.0, 0.3))
    texture = np.zeros((n, n), np.float32)
    for along, across, weight in layers:
        texture += weight * _streaks(rng, n, along * scale, across * max(scale, 0.8))
    marks = _sample(texture, u, v)
    if kind == 3:
        turn = rng.uniform(0.35, 1.2)
        marks += np.float32(0.7) * _sample(
            texture,
            (u * np.cos(turn) + v * np.sin(turn) + 31).astype(np.float32),
            (-u * np.sin(turn) + v * np.cos(turn) + 57).astype(np.float32),
        )
    return np.asarray((marks - marks.mean()) / (marks.std() + 1e-6), dtype=np.float32)


def _lit(rng: Rng, size: int, lay: float, lamp: tuple[float, float]) -> Field:
    """(size, size) illumination: fall-off, a sheen across the lay, bands, vignetting."""
    column, row = grid(size)
    x, y = column / size - 0.5, row / size - 0.5
    light = np.ones((size, size), np.float32)
    light += rng.uniform(0.15, 0.95) * (x * lamp[0] + y * lamp[1])
    # Brushed metal reflects a lamp as a streak at right angles to the marks.
    along = x * np.cos(lay) + y * np.sin(lay)
    centre, width = rng.uniform(-0.5, 0.5), rng.uniform(0.12, 0.5)
    light += rng.uniform(0.0, 0.8) * np.exp(-0.5 * ((along - centre) / width) ** 2)
    if rng.random() < 0.35:
        turn = rng.uniform(0, np.pi)
        phase = (x * np.cos(turn) + y * np.sin(turn)) * rng.uniform(1.0, 4.0) + rng.random()
        light += rng.uniform(0.02, 0.1) * np.sin(2 * np.pi * phase)
    if rng.random() < 0.2:
        # The soft edge of a shadow, from a fixture outside the picture.
        turn = rng.uniform(0, 2 * np.pi)
        edge = x * np.cos(turn) + y * np.sin(turn) - rng.uniform(0.1, 0.45)
        light *= 1 - rng.uniform(0.1, 0.35) * step(edge, 0.0, rng.uniform(0.05, 0.3))
    light *= 1 - rng.uniform(0.1, 0.9) * (x * x + y * y)
    return np.maximum(light, 0.25).astype(np.float32)


def clean_scene(rng: Rng, size: int) -> Scene:
    """A part without defects or dirt, under its lamp."""
    lay = float(rng.uniform(0, np.pi))
    turn = float(rng.uniform(0, 2 * np.pi))
    lamp = (float(np.cos(turn)), float(np.sin(turn)))
    patchy = 1 + rng.uniform(0.05, 0.3) * np.clip(smooth_noise(rng, size, size / 4), -2, 2)
    surface = 1 + rng.uniform(0.05, 0.16) * patchy * _machined(rng, size, lay)
    surface += rng.uniform(0.0, 0.02) * cloud(rng, size, size / 3)
    tint = np.array(_TINTS[rng.choice(len(_TINTS), p=_TINT_ODDS)], np.float32)
    tint = tint + rng.normal(0, 0.012, 3).astype(np.float32)
    return Scene(surface.astype(np.float32), _lit(rng, size, lay, lamp), tint, lay, lamp)
