"""The explainer: a bundle, opened on an engine, ready to explain one image after the other."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType

import numpy as np
from PIL import Image

from sightline.bindings import open_engine
from sightline.bundle import PROBABILITIES, Bundle, load
from sightline.errors import EngineError, MethodError
from sightline.kernels import kernels_for
from sightline.runtime.ada_sise import AdaSISE
from sightline.runtime.attributions import AttributionPass
from sightline.runtime.batching import MaskedPasses, Scored
from sightline.runtime.explanation import Explanation
from sightline.runtime.image import ImageLike, prepare
from sightline.runtime.masks import MaskSet
from sightline.runtime.method import Method
from sightline.runtime.sise import SISE

METHODS: Mapping[str, type[SISE] | type[AdaSISE]] = {method.name: method for method in (SISE, AdaSISE)}

DEFAULT_BATCH_SIZE = 16
"""Where CPUs reach their best time per image; more only adds to the padding of the last batch."""

Progress = Callable[[int, int], None]


class Explainer:
    """Explains the decisions of one network. One explanation at a time: give every thread an explainer of its own."""

    def __init__(
        self,
        bundle: Bundle | str | Path,
        method: str | Method = "sise",
        engine: str = "auto",
        batch_size: int | None = None,
        *,
        threads: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Open a bundle on an engine.

        Args:
            bundle: a bundle or the path of one.
            method: ``"sise"``, ``"ada-sise"``, or one with parameters, e.g. ``SISE(mu=0.3)``.
            engine: a name from ``sightline doctor``, or ``"auto"`` for the fastest one installed.
            batch_size: masked images per pass of the engine, 16 by default.
            threads: how many CPU threads a pass may use; by default the engine decides.
            progress: called as ``progress(done, total)`` with the number of masks scored, once per batch.

        Raises:
            BundleError: the bundle cannot be read.
            MethodError: there is no such method.
            EngineError: there is no such engine, it cannot open the bundle, or a number is out of range.
            MissingPackageError: the engine's package is not installed.
        """
        for name, value in (("batch_size", batch_size), ("threads", threads)):
            if value is not None and (not isinstance(value, int) or value < 1):
                raise EngineError(f"{name}={value!r} is out of range: choose a whole number from 1, or None.")
        self.bundle = bundle if isinstance(bundle, Bundle) else load(bundle)
        self.method: Method = _method(method)
        self._progress = progress
        image = self.bundle.input
        channels_first = image.layout == "NCHW"
        shape = image.shape if channels_first else (image.height, image.width, image.channels)
        self._attribution = open_engine(
            self.bundle.attribution, engine, shapes={image.name: (1, *shape)}, threads=threads
        )
        try:
            self._classifier = open_engine(
                self.bundle.classifier,
                self._attribution.name,
                shapes={image.name: (batch_size or DEFAULT_BATCH_SIZE, *shape)},
                outputs=[PROBABILITIES],
                threads=threads,
            )
        except BaseException:
            self._attribution.close()
            raise
        self._kernels = kernels_for(self._classifier.device)
        self._attribute = AttributionPass(self.bundle, self._attribution)
        self._passes = MaskedPasses(self._classifier, self._kernels, image.name)

    @property
    def engine(self) -> str:
        """Name of the engine that runs the passes."""
        return self._classifier.name

    @property
    def batch_size(self) -> int:
        """Masked images per pass of the engine."""
        return self._passes.batch_size

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
                total += sum(map(len, job.sets.values()))
                yield from job.sets.values()

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
        self._attribution.close()
        self._classifier.close()

    def __enter__(self) -> Explainer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _begin(self, image: ImageLike, target: int | None) -> _Job:
        clock = _Clock()
        prepared = prepare(image, self.bundle.input)
        clock.lap("preprocess")
        attributions = self._attribute(prepared.array, target)
        clock.lap("attribution")
        sets = self.method.masks(attributions, self._kernels)
        clock.lap("selection")
        return _Job(prepared.picture, attributions.target, attributions.score, sets, clock)

    def _finish(self, job: _Job) -> Explanation:
        clock = job.clock
        clock.add("masking", sum(scored.masking for scored in job.scored))
        clock.add("passes", sum(scored.passes for scored in job.scored))
        clock.restart()
        size = (self.bundle.input.height, self.bundle.input.width)
        blocks = dict(zip(job.sets, job.scored, strict=True))
        saliency, layer_maps = self.method.explain(blocks, size, self._kernels)
        clock.lap("fusion")
        return Explanation(
            saliency=saliency.astype(np.float32),
            target=job.target,
            label=self.bundle.label(job.target),
            score=job.score,
            method=self.method.name,
            parameters=asdict(self.method),
            layer_maps={name: layer.astype(np.float32) for name, layer in layer_maps.items()},
            passes=sum(map(len, job.sets.values())),
            timings=clock.timings(),
            bundle_hash=self.bundle.hash,
            engine=self.engine,
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
    sets: dict[str, MaskSet]
    clock: _Clock
    scored: list[Scored] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        return len(self.scored) == len(self.sets)


def _method(method: str | Method) -> Method:
    if not isinstance(method, str):
        return method
    if method not in METHODS:
        raise MethodError(f"there is no method {method!r}. Methods: {', '.join(METHODS)}.")
    return METHODS[method]()
