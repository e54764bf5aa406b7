"""The hot loop: masked images, packed across blocks and images into the engine's one fixed batch."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from sightline.bindings import Engine
from sightline.bundle import PROBABILITIES
from sightline.errors import EngineError
from sightline.kernels import Kernels
from sightline.runtime.masks import MaskSet


@dataclass(eq=False)
class Scored:
    """The scores s_k = p_c(I ⊙ M_k) of a mask set, and its share of the time they took, in seconds."""

    masks: MaskSet
    scores: npt.NDArray[np.float64] = field(init=False)
    masking: float = 0.0
    passes: float = 0.0

    def __post_init__(self) -> None:
        self.scores = np.zeros(len(self.masks))


@dataclass(frozen=True)
class _Segment:
    """A stretch of one batch filled with masks of one set."""

    scored: Scored
    batch: slice
    of_set: slice


class MaskedPasses:
    """Scores masks on an engine that has ``classifier.onnx`` open at a fixed batch size.

    Never more than one batch of masked images exists: memory does not grow with the number of masks.
    """

    def __init__(self, engine: Engine, kernels: Kernels, image: str) -> None:
        """Take the engine, its kernels, and the name of the image among its inputs."""
        self._engine = engine
        self._kernels = kernels
        self._input: npt.NDArray[np.float32] = engine.buffers[image]
        self._probabilities: npt.NDArray[np.float32] = engine.buffers[PROBABILITIES]

    @property
    def batch_size(self) -> int:
        """Masked images per pass of the engine."""
        return len(self._input)

    def score(self, sets: Iterable[MaskSet], advanced: Callable[[int], None] | None = None) -> Iterator[Scored]:
        """Score mask sets in order, each yielded as soon as its last mask is scored.

        Sets are drawn only when the batch has room, so a generator of them may run other work (the attribution pass of
        the next image) in between. The last batch is padded with zeros, never shrunk.

        Args:
            sets: none of them empty.
            advanced: called with the number of masks scored, once per batch.

        Raises:
            EngineError: the engine failed, or the network answers with NaN or infinity.
        """
        waiting: deque[Scored] = deque()
        segments: list[_Segment] = []
        filled = 0
        for masks in sets:
            scored = Scored(masks)
            waiting.append(scored)
            done = 0
            while done < len(masks):
                count = min(len(masks) - done, self.batch_size - filled)
                segment = _Segment(scored, slice(filled, filled + count), slice(done, done + count))
                self._mask(segment)
                segments.append(segment)
                filled += count
                done += count
                if filled == self.batch_size:
                    self._run(segments, filled, advanced)
                    segments, filled = [], 0
                    unfinished = scored if done < len(masks) else None
                    while waiting and waiting[0] is not unfinished:
                        yield waiting.popleft()
        if filled:
            self._input[filled:] = 0
            self._run(segments, filled, advanced)
        yield from waiting

    def _mask(self, segment: _Segment) -> None:
        began = time.perf_counter()
        masks = segment.scored.masks
        self._kernels.mask_into(
            self._input[segment.batch],
            masks.image,
            masks.maps[segment.of_set],
            masks.affine[segment.of_set],
            masks.layout,
        )
        segment.scored.masking += time.perf_counter() - began

    def _run(self, segments: list[_Segment], filled: int, advanced: Callable[[int], None] | None) -> None:
        began = time.perf_counter()
        self._engine.run()
        per_image = (time.perf_counter() - began) / filled
        for segment in segments:
            scores = self._probabilities[segment.batch, segment.scored.masks.target]
            if not np.isfinite(scores).all():
                raise EngineError(
                    "the network answers a masked image with NaN or infinity: check that its weights are finite and "
                    "that it copes with dark images."
                )
            segment.scored.scores[segment.of_set] = scores
            segment.scored.passes += per_image * len(scores)
        if advanced is not None:
            advanced(filled)
