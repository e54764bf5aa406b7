"""The explainer: a bundle, opened on an engine, ready to explain one image after the other."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import overload

import numpy as np
import numpy.typing as npt

from sightline.bindings.engine import Precision
from sightline.bundle import Bundle, load
from sightline.errors import EngineError, MethodError, PrecisionError, TargetError, UngatedError
from sightline.runtime import budget
from sightline.runtime.ada_sise import AdaSISE
from sightline.runtime.attributions import AttributionPass
from sightline.runtime.batching import Task
from sightline.runtime.cam import GradCAM, GradCAMPlusPlus, LayerCAM
from sightline.runtime.engines import OpenBatch, open_engines
from sightline.runtime.explanation import Explanation
from sightline.runtime.gate import THRESHOLD, Gate, pearson
from sightline.runtime.image import ImageLike, network_input
from sightline.runtime.job import Job
from sightline.runtime.memo import Memo
from sightline.runtime.memory_plan import MemoryPlan
from sightline.runtime.method import Method
from sightline.runtime.remise import REMISE
from sightline.runtime.rise import RISE
from sightline.runtime.score_cam import ScoreCAM
from sightline.runtime.sise import SISE
from sightline.runtime.targets import Target, Targets

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

_GATES = Memo("gate")

Progress = Callable[[int, int], None]


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
                measured once for this network, engine and machine.
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
        for name, value in (("batch_size", batch_size), ("threads", threads)):
            if value is not None and (not isinstance(value, int) or value < 1):
                raise EngineError(f"{name}={value!r} is out of range: choose a whole number from 1, or None.")
        self.bundle = bundle if isinstance(bundle, Bundle) else load(bundle)
        self.method: Method = _method(method)
        self._progress = progress
        self._engines = open_engines(self.bundle, engine, precision, batch_size, threads, self.method.output)
        self._passes = self._engines.passes
        self._attribute = AttributionPass(self.bundle, self._engines.attribution, rivals=self.method.rivals)
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
        (found,) = self._explained([image], _listed(target), max_passes, deadline)
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
        found = self._explained(images, _listed(target), max_passes, deadline)
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
        return self._passes.classify(network_input(image, self.bundle.input) for image in images)

    def _explained(
        self,
        images: Iterable[ImageLike],
        target: Sequence[Target | None],
        max_passes: int | None,
        deadline: float | None,
    ) -> Iterator[list[Explanation]]:
        budget.check(max_passes, deadline)
        if not target:
            raise TargetError("the list of targets is empty: name at least one class, or pass None.")
        wanted = [one if one is None or callable(one) else self.bundle.target(one) for one in target]
        begin = partial(
            Job,
            wanted=wanted,
            bundle=self.bundle,
            method=self.method,
            attribute=self._attribute,
            kernels=self._passes.kernels,
            max_passes=max_passes,
        )
        jobs = map(begin, images)
        done = self._packed(jobs) if deadline is None else self._in_time(jobs, deadline)
        return (job.explanations(self.engine, self.precision) for job in done)

    def _packed(self, jobs: Iterable[Job]) -> Iterator[Job]:
        """Score all masks, those of neighbouring images in shared batches."""
        waiting: deque[Job] = deque()
        count = _Count(self._progress)

        def tasks() -> Iterator[Task]:
            for job in jobs:
                waiting.append(job)
                count.total += len(job)
                yield from job.tasks()

        for result in self._passes.score(tasks(), count):
            while waiting[0].complete:  # an image without any mask
                yield waiting.popleft()
            waiting[0].add(result)
            while waiting and waiting[0].complete:
                yield waiting.popleft()
        yield from waiting

    def _in_time(self, jobs: Iterable[Job], deadline: float) -> Iterator[Job]:
        """Score the worthiest masks of every image first, batch by batch, until its time is up."""
        for job in jobs:
            count = _Count(self._progress, len(job))
            longest = 0.0
            for tasks in job.rounds(self.batch_size):
                began = time.perf_counter()
                if longest and began + longest > job.clock.began + deadline:
                    break
                for result in self._passes.score(tasks, count):
                    job.add(result)
                longest = max(longest, time.perf_counter() - began)
            yield job

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
        facts = {**self._engines.facts, "method": self.method.name, "parameters": asdict(self.method)}
        if images is None:
            if (kept := _GATES.recall(facts)) is None:
                raise UngatedError(
                    f"{self.precision} on {self.engine} has not been compared with float32 for this bundle and method "
                    "on this machine: pass gate=[images] once (sightline build BUNDLE --precision … --images …)."
                )
            gate = Gate.from_facts(kept)
            return replace(gate, threshold=threshold).require()
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
        _GATES.keep(facts, gate.facts())
        return gate


class _Count:
    """Tells the progress of a number of masks."""

    def __init__(self, progress: Progress | None, total: int = 0) -> None:
        self.total, self._done, self._progress = total, 0, progress

    def __call__(self, count: int) -> None:
        self._done += count
        if self._progress is not None:
            self._progress(self._done, self.total)


def _listed(target: Target | Targets | None) -> Sequence[Target | None]:
    return target if isinstance(target, (list, tuple)) else [target]


def _method(method: str | Method) -> Method:
    if not isinstance(method, str):
        return method
    if method not in METHODS:
        raise MethodError(f"there is no method {method!r}. Methods: {', '.join(METHODS)}.")
    return METHODS[method]()
