"""What a contender is, and what it is given: the same weights, image, class and number of threads for all of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

RISE_CELLS = 7
RISE_KEPT = 0.5
"""RISE's grid and the share of its cells that are kept, for every contender that can be told."""

Map = npt.NDArray[np.floating[Any]]


class UnavailableError(Exception):
    """This contender cannot run here; the message says why and goes into the record."""


@dataclass(frozen=True)
class Case:
    """One network and one image, prepared in a folder that every measuring process reads."""

    folder: Path
    network: str
    passes: int
    mu: float
    threads: int
    seed: int
    target: int
    blocks: tuple[str, ...]
    """The modules whose outputs are SISE's blocks, shallow to deep; Score-CAM takes the last one."""

    @property
    def weights(self) -> Path:
        """The torch state dict."""
        return self.folder / "weights.pt"

    @property
    def onnx(self) -> Path:
        """One self-contained file: N images in, N×K probabilities out."""
        return self.folder / "network.onnx"

    @property
    def bundle(self) -> Path:
        """Sightline's bundle."""
        return self.folder / "network.sightline"

    @property
    def image(self) -> npt.NDArray[np.float32]:
        """C×H×W, preprocessed: no contender's time holds any preprocessing."""
        array: npt.NDArray[np.float32] = np.load(self.folder / "image.npy")
        return array

    def save(self) -> None:
        described = {name: value for name, value in asdict(self).items() if name != "folder"}
        (self.folder / "case.json").write_text(json.dumps(described), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Case:
        described = json.loads((folder / "case.json").read_text(encoding="utf-8"))
        return cls(folder=folder, **{**described, "blocks": tuple(described["blocks"])})


@dataclass
class Counter:
    """Images that went through the network, counted where they did."""

    passes: int = 0

    def add(self, images: int) -> None:
        self.passes += images

    def take(self) -> int:
        """What was counted since the last time."""
        taken, self.passes = self.passes, 0
        return taken


@dataclass(frozen=True)
class Opened:
    """A contender, its model loaded, ready to explain the case's image again and again."""

    explain: Callable[[], Map]
    counter: Counter
    engine: str
    """The raw engine that its passes run on, a name from ``raw.ENGINES``."""
    prepare: Callable[[], None] = field(default=lambda: None)
    """What its authors do once for all images: counts as memory, not as time."""


@dataclass(frozen=True)
class Contender:
    """One line of the comparison."""

    name: str
    needs: tuple[str, ...]
    """The packages it imports, the explainer's own first."""
    settings: str
    """What was chosen where the contender leaves a choice."""
    open: Callable[[Case], Opened]
