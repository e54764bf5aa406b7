"""The engines of a hierarchy: one forward pass that yields every block's features, and the stages between blocks."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sightline import cache
from sightline.bindings import Engine, attribution_engine, available, choose, open_engine
from sightline.bundle import LOGITS, PREDICTED, PROBABILITIES, SEED, TARGET, Bundle
from sightline.errors import EngineError
from sightline.kernels import kernels_for
from sightline.runtime.stage_pass import OUTPUTS, StagePass

Floats = npt.NDArray[np.float32]

BATCH: Mapping[str, int] = {"cpu": 8, "cuda": 32}
"""Decisions per pass of a stage, at most: a level grows fourfold from the one before, so deep stages see fewer."""
GROWTH = 4
ROOM = 1 << 30
"""Bytes that a stage's batch may take; larger feature maps get smaller batches."""


@dataclass(frozen=True, eq=False)
class Seen:
    """What a network makes of one image. Everything is on the host: the next pass overwrites the engine's buffers."""

    image: Floats
    """As the network takes it."""
    digest: str
    """SHA-256 of it."""
    features: tuple[Floats, ...]
    """Of every block, C×h×w."""
    logits: Floats
    probabilities: Floats
    seconds: float
    """Of the pass."""


class StageEngines:
    """Opens what a hierarchy needs, all on one engine and in float32: stages when they are first asked for."""

    def __init__(self, bundle: Bundle, engine: str, threads: int | None) -> None:
        """Open the forward pass.

        Raises:
            BundleError: the bundle holds no stages.
            EngineError, MissingPackageError: as :func:`sightline.bindings.open_engine`.
        """
        self.bundle = bundle
        self.stages = bundle.stages  # says at once where there are none
        chosen = choose(engine, variants=bundle.variants, precision="fp32") if engine == "auto" else engine
        self.name = attribution_engine(chosen)
        self._device = next(entry.device for entry in available() if entry.name == self.name)
        self._threads = threads
        self.opened: dict[int, StagePass] = {}
        """By the index of the block that is walked down to."""
        self.seen: Seen | None = None
        """The image looked at last."""
        spec = bundle.input
        shape = spec.shape if spec.layout == "NCHW" else (spec.height, spec.width, spec.channels)
        self._outputs = [*(block.features for block in bundle.blocks), LOGITS, PROBABILITIES]
        self.forward = self._open(bundle.attribution, {spec.name: (1, *shape)}, self._outputs)

    def look(self, image: Floats) -> Seen:
        """The forward pass of an image, as the network takes it; the stages then work on this image.

        Raises:
            EngineError: the pass failed, or the network answers with NaN or infinity.
        """
        buffers = self.forward.buffers
        kernels = kernels_for(self.forward.device, self.forward.stream)
        kernels.write(buffers[self.bundle.input.name][0], image)
        kernels.write(buffers[TARGET], PREDICTED)
        began = time.perf_counter()
        self.forward.run()
        found = [np.array(kernels.to_host(buffers[name])[0], np.float32) for name in self._outputs]
        seconds = time.perf_counter() - began
        for name, values in zip(self._outputs, found, strict=True):
            if not np.isfinite(values).all():
                raise EngineError(
                    f"the network answers this image with NaN or infinity ({name}): check that the image is "
                    "preprocessed as the network expects (sightline inspect) and that its weights are finite."
                )
        *features, logits, probabilities = found
        digest = hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest()
        self.seen = Seen(image, digest, tuple(features), logits, probabilities, seconds)
        for stage in self.opened.values():
            self._load(stage, self.seen)
        return self.seen

    def stage(self, index: int) -> StagePass:
        """The stage down to a block, opened where it is not open yet, on the image looked at last."""
        if index not in self.opened:
            blocks, stage = self.bundle.blocks, self.stages[index]
            decision: tuple[int, ...] = (self.bundle.classes,)
            if index + 1 < len(blocks):
                above = blocks[index + 1]
                decision = (above.channels, above.height, above.width)
            wanted = min(BATCH[self._device], GROWTH ** (len(blocks) - 1 - index))
            batch = max(1, min(wanted, ROOM // stage.memory))
            engine = self._open(self.bundle.path / stage.file, {SEED: (batch, *decision)}, OUTPUTS)
            self.opened[index] = StagePass(blocks[index], engine)
            if self.seen is not None:
                self._load(self.opened[index], self.seen)
        return self.opened[index]

    @property
    def passes(self) -> int:
        """How often a stage has run."""
        return sum(stage.passes for stage in self.opened.values())

    @property
    def seconds(self) -> float:
        """The time of these runs."""
        return sum(stage.seconds for stage in self.opened.values())

    def close(self) -> None:
        """Free every engine."""
        self.forward.close()
        for stage in self.opened.values():
            stage.engine.close()
        self.opened.clear()

    def _load(self, stage: StagePass, seen: Seen) -> None:
        stage.load(seen.features[stage.block.index], seen.image, self.bundle.input.name)

    def _open(self, path: Path, shapes: Mapping[str, Sequence[int]], outputs: Sequence[str]) -> Engine:
        folder = cache.folder() / self.bundle.hash[:16]
        return open_engine(path, self.name, shapes=shapes, outputs=outputs, threads=self._threads, cache=folder)
