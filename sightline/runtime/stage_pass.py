"""One stage of a hierarchy on an engine: a batch of decisions in, the evidence for each of them out."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sightline.bindings import Engine
from sightline.bundle import EVIDENCE, POSITION, SEED, SUPPORT, Block
from sightline.errors import EngineError
from sightline.kernels import kernels_for

Floats = npt.NDArray[np.float32]
OUTPUTS = (EVIDENCE, SUPPORT, POSITION)
"""Of a stage, what is bound. EVIDENCE stays on the device, but for the maps of the channels that are chosen."""
Place = tuple[int, ...]
"""Where a decision stands in its tensor: (class,) of the logits, (channel, row, column) of a block."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """The channels of a block that support one decision most, by falling support."""

    channels: tuple[int, ...]
    supports: tuple[float, ...]
    """Σ ReLU(G ⊙ A) over each of these channels."""
    total: float
    """The same over all channels of the block."""
    positions: tuple[tuple[int, int], ...]
    """Row and column of the largest entry of each."""
    maps: Floats
    """ReLU(G ⊙ A) of each: K×h×w, on the host."""


class StagePass:
    """Runs one ``stage.i.onnx``."""

    def __init__(self, block: Block, engine: Engine) -> None:
        """Take an engine that has a stage open.

        Args:
            block: what the stage walks down to.
            engine: runs it, at a fixed batch of decisions.
        """
        self.block = block
        self.engine = engine
        self.batch = int(engine.buffers[SEED].shape[0])
        self.passes = 0
        """How often the engine has run since it was opened here."""
        self.seconds = 0.0
        """The time of these runs."""
        self._kernels = kernels_for(engine.device, engine.stream)
        self._kernels.write(engine.buffers[SEED], 0)
        self._seeded: list[tuple[int, Place]] = []

    def load(self, features: Floats, image: Floats, name: str) -> None:
        """Take the image whose decisions follow.

        Args:
            features: of the block, C×h×w, on the host.
            image: as the network takes it, for the stages that need it.
            name: of the image among the inputs of the graph.
        """
        self._kernels.write(self.engine.buffers[self.block.features][0], features)
        if name in self.engine.buffers:
            self._kernels.write(self.engine.buffers[name][0], image)

    def __call__(self, decisions: Sequence[Place], top_k: int) -> Iterator[Evidence]:
        """The evidence for each decision, in order; full batches, the last one padded.

        Raises:
            EngineError: a pass failed, or its results are not finite.
        """
        for start in range(0, len(decisions), self.batch):
            batch = decisions[start : start + self.batch]
            self._seed(batch)
            began = time.perf_counter()
            self.engine.run()
            supports = self._kernels.to_host(self.engine.buffers[SUPPORT])
            self.seconds += time.perf_counter() - began
            self.passes += 1
            positions = self._kernels.to_host(self.engine.buffers[POSITION])
            for row in range(len(batch)):
                yield self._evidence(row, supports[row], positions[row], top_k)

    def _seed(self, batch: Sequence[Place]) -> None:
        """One 1 for every decision; the rows of the padding stay 0."""
        seed = self.engine.buffers[SEED]
        wanted = list(enumerate(batch))
        for value, entries in ((0.0, self._seeded), (1.0, wanted)):
            for row, place in entries:
                view = seed[row].reshape(-1)  # of the engine's own buffer
                index = int(np.ravel_multi_index(place, seed.shape[1:]))
                self._kernels.write(view[index : index + 1], value)
        self._seeded = wanted

    def _evidence(self, row: int, supports: Floats, positions: npt.NDArray[np.int64], top_k: int) -> Evidence:
        total = float(supports.sum(dtype=np.float64))
        if not np.isfinite(total):
            raise EngineError(
                f"the evidence at block {self.block.name!r} holds NaN or infinity: check that the image is "
                "preprocessed as the network expects (sightline inspect) and that its weights are finite."
            )
        order = np.argsort(-supports, kind="stable")[:top_k]
        order = order[supports[order] > 0]
        maps = self._kernels.take(self.engine.buffers[EVIDENCE][row], order)
        return Evidence(
            channels=tuple(order.tolist()),
            supports=tuple(supports[order].tolist()),
            total=total,
            positions=tuple(divmod(int(position), self.block.width) for position in positions[order]),
            maps=np.array(self._kernels.to_host(maps), np.float32),
        )
