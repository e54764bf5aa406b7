"""The explainer: a bundle, opened on an engine, ready to explain one image after the other."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import overload

import numpy as np
import numpy.typing as npt

from sightline.bindings.engine import Precision
from sightline.bundle import Bundle, load
from sightline.errors import EngineError, MethodError, PrecisionError, StreamError, TargetError
from sightline.numeric import whole_or_none
from sightline.runtime import budget, pipeline
from sightline.runtime.ada_sise import AdaSISE
from sightline.runtime.attributions import AttributionPass
from sightline.runtime.cam import GradCAM, GradCAMPlusPlus, LayerCAM
from sightline.runtime.channel import WhenFull
from sightline.runtime.engines import OpenBatch, open_engines
from sightline.runtime.explaining import CountsFrom, Encode, OnlyIf, Settings
from sightline.runtime.explanation import Explanation
from sightline.runtime.frames import Frame
from sightline.runtime.gate import THRESHOLD, Gate, Gates, pearson
from sightline.runtime.image import ImageLike, network_input
from sightline.runtime.job import Job
from sightline.runtime.memory_plan import MemoryPlan
from sightline.runtime.method import Method
from sightline.runtime.packing import Pace, Progress, answers
from sightline.runtime.remise import REMISE
from sightline.runtime.requests import Answer, Request
from sightline.runtime.rise import RISE
from sightline.runtime.score_cam import ScoreCAM
from sightline.runtime.sise import SISE
from sightline.runtime.stream import Stream
from sightline.runtime.targets import Target, TargetFunction, Targets

_METHODS: tuple[Callable[..., Method], ...] = (
    SISE,
    AdaSISE,
    REMISE,
    RISE,
    ScoreCAM,
    GradCAM,
    GradCAMPlusPlus,
    LayerCAM,
)
METHODS: Mapping[str, Callable[..., Method]] = {method().name: method for method in _METHODS}
"""By name: each with its default parameters."""

logger = logging.getLogger(__name__)


class Explainer:
    """Explains the decisions of one network. One explanation at a time: give every thread an explainer of its own."""

    def __init__(
        self,
        bundle: Bundle | str | Path,
        method: str | Method = "sise",
        engine: str | OpenBatch = "auto",
        batch_size: int | None = None,
        *,
        precision: Precision = "fp32",
        gate: Iterable[ImageLike] | None = None,
        gate_threshold: float = THRESHOLD,
        threads: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Open a bundle on an engine.

        Args:
            bundle: a bundle or the path of one.
            method: a name of ``METHODS`` (``"sise"``, ``"ada-sise"``, ``"remise"``, ``"rise"``, ``"score-cam"``,
                ``"grad-cam"``, ``"grad-cam++"``, ``"layer-cam"``), or one with parameters, e.g. ``SISE(mu=0.3)``.
            engine: a name from ``sightline doctor``; ``"auto"`` for the fastest one installed; or a function that
                opens an engine of your own at a batch size.
            batch_size: masked images per pass of the engine. By default the fastest one that fits into memory,
                measured once for this network, engine and machine; meanwhile the engine is open at two batch sizes.
            precision: ``"fp32"``, or a lower one for the masked passes (``"tf32"``, ``"fp16"``, ``"bf16"``, ``"int8"``,
                as the engine has it). The attribution pass always runs in float32.
            gate: images on which a lower precision is compared with float32 now. Needed once for each bundle, engine,
                method and machine; without them the acceptance remembered from then counts.
            gate_threshold: Pearson's correlation that the maps of every such image must reach.
            threads: how many CPU threads a pass may use; by default the engine decides.
            progress: called as ``progress(done, total)`` with the number of masks scored, once per batch.

        Raises:
            BundleError: the bundle cannot be read, or lacks the graph for this precision.
            MethodError: there is no such method.
            EngineError: there is no such engine, it cannot open the bundle, or a number is out of range.
            OutOfMemoryError: not even a batch of one image fits into memory.
            PrecisionError: the engine does not have the precision, or its maps do not agree with float32's.
            UngatedError: the precision has not been compared with float32 yet; pass ``gate``.
            MissingPackageError: the engine's package is not installed.
        """
        batch_size = whole_or_none("batch_size", batch_size, EngineError)
        threads = whole_or_none("threads", threads, EngineError)
        self.bundle = bundle if isinstance(bundle, Bundle) else load(bundle)
        self.method: Method = _method(method)
        self._progress = progress
        self._engines = open_engines(self.bundle, engine, precision, batch_size, threads)
        self._passes = self._engines.passes
        self._pace = Pace()
        self._attribute = AttributionPass(self.bundle, self._engines.attribution)
        self._gates = Gates(self._engines.facts, precision, self.engine)
        self.gate: Gate | None = None
        """How well the maps of this precision agree with float32's; None for float32 itself."""
        try:
            if precision != "fp32":
                self.gate = self._accepted(gate, gate_threshold, threads)
        except BaseException:
            self.close()
            raise

    @property
    def engine(self) -> str:
        """Name of the engine that runs the masked passes."""
        return self._passes.engine.name

    @property
    def precision(self) -> Precision:
        """What the masked passes are computed in."""
        return self._passes.engine.precision

    @property
    def batch_size(self) -> int:
        """Masked images per pass of the engine."""
        return self._passes.batch_size

    @property
    def memory_plan(self) -> MemoryPlan:
        """What the engines were expected to hold, computed before they were opened."""
        return self._engines.plan

    @overload
    def __call__(
        self,
        image: ImageLike,
        target: Target | None = None,
        *,
        max_passes: int | None = None,
        deadline: float | None = None,
    ) -> Explanation: ...

    @overload
    def __call__(
        self,
        image: ImageLike,
        target: Targets,
        *,
        max_passes: int | None = None,
        deadline: float | None = None,
    ) -> list[Explanation]: ...

    def __call__(
        self,
        image: ImageLike,
        target: Target | Targets | None = None,
        *,
        max_passes: int | None = None,
        deadline: float | None = None,
    ) -> Explanation | list[Explanation]:
        """Explain the score of one class, or several, on one image.

        Args:
            image: a path, a PIL image, uint8 or uint16 pixels (H×W or H×W×C), or a float array C×H×W that is already
                preprocessed.
            target: index or label of the class; None for the one predicted; a function of the probabilities, N×K
                float64, to N scores; or a list of these, for a list of explanations: their masks are scored together,
                one that several targets choose only once.
            max_passes: score at most so many masks, in order of their share of α over all blocks.
            deadline: seconds from now after which no further batch of masks is begun; the first one always is. The map
                is then the best one from the masks scored so far, and ``completeness`` tells how much they cover.

        Raises:
            ImageError: the image cannot be explained.
            TargetError: there is no such class, or the function does not return finite numbers.
            MethodError: the budget is out of range.
            EngineError: a pass failed, or the network answers with NaN.
        """
        several = isinstance(target, (list, tuple))
        (found,) = self._explained([image], target, max_passes, deadline)
        return found if several else found[0]

    @overload
    def batch(
        self,
        images: Iterable[ImageLike],
        target: Target | None = None,
        *,
        max_passes: int | None = None,
        deadline: float | None = None,
    ) -> Iterator[Explanation]: ...

    @overload
    def batch(
        self,
        images: Iterable[ImageLike],
        target: Targets,
        *,
        max_passes: int | None = None,
        deadline: float | None = None,
    ) -> Iterator[list[Explanation]]: ...

    def batch(
        self,
        images: Iterable[ImageLike],
        target: Target | Targets | None = None,
        *,
        max_passes: int | None = None,
        deadline: float | None = None,
    ) -> Iterator[Explanation] | Iterator[list[Explanation]]:
        """Explain images as they come, in order: the masks of neighbouring images share batches.

        With few masks per image this saves the padding of their last batches. An explanation is yielded once its last
        mask is scored; images are drawn ahead only as far as it takes to fill that batch. Arguments and errors as for
        a call; the budget is that of each image, and under a deadline images do not share batches. An error ends the
        iteration.
        """
        found = self._explained(images, target, max_passes, deadline)
        return found if isinstance(target, (list, tuple)) else (one for (one,) in found)

    def classify(self, images: Iterable[ImageLike]) -> Iterator[npt.NDArray[np.float64]]:
        """The probabilities of whole images, on the engine and in the batches of the masked passes.

        Args:
            images: as for a call, drawn as the batches are filled.

        Returns:
            N×K for every batch, the last one shorter.

        Raises:
            ImageError: an image cannot be read.
            EngineError: a pass failed, or the network answers with NaN.
        """
        self._free()
        return self._passes.classify(network_input(image, self.bundle.input) for image in images)

    def probabilities(self, image: ImageLike) -> npt.NDArray[np.float64]:
        """What the network gives every class on one image: K, computed in float32, whatever the masked passes are.

        Touches nothing of the masked passes: it may be called while :meth:`answer` draws its next request.

        Raises:
            ImageError: the image cannot be read.
            EngineError: the pass failed, or the network answers with NaN.
        """
        self._free()
        array, whole = network_input(image, self.bundle.input), self._engines.whole
        if whole is not None and whole.ready():
            _, probabilities = whole(array)
        else:
            probabilities = self._attribute(array, None).probabilities
        return probabilities.astype(np.float64)

    def answer(self, requests: Iterable[Request | None], *, progress: Progress | None = None) -> Iterator[Answer]:
        """Answer requests of any kind as they come, in order: their masks share batches, whatever is asked about them.

        For what runs on and on: a stream, a server. A request that cannot be answered is an answer with its error; the
        others go on. A deadline counts from the request's ``began``.

        Args:
            requests: drawn only when the batch has room. A None among them says that there is no other at the moment:
                what is in hand is finished, its last batch padded, before more is drawn. A generator over a queue
                yields None when the queue is empty and waits when that has been drawn, too.
            progress: instead of the explainer's own; what it raises ends the answers between two batches.

        Raises:
            EngineError: a pass failed: what was drawn and not answered is lost.
        """
        return answers(requests, self._begun, self._passes, progress or self._progress, self._pace)

    def stream(
        self,
        frames: Iterable[Frame | ImageLike],
        *,
        deadline: float | None = None,
        only_if: OnlyIf | None = None,
        target: Target | Targets | None = None,
        max_passes: int | None = None,
        queue: int = 4,
        when_full: WhenFull = "wait",
        encode: Encode | None = None,
        counts_from: CountsFrom = "arrival",
    ) -> Stream:
        """Explain frames as they come, on threads of their own: read, decode, classify and explain, encode.

        The results come in the order of the frames, also those of frames that were not explained or could not be read.
        Masks of frames that wait share batches. Until the stream is closed it has the explainer to itself.

        Args:
            frames: images, or :class:`~sightline.runtime.frames.Frame` with a name and a time. Drawn from on a thread
                of their own; an error there ends the stream, after the results before it.
            deadline: seconds from the arrival of a frame, its time in the queue included, from which on no batch of its
                masks is begun; the first one always is.
            only_if: called with the prediction for every frame, on the thread of the explainer; only where it says yes
                is the frame explained.
            target: as for a call.
            max_passes: of every frame, as for a call.
            queue: how many frames may wait to be decoded; as many explanations may wait to be encoded, and as many
                results to be taken.
            when_full: ``"wait"`` lets the source wait, ``"drop-oldest"`` drops the frame that has waited longest: its
                number is left out, and it is counted.
            encode: called with the result of every frame that was explained, on a thread of its own, to draw or to
                write it; what it returns is the result's ``encoded``.
            counts_from: where the deadline of a frame begins: with its ``"arrival"``, or with its ``"turn"``, for a
                source that is read ahead and whose frames nobody waits for, as files are.

        Returns:
            an iterator of results, and a context manager that ends the threads however it is left. What a callback
            raises surfaces from the iterator, after the results before it.

        Raises:
            StreamError, MethodError, TargetError: an argument is out of range.
        """
        settings = Settings(deadline, only_if, target, max_passes, queue, when_full, encode, counts_from)
        if only_if is not None and self._engines.whole is not None:
            self._engines.whole.ready()  # the first frame does not wait for it
        return Stream(self, frames, settings)

    def _explained(
        self,
        images: Iterable[ImageLike],
        target: Target | Targets | None,
        max_passes: int | None,
        deadline: float | None,
    ) -> Iterator[list[Explanation]]:
        """Of every image; what is wrong with the arguments is said at once, what is wrong with an image in its turn."""
        self._free()
        budget.check(max_passes, deadline)
        wanted = self._wanted(target)

        def requests() -> Iterator[Request | None]:
            for image in images:
                yield Request(image, wanted, max_passes=max_passes, deadline=deadline)
                if deadline is not None:
                    yield None  # its last masks do not wait for the next image

        def explanations() -> Iterator[list[Explanation]]:
            for answer in self.answer(requests()):
                if answer.error is not None:
                    raise answer.error
                yield answer.explanations

        return explanations()

    def _free(self) -> None:
        if pipeline.busy(self):
            raise StreamError("this explainer is explaining a stream: close that first, or open a second explainer.")

    def _begun(self, request: Request) -> Job:
        budget.check(request.max_passes, request.deadline)
        method = self.method if request.method is None else _method(request.method)
        if method.output not in self._passes.engine.buffers:
            raise EngineError(
                f"{self.engine} has no output {method.output!r}, by which {method.name} scores: open it too."
            )
        if method != self.method and self.precision != "fp32":
            self._gates.remembered(method, THRESHOLD if self.gate is None else self.gate.threshold)
        return Job(
            request.image,
            self._wanted(request.target),
            bundle=self.bundle,
            method=method,
            attribute=self._attribute,
            passes=self._passes,
            max_passes=request.max_passes,
            whole=self._engines.whole,
            seen=request.seen,
            only_if=request.only_if,
        )

    def _wanted(self, target: Target | Targets | None) -> tuple[int | TargetFunction | None, ...]:
        if isinstance(target, (list, tuple)) and not target:
            raise TargetError("the list of targets is empty: name at least one class, or pass None.")
        listed = target if isinstance(target, (list, tuple)) else [target]
        return tuple(one if one is None or callable(one) else self.bundle.target(one) for one in listed)

    def close(self) -> None:
        """Free the engines."""
        self._engines.close()

    def __enter__(self) -> Explainer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _accepted(self, images: Iterable[ImageLike] | None, threshold: float, threads: int | None) -> Gate:
        """The gate of this precision, remembered or made now."""
        if images is None:
            return self._gates.remembered(self.method, threshold)
        pictures = list(images)
        if not pictures:
            raise PrecisionError("the gate needs at least one image: pass gate=[images].")
        with Explainer(
            self.bundle, self.method, self._engines.attribution.name, self.batch_size, threads=threads
        ) as reference:
            gate = Gate(
                precision=self.precision,
                engine=self.engine,
                reference=reference.engine,
                correlations=tuple(
                    pearson(ours, theirs)
                    for ours, theirs in zip(self.batch(pictures), reference.batch(pictures), strict=True)
                ),
                threshold=threshold,
            )
        logger.info("%s", gate)
        gate.require()
        self._gates.keep(self.method, gate)
        return gate


def _method(method: str | Method) -> Method:
    if not isinstance(method, str):
        return method
    if method not in METHODS:
        raise MethodError(f"there is no method {method!r}. Methods: {', '.join(METHODS)}.")
    return METHODS[method]()
