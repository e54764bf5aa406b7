"""The explainer: a bundle, opened on an engine, ready to explain one image after the other."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import TracebackType

import numpy as np
from PIL import Image

from sightline.bindings.engine import Precision
from sightline.bundle import Bundle, load
from sightline.errors import EngineError, MethodError, PrecisionError, UngatedError
from sightline.runtime.ada_sise import AdaSISE
from sightline.runtime.attributions import AttributionPass
from sightline.runtime.batching import Scored
from sightline.runtime.cam import GradCAM, GradCAMPlusPlus, LayerCAM
from sightline.runtime.engines import OpenBatch, open_engines
from sightline.runtime.explanation import Explanation
from sightline.runtime.gate import THRESHOLD, Gate, pearson
from sightline.runtime.image import ImageLike, prepare
from sightline.runtime.masks import MaskSet
from sightline.runtime.memo import Memo
from sightline.runtime.memory_plan import MemoryPlan
from sightline.runtime.method import Method, Plan
from sightline.runtime.rise import RISE
from sightline.runtime.score_cam import ScoreCAM
from sightline.runtime.sise import SISE

_METHODS: tuple[Callable[..., Method], ...] = (SISE, AdaSISE, RISE, ScoreCAM, GradCAM, GradCAMPlusPlus, LayerCAM)
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
            method: a name of ``METHODS`` (``"sise"``, ``"ada-sise"``, ``"rise"``, ``"score-cam"``, ``"grad-cam"``,
                ``"grad-cam++"``, ``"layer-cam"``), or one with parameters, e.g. ``SISE(mu=0.3)``.
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

    def __call__(self, image: ImageLike, target: int | str | None = None) -> Explanation:
        """Explain the score of one class on one image.

        Args:
            image: a path, a PIL image, uint8 or uint16 pixels (H×W or H×W×C), or a float array C×H×W that is already
                preprocessed.
            target: index or label of the class; None for the one predicted.

        Raises:
            ImageError: the image cannot be explained.
            TargetError: there is no such class.
            EngineError: a pass failed, or the network answers with NaN.
        """
        return next(self.explain_all([image], target))

    def explain_all(self, images: Iterable[ImageLike], target: int | str | None = None) -> Iterator[Explanation]:
        """Explain images as they come, in order: the masks of neighbouring images share batches.

        With few masks per image this saves the padding of their last batches. An explanation is yielded once its last
        mask is scored; images are drawn ahead only as far as it takes to fill that batch. Arguments and errors as for
        a call; an error ends the iteration.
        """
        chosen = None if target is None else self.bundle.target(target)
        jobs: deque[_Job] = deque()
        done = total = 0

        def masks() -> Iterator[MaskSet]:
            nonlocal total
            for image in images:
                job = self._begin(image, chosen)
                jobs.append(job)
                total += sum(map(len, job.plan.sets.values()))
                yield from job.plan.sets.values()

        def advanced(count: int) -> None:
            nonlocal done
            done += count
            if self._progress is not None:
                self._progress(done, total)

        for scored in self._passes.score(masks(), advanced):
            while jobs[0].complete:  # an image without any mask
                yield self._finish(jobs.popleft())
            jobs[0].scored.append(scored)
            while jobs and jobs[0].complete:
                yield self._finish(jobs.popleft())
        while jobs:
            yield self._finish(jobs.popleft())

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
                    for ours, theirs in zip(self.explain_all(pictures), reference.explain_all(pictures), strict=True)
                ),
                threshold=threshold,
            )
        logger.info("%s", gate)
        gate.require()
        _GATES.keep(facts, gate.facts())
        return gate

    def _begin(self, image: ImageLike, target: int | None) -> _Job:
        clock = _Clock()
        prepared = prepare(image, self.bundle.input)
        clock.lap("preprocess")
        attributions = self._attribute(prepared.array, target)
        clock.lap("attribution")
        plan = self.method.plan(attributions, self._passes.kernels)
        clock.lap("selection")
        return _Job(prepared.picture, attributions.target, attributions.score, plan, clock)

    def _finish(self, job: _Job) -> Explanation:
        clock = job.clock
        clock.add("masking", sum(scored.masking for scored in job.scored))
        clock.add("passes", sum(scored.passes for scored in job.scored))
        clock.restart()
        saliency, layer_maps = job.plan.explain(dict(zip(job.plan.sets, job.scored, strict=True)))
        clock.lap("fusion")
        return Explanation(
            saliency=saliency.astype(np.float32),
            target=job.target,
            label=self.bundle.label(job.target),
            score=job.score,
            method=self.method.name,
            parameters=asdict(self.method),
            layer_maps={name: layer.astype(np.float32) for name, layer in layer_maps.items()},
            passes=sum(map(len, job.plan.sets.values())),
            timings=clock.timings(),
            bundle_hash=self.bundle.hash,
            engine=self.engine,
            precision=self.precision,
            picture=job.picture,
        )


class _Clock:
    """Seconds by stage."""

    def __init__(self) -> None:
        self._stages: dict[str, float] = {}
        self.restart()

    def restart(self) -> None:
        self._began = time.perf_counter()

    def lap(self, stage: str) -> None:
        self.add(stage, time.perf_counter() - self._began)
        self.restart()

    def add(self, stage: str, seconds: float) -> None:
        self._stages[stage] = seconds

    def timings(self) -> dict[str, float]:
        return {**self._stages, "total": sum(self._stages.values())}


@dataclass(eq=False)
class _Job:
    """An image whose masks are being scored."""

    picture: Image.Image
    target: int
    score: float
    plan: Plan
    clock: _Clock
    scored: list[Scored] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        return len(self.scored) == len(self.plan.sets)


def _method(method: str | Method) -> Method:
    if not isinstance(method, str):
        return method
    if method not in METHODS:
        raise MethodError(f"there is no method {method!r}. Methods: {', '.join(METHODS)}.")
    return METHODS[method]()
