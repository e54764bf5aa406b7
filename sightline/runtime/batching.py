"""The hot loop: masked images, packed across blocks and images into the engine's one fixed batch.

On a GPU the loop never waits for the device: masks, passes and the picking of scores are enqueued on the engine's one
stream, the scores of a mask set stay on the device until its last mask is scored, and by then the next batch is already
enqueued. On a CPU a pass is over when it returns. (A second batch, masked on one core while the other computes, was
measured and left out: it takes the cores from the engine, whose own threads then wait for each other.)
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from sightline.bindings import Engine
from sightline.bundle import PROBABILITIES
from sightline.errors import EngineError, OutOfMemoryError
from sightline.kernels import Kernels, kernels_for
from sightline.runtime.masks import MaskSet

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class Scored:
    """The scores s_k = p_c(I ⊙ M_k) of a mask set (or z_c, as the method has it), on the host.

    With its share of the time they took, in seconds.
    """

    masks: MaskSet
    scores: npt.NDArray[np.float64] = field(init=False)
    masking: float = 0.0
    passes: float = 0.0

    def __post_init__(self) -> None:
        self.scores = np.zeros(len(self.masks))


@dataclass(eq=False)
class _Pending:
    """A mask set whose scores are being written into an array of the device."""

    scored: Scored
    scores: npt.NDArray[np.float64]
    enqueued: int = 0

    @property
    def complete(self) -> bool:
        return self.enqueued == len(self.scored.masks)


@dataclass(frozen=True)
class _Segment:
    """A stretch of one batch filled with masks of one set."""

    pending: _Pending
    batch: slice
    of_set: slice


class MaskedPasses:
    """Scores masks on an engine that has ``classifier.onnx`` open at a fixed batch size.

    Never more than one batch of masked images exists: memory does not grow with the number of masks. Where the device
    has no room for the batch, it is halved, for good, and that is logged.
    """

    def __init__(
        self, open_batch: Callable[[int], Engine], batch_size: int, image: str, output: str = PROBABILITIES
    ) -> None:
        """Open the engine.

        Args:
            open_batch: opens the classifier at a batch size.
            batch_size: masked images per pass.
            image: the name of the image among the inputs.
            output: the name of the scores, N×K, among the outputs.

        Raises:
            OutOfMemoryError: the device has no room even for a batch of one.
            EngineError: the engine cannot open the classifier.
        """
        self._open_batch = open_batch
        self._image = image
        self._output = output
        self._open(batch_size)

    def _open(self, batch_size: int) -> None:
        while True:
            try:
                self.engine = self._open_batch(batch_size)
                break
            except OutOfMemoryError as error:
                batch_size = self._halved(batch_size, error)
        self.kernels: Kernels = kernels_for(self.engine.device, self.engine.stream)
        self._input: npt.NDArray[Any] = self.engine.buffers[self._image]
        self._outputs: npt.NDArray[Any] = self.engine.buffers[self._output]

    @property
    def batch_size(self) -> int:
        """Masked images per pass of the engine."""
        return len(self._input)

    def close(self) -> None:
        """Free the engine."""
        self.engine.close()

    def score(self, sets: Iterable[MaskSet], advanced: Callable[[int], None] | None = None) -> Iterator[Scored]:
        """Score mask sets in order, each yielded as soon as its last mask is scored.

        Sets are drawn only when the batch has room, so a generator of them may run other work (the attribution pass of
        the next image) in between. The last batch is padded with zeros, never shrunk. On a GPU a set is yielded one
        batch later, so that the device has work while the host waits for the scores.

        Args:
            sets: none of them empty.
            advanced: called with the number of masks scored (on a GPU: enqueued), once per batch.

        Raises:
            OutOfMemoryError: the device has no room even for a batch of one.
            EngineError: the engine failed, or the network answers with NaN or infinity.
        """
        waiting: deque[_Pending] = deque()
        segments: list[_Segment] = []
        filled = ready = 0
        for masks in sets:
            pending = _Pending(Scored(masks), self.kernels.zeros(len(masks)))
            waiting.append(pending)
            done = 0
            while done < len(masks):
                count = min(len(masks) - done, self.batch_size - filled)
                segment = _Segment(pending, slice(filled, filled + count), slice(done, done + count))
                self._mask(segment)
                segments.append(segment)
                filled += count
                done += count
                if filled == self.batch_size:
                    self._run(segments)
                    if advanced is not None:
                        advanced(filled)
                    segments, filled = [], 0
                    complete = sum(pending.complete for pending in waiting)
                    for _ in range(complete if self.engine.device == "cpu" else ready):
                        yield self._finish(waiting.popleft())
                    ready = complete - ready
        if filled:
            self.kernels.write(self._input[filled:], 0)
            self._run(segments)
            if advanced is not None:
                advanced(filled)
        while waiting:
            yield self._finish(waiting.popleft())

    def _mask(self, segment: _Segment) -> None:
        began = time.perf_counter()
        masks = segment.pending.scored.masks
        self.kernels.mask_into(
            self._input[segment.batch],
            masks.image,
            masks.maps[segment.of_set],
            masks.affine[segment.of_set],
            masks.layout,
            masks.window and masks.window._replace(offsets=masks.window.offsets[segment.of_set]),
        )
        segment.pending.scored.masking += time.perf_counter() - began

    def _run(self, segments: list[_Segment]) -> None:
        """Pass the batch that these segments fill, and pick their scores."""
        began = time.perf_counter()
        try:
            self.engine.run()
        except OutOfMemoryError as error:
            self._shrink(error)
            for piece in _regrouped(segments, self.batch_size):
                for segment in piece:
                    self._mask(segment)
                self._run(piece)
            return
        filled = segments[-1].batch.stop
        per_image = (time.perf_counter() - began) / filled
        for segment in segments:
            count = segment.batch.stop - segment.batch.start
            self.kernels.pick(
                segment.pending.scores[segment.of_set],
                self._outputs[segment.batch],
                segment.pending.scored.masks.target,
            )
            segment.pending.enqueued += count
            segment.pending.scored.passes += per_image * count

    def _finish(self, pending: _Pending) -> Scored:
        began = time.perf_counter()
        pending.scored.scores = self.kernels.to_host(pending.scores)
        pending.scored.passes += time.perf_counter() - began
        if not np.isfinite(pending.scored.scores).all():
            raise EngineError(
                "the network answers a masked image with NaN or infinity: check that its weights are finite and "
                "that it copes with dark images."
            )
        return pending.scored

    def _shrink(self, error: OutOfMemoryError) -> None:
        smaller = self._halved(self.batch_size, error)
        self.engine.close()  # first: there is no room for both
        self._open(smaller)

    @staticmethod
    def _halved(batch_size: int, error: OutOfMemoryError) -> int:
        if batch_size == 1:
            raise OutOfMemoryError(f"there is no room even for a batch of one image: {error}") from error
        logger.warning("no room for a batch of %d: going on with %d (%s)", batch_size, batch_size // 2, error)
        return batch_size // 2


def _regrouped(segments: Iterable[_Segment], batch_size: int) -> Iterator[list[_Segment]]:
    """The same masks in smaller batches."""
    piece: list[_Segment] = []
    filled = 0
    for segment in segments:
        done = segment.of_set.start
        while done < segment.of_set.stop:
            count = min(segment.of_set.stop - done, batch_size - filled)
            piece.append(_Segment(segment.pending, slice(filled, filled + count), slice(done, done + count)))
            filled += count
            done += count
            if filled == batch_size:
                yield piece
                piece, filled = [], 0
    if piece:
        yield piece
