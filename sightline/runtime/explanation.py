"""The answer: which pixels decided, with everything needed to trust it, draw it and act on it."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from sightline.errors import SaveError
from sightline.kernels.cpu import CpuKernels
from sightline.runtime import rendering
from sightline.runtime.regions import Region, find_regions
from sightline.runtime.saving import save

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Explanation:
    """Why a network gave a class its score. Every number in it is finite."""

    saliency: Floats = field(repr=False)
    """H×W at the network's size, in [0, 1]; all zero where nothing can be shown for the class."""
    target: int | None
    """Index of the class explained; None where the target is a function."""
    label: str
    """The label of the class, or its number where the bundle has no labels; or the name of the function."""
    score: float
    """p_c, what the network gives the class on the whole image; or what the function makes of it."""
    method: str
    parameters: Mapping[str, Any]
    """Of the method, e.g. ``{"mu": 0.3}``."""
    layer_maps: Mapping[str, Floats] = field(repr=False)
    """By block, from shallow to deep: H×W in [0, 1]. Blocks that had nothing to show are absent."""
    passes: int
    """Masked images scored; those of several targets of one image are scored together and count for each."""
    completeness: float
    """The share of the positive α that the scored masks cover, in [0, 1]: below 1 where a budget ended before the last
    mask."""
    timings: Mapping[str, float]
    """Seconds by stage: ``preprocess``, ``attribution``, ``selection``, ``masking``, ``passes``, ``fusion``, and their
    sum, ``total``."""
    bundle_hash: str
    engine: str
    precision: str
    """What the masked passes were computed in."""
    picture: Image.Image = field(repr=False)
    """The image explained: RGB, upright, at its original size."""

    @cached_property
    def image_saliency(self) -> Floats:
        """The saliency at the original image's size, in [0, 1]."""
        full = Image.fromarray(self.saliency).resize(self.picture.size, Image.Resampling.BILINEAR)
        return np.clip(np.asarray(full, np.float32), 0, 1)

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        """The saliency, so that ``np.asarray(explanation)`` works."""
        return np.array(self.saliency, dtype, copy=copy)

    def regions(self) -> list[Region]:
        """The connected parts at or above Otsu's threshold of the map, in original pixels, by falling mass."""
        threshold = CpuKernels().otsu(self.saliency)
        return [] if threshold is None else find_regions(self.saliency, threshold, self.picture.size)

    def overlay(self) -> Image.Image:
        """The original image with the map over it, in colours that colour-blind readers can tell apart."""
        return rendering.overlay(self.picture, self.image_saliency)

    def facts(self) -> dict[str, Any]:
        """Everything but the maps and the picture, regions included, in types that JSON knows."""
        return {
            "target": self.target,
            "label": self.label,
            "score": self.score,
            "method": self.method,
            "parameters": dict(self.parameters),
            "image": {"width": self.picture.width, "height": self.picture.height},
            "regions": [asdict(region) for region in self.regions()],
            "layers": list(self.layer_maps),
            "passes": self.passes,
            "completeness": self.completeness,
            "timings": dict(self.timings),
            "engine": self.engine,
            "precision": self.precision,
            "bundle_hash": self.bundle_hash,
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the explanation; the suffix says how, as for :meth:`encoded`.

        Written under a temporary name and then renamed.

        Raises:
            SaveError: another suffix, or the file cannot be written.
        """
        path = Path(path)
        save(path, self.encoded(path.name))

    def encoded(self, name: str) -> bytes:
        """The explanation as the content of a file of this name, or of this suffix.

        ``.png``: the overlay, captioned with label and score. ``.npz``: the maps (``saliency``, ``image_saliency``,
        ``layer_maps/<block>``) and ``metadata``, the JSON below. ``.json``: the :meth:`facts`.

        Raises:
            SaveError: another suffix.
        """
        writers: Mapping[str, Callable[[], bytes]] = {".png": self._png, ".npz": self._npz, ".json": self._json}
        suffix = (Path(name).suffix or name).lower()
        if suffix not in writers:
            raise SaveError(f"{name!r} does not say how to save it: use one of the suffixes {', '.join(writers)}.")
        return writers[suffix]()

    def _png(self) -> bytes:
        note = f"{self.method}, {self.passes} passes, {self.timings['total']:.2f} s"
        return rendering.png(rendering.captioned(self.overlay(), f"{self.label}  {self.score:.3f}", note))

    def _npz(self) -> bytes:
        buffer = io.BytesIO()
        arrays: dict[str, Any] = {f"layer_maps/{name}": layer for name, layer in self.layer_maps.items()}
        arrays["saliency"] = self.saliency
        arrays["image_saliency"] = self.image_saliency
        arrays["metadata"] = np.array(self._json().decode())
        np.savez_compressed(buffer, **arrays)
        return buffer.getvalue()

    def _json(self) -> bytes:
        return (json.dumps(self.facts(), indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
