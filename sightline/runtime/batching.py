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
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from sightline.bindings import Engine
from sightline.bindings.engine import FACTOR
from sightline.bundle import PROBABILITIES
from sightline.errors import EngineError, OutOfMemoryError, SightlineError, TargetError
from sightline.kernels import Kernels, kernels_for
from sightline.runtime.masks import MaskSet

logger = logging.getLogger(__name__)


Doubles = npt.NDArray[np.float64]
Scorer: TypeAlias = "int | Callable[[Doubles], Doubles]"
"""A class, or a function of the probabilities, N×K, to N scores."""


@dataclass(frozen=True, eq=False)
class Task:
    """Masks of one image, to be scored for some targets."""

    masks: MaskSet
    scorers: tuple[Scorer, ...]
    output: str = PROBABILITIES
    """The output of the classifier that a class is read from."""


@dataclass(eq=False)
class Result:
    """The scores s_k = p_c(I ⊙ M_k) of a task (or z_c, as the method has it; or a function of the probabilities).

    With its share of the time they took, in seconds.
    """

    task: Task
    scores: Doubles = field(init=False)
    """T×K: by scorer, then by mask. On the host."""
    masking: float = 0.0
    passes: float = 0.0
    error: SightlineError | None = None
    """Why the scores are worth nothing: the network answers with NaN, or a scorer does."""

    def __post_init__(self) -> None:
        self.scores = np.zeros((len(self.task.scorers), len(self.task.masks)))


