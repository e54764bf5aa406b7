"""Pictures of machined metal as an inspection camera sees them, made by rule and by seed.

``render("crack", seed=7)`` always gives the same picture, the same mask, on any machine.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from defects import DEFECTS, Mark, harmless
from metal import Field, Rng, Scene, blur, clean_scene

LABELS = ("good", "scratch", "pit", "crack", "stain")


@dataclass(frozen=True)
class Sample:
    """One picture and the truth about it.

    image: (H, W, 3) uint8, sRGB.
    label: index into ``LABELS``.
    mask: (H, W) bool, the defect; all false for a good part.
    """

    image: npt.NDArray[np.uint8]
    label: int
    mask: npt.NDArray[np.bool_]


def shaded(mark: Mark, scene: Scene) -> Field:
    """(H, W) factor on the light: slopes that face the lamp are brighter."""
    slope_y, slope_x = np.gradient(mark.relief)
    # The lamp stands low; a wall that rises away from it turns towards it.
    facing = -(slope_x * scene.lamp[0] + slope_y * scene.lamp[1])
    return np.asarray(np.clip(1 + 0.9 * facing, 0.35, 1.9), dtype=np.float32)


def photographed(rng: Rng, radiance: Field) -> npt.NDArray[np.uint8]:
    """(H, W, 3) uint8 from linear light: lens blur, exposure, photon and read noise, sRGB curve."""
    sharp = np.maximum(blur(radiance, rng.uniform(0.35, 0.8)), 1e-3)
    level = rng.uniform(0.17, 0.36)
    white = (1 + rng.normal(0, 0.015, 3)).astype(np.float32)
    signal = level * (sharp / sharp.mean()) ** rng.uniform(1.1, 1.7) * white
    photons = rng.uniform(1500, 8000)
    noise = rng.standard_normal(signal.shape, dtype=np.float32)
    noisy = signal + noise * np.sqrt(np.maximum(signal, 0) / photons + 0.003**2)
    # A shoulder instead of a hard clip, as cameras do.
    clipped = np.clip(noisy, 0, None)
    clipped = clipped / (1 + np.maximum(clipped - 0.7, 0) * 0.6)
    encoded = np.clip(clipped, 0, 1) ** (1 / 2.2)
    return np.asarray(np.round(encoded * 255), dtype=np.uint8)


def render(label: str, seed: int, size: int = 224) -> Sample:
    """The picture number ``seed`` of class ``label``, ``size`` pixels square.

    The background is drawn from the same distribution for every class.

    Raises ValueError if the label is none of ``LABELS``.
    """
    if label not in LABELS:
        raise ValueError(f"label {label!r} is unknown; choose one of {', '.join(LABELS)}")
    index = LABELS.index(label)
    rng = np.random.default_rng([seed, index])
    scene = clean_scene(rng, size)
    reflectance = scene.surface[..., None] * scene.tint * harmless(rng, size, scene)
    light = scene.light
    mask = np.zeros((size, size), np.bool_)
    if label in DEFECTS:
        mark = DEFECTS[label](rng, size, scene)
        reflectance = reflectance * mark.colour
        light = light * shaded(mark, scene)
        mask = mark.mask
    return Sample(photographed(rng, reflectance * light[..., None]), index, mask)