@dataclass(eq=False)
class _Pending:
    """A task whose scores are being written into an array of the device."""

    result: Result
    scores: Doubles
    enqueued: int = 0
    fetched: Callable[[], npt.NDArray[Any]] | None = None
    """Waits for the scores, once the last of them are enqueued."""

    @property
    def complete(self) -> bool:
        return self.enqueued == len(self.result.task.masks)


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

    def __init__(self, open_batch: Callable[[int], Engine], batch_size: int, image: str) -> None:
        """Open the engine.

        Args:
            open_batch: opens the classifier at a batch size.
            batch_size: masked images per pass.
            image: the name of the image among the inputs.

        Raises:
            OutOfMemoryError: the device has no room even for a batch of one.
            EngineError: the engine cannot open the classifier.
        """
        self._open_batch = open_batch
        self._image = image
        self._filled = 0
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
        self._factor: npt.NDArray[Any] | None = self.engine.buffers.get(FACTOR)
        self._forget()

    def _forget(self) -> None:
        """Write every image anew before it is masked next."""
        self._images: list[npt.NDArray[Any] | None] = [None] * len(self._input)

    @property
    def batch_size(self) -> int:
        """Masked images per pass of the engine."""
        return len(self._input)

    @property
    def room(self) -> int:
        """How many masks the batch that is being filled can still take."""
        return self.batch_size - self._filled

    def close(self) -> None:
        """Free the engine."""
        self.engine.close()

    def score(
        self, tasks: Iterable[Task | None], advanced: Callable[[int], None] | None = None
    ) -> Iterator[Result | None]:
        """Score masks in order, a task yielded as soon as its last mask is scored.

        Tasks are drawn only when the batch has room, so a generator of them may run other work (the attribution pass of
        the next image) in between. The last batch is padded with zeros, never shrunk. On a GPU a task is yielded one
        batch later, so that the device has work while the host waits for the scores; a scorer that is a function makes
        the host wait for every batch.

        Args:
            tasks: none of them without masks. A None among them comes back as None once all before it is scored, its
                last batch padded.
            advanced: called with the number of masks scored (on a GPU: enqueued), once per batch.

        Raises:
            OutOfMemoryError: the device has no room even for a batch of one.
            EngineError: the engine failed, or masks of another run wait in its batch: whoever draws the tasks of that
                one asks for this one.
        """
        self._unfilled()
        try:
            yield from self._scored(tasks, advanced)
        finally:
            self._filled = 0

    def _scored(self, tasks: Iterable[Task | None], advanced: Callable[[int], None] | None) -> Iterator[Result | None]:
        waiting: deque[_Pending] = deque()
        segments: list[_Segment] = []
        self._filled = ready = 0
        self._forget()

        def passed() -> None:
            nonlocal segments
            self._run(segments)
            if advanced is not None:
                advanced(self._filled)
            segments, self._filled = [], 0

        def finished() -> Iterator[Result]:
            if self._filled:
                self.kernels.write((self._input if self._factor is None else self._factor)[self._filled :], 0)
                passed()
            while waiting:
                yield self._finish(waiting.popleft())

        for task in tasks:
            if task is None:
                yield from finished()
                ready = 0
                yield None
                continue
            masks = task.masks
            pending = _Pending(Result(task), self.kernels.zeros(len(task.scorers), len(masks)))
            waiting.append(pending)
            done = 0
            while done < len(masks):
                count = min(len(masks) - done, self.room)
                batch = slice(self._filled, self._filled + count)
                segment = _Segment(pending, batch, slice(done, done + count))
                self._mask(segment)
                segments.append(segment)
                self._filled += count
                done += count
                if not self.room:
                    passed()
                    complete = sum(pending.complete for pending in waiting)
                    for _ in range(complete if self.engine.device == "cpu" else ready):
                        yield self._finish(waiting.popleft())
                    ready = complete - ready
        yield from finished()

    def classify(self, images: Iterable[npt.NDArray[np.float32]]) -> Iterator[Doubles]:
        """The probabilities of whole images, in the engine's fixed batches: N×K for each batch, the last one shorter.

        Args:
            images: as the network takes them, preprocessed; drawn as the batches are filled.

        Raises:
            OutOfMemoryError: the device has no room even for a batch of one.
            EngineError: the engine failed, or the network answers with NaN or infinity.
        """
        waiting: list[npt.NDArray[np.float32]] = []
        for image in images:
            waiting.append(image)
            if len(waiting) == self.batch_size:
                yield from self._classified(waiting)
                waiting = []
        if waiting:
            yield from self._classified(waiting)

    def _classified(self, images: list[npt.NDArray[np.float32]]) -> Iterator[Doubles]:
        while images:
            self._unfilled()
            batch = images[: self.batch_size]
            self._forget()
            for place, image in zip(self._input, batch, strict=False):
                self.kernels.write(place, image)
            self.kernels.write(self._input[len(batch) :], 0)
            if self._factor is not None:
                self.kernels.write(self._factor, 1)
            try:
                self.engine.run()
            except OutOfMemoryError as error:
                self._shrink(error)
                continue
            found = self._found(PROBABILITIES, slice(0, len(batch)))
            if not np.isfinite(found).all():
                raise EngineError(
                    "the network answers an image with NaN or infinity: check that the image is preprocessed as the "
                    "network expects (sightline inspect) and that its weights are finite."
                )
            yield found
            images = images[len(batch) :]

    def _unfilled(self) -> None:
        if self._filled:
            raise EngineError(
                "this explainer is in the middle of a batch, whose masks this would overwrite: what draws images for "
                "it must not explain or classify with it; open a second explainer for that."
            )

    def _mask(self, segment: _Segment) -> None:
        began = time.perf_counter()
        masks = segment.pending.result.task.masks.stretch(segment.of_set.start, segment.of_set.stop)
        if self._factor is None:
            out, image = self._input[segment.batch], masks.image
        else:  # the engine multiplies, and the images stay where they are
            out, image = self._factor[segment.batch], None
            for place in range(segment.batch.start, segment.batch.stop):
                if self._images[place] is not masks.image:
                    self.kernels.write(self._input[place], masks.image)
                    self._images[place] = masks.image
        self.kernels.mask_into(out, image, masks.maps, masks.affine, masks.layout, masks.window)
        segment.pending.result.masking += time.perf_counter() - began

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
            for row, scorer in enumerate(segment.pending.result.task.scorers):
                out = segment.pending.scores[row, segment.of_set]
                if callable(scorer):
                    try:
                        found = scores(scorer, self._found(PROBABILITIES, segment.batch))
                    except TargetError as error:
                        segment.pending.result.error = error
                    else:
                        self.kernels.write(out, found)
                else:
                    output = self.engine.buffers[segment.pending.result.task.output]
                    self.kernels.pick(out, output[segment.batch], scorer)
            segment.pending.enqueued += count
            if segment.pending.complete:  # at once: the host will not have to wait for the next batch as well
                segment.pending.fetched = self.kernels.fetch(segment.pending.scores)
            segment.pending.result.passes += per_image * count

    def _found(self, output: str, batch: slice) -> Doubles:
        """Rows of an output of the last pass, on the host: a copy."""
        return self.kernels.to_host(self.engine.buffers[output][batch]).astype(np.float64)

    def _finish(self, pending: _Pending) -> Result:
        began = time.perf_counter()
        assert pending.fetched is not None  # it is complete
        pending.result.scores = pending.fetched()
        pending.result.passes += time.perf_counter() - began
        if not np.isfinite(pending.result.scores).all():
            pending.result.error = EngineError(
                "the network answers a masked image with NaN or infinity: check that its weights are finite and "
                "that it copes with dark images."
            )
        return pending.result

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


def scores(scorer: Callable[[Doubles], Doubles], probabilities: Doubles) -> Doubles:
    """What a function of the user's makes of the probabilities: N×K -> N.

    Raises:
        TargetError: it returns something else than N finite numbers.
    """
    found = np.asarray(scorer(probabilities))
    if found.shape != (len(probabilities),) or found.dtype.kind not in "fiub":
        raise TargetError(
            f"the target function returned {found.dtype} of shape {found.shape} for probabilities of shape "
            f"{probabilities.shape}: return one number for each row, e.g. lambda p: p[:, 3] + p[:, 7]."
        )
    if not np.isfinite(found).all():
        raise TargetError("the target function returned NaN or infinity: return finite numbers for any probabilities.")
    return found.astype(np.float64)


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
