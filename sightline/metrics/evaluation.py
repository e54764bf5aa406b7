"""Methods on images: every map made, scored and kept, one result per image and method."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from sightline.bundle import Bundle
from sightline.errors import EngineError, MetricError, SightlineError, TargetError
from sightline.metrics.annotations import Annotation
from sightline.metrics.catalogue import METRICS
from sightline.metrics.localization import bounding_box_score, energy_pointing_game, intersection_over_union
from sightline.metrics.perturbation import KINDS, STEPS, Faithfulness, Subject, faithfulness
from sightline.metrics.ranking import Floats, Mask
from sightline.metrics.store import MAP, Results
from sightline.metrics.truth import Box, region_on_grid
from sightline.runtime.explainer import Explainer
from sightline.runtime.image import prepare
from sightline.runtime.method import Method

_LOCALIZATION: Mapping[str, Callable[[npt.ArrayLike, npt.ArrayLike], float]] = {
    "ebpg": energy_pointing_game,
    "miou": intersection_over_union,
    "bbox": bounding_box_score,
}
_KIND = {"drop": "kept", "increase": "kept", "deletion": "deletion", "insertion": "insertion"}
_TOGETHER = 8
"""Maps whose passes share batches."""
_AT_RISK = 10.0
"""Seconds of work after which results are written in any case."""


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Raises:
        MetricError: there is no such metric.
    """

    metrics: tuple[str, ...] = tuple(METRICS)
    steps: int = STEPS
    true_target: bool = True
    """Explain the annotated class; where none is annotated, or if False, the predicted one."""

    def __post_init__(self) -> None:
        if unknown := [name for name in self.metrics if name not in METRICS]:
            raise MetricError(f"there is no metric {unknown[0]!r}: choose of {', '.join(METRICS)}.")
        if not self.metrics:
            raise MetricError(f"no metric was chosen: choose of {', '.join(METRICS)}.")

    @property
    def kinds(self) -> tuple[str, ...]:
        """The perturbations that the metrics need."""
        asked = {_KIND[name] for name in self.metrics if name in _KIND}
        return tuple(kind for kind in KINDS if kind in asked)


@dataclass(frozen=True)
class Contender:
    """A method as it is evaluated."""

    label: str
    """What tables call it."""
    method: Method
    max_passes: int | None = None
    """A budget of masked passes per image."""

    def facts(self) -> dict[str, Any]:
        """Its name and parameters, a budget included, in types that JSON knows."""
        budget = {} if self.max_passes is None else {"max_passes": self.max_passes}
        return {"method": self.method.name, "parameters": {**asdict(self.method), **budget}}


@dataclass(eq=False)
class Case:
    """One image to explain."""

    path: Path
    name: str
    annotation: Annotation = field(default_factory=Annotation)
    keep_map: bool = False
    """Whether the results hold the maps, for a gallery."""
    failure: str | None = None
    """Why it could not be explained."""
    _digest: str | None = field(default=None, repr=False)

    def target(self, bundle: Bundle, settings: Settings) -> int | None:
        """The class to explain; None for the one predicted.

        Raises:
            TargetError: the network has no class of the annotated name.
        """
        label = self.annotation.label if settings.true_target else None
        return None if label is None else bundle.target(label)

    def digest(self) -> str:
        """Of the image's bytes and all that is annotated.

        Raises:
            OSError: a file cannot be read.
        """
        if self._digest is None:
            digest = hashlib.sha256(repr((self.annotation.label, self.annotation.boxes)).encode())
            for path in filter(None, (self.path, self.annotation.mask)):
                digest.update(hashlib.sha256(path.read_bytes()).digest())
            self._digest = digest.hexdigest()
        return self._digest

    def region(self, bundle: Bundle, size: tuple[int, int], target: int) -> Mask | None:
        """The true region of a class on the network's grid; None where nothing of the class is annotated.

        Args:
            bundle: whose grid and labels count.
            size: (width, height) of the upright original image.
            target: index of the class.

        Raises:
            AnnotationError: a box or mask does not fit the image.
        """
        boxes = tuple(box for box in self.annotation.boxes if _is_of(box, bundle, target))
        mask = replace(self.annotation, boxes=boxes).region(size)
        return None if mask is None else region_on_grid(mask, (bundle.input.width, bundle.input.height))


class Evaluator:
    """Explains and scores images by one method after the other; results that are already kept are not made again."""

    def __init__(
        self, bundle: Bundle, cases: Sequence[Case], settings: Settings, results: Results, running: Mapping[str, Any]
    ) -> None:
        """Evaluate.

        Args:
            bundle: the network.
            cases: the images. What fails says so in ``failure``, and is left out from then on.
            settings: what is measured.
            results: where results are kept.
            running: what else results depend on, for instance engine and precision, in types that JSON knows.
        """
        self.bundle = bundle
        self.cases = cases
        self.settings = settings
        self.results = results
        self._running = dict(running)

    def key(self, case: Case, contender: Contender) -> str:
        """Of the result of one image and method: the same if and only if nothing that it depends on has changed."""
        facts = {
            "bundle": self.bundle.hash,
            **contender.facts(),
            "settings": asdict(self.settings),
            "running": self._running,
            "case": case.digest(),
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True, default=repr).encode()).hexdigest()

    def due(self, contender: Contender) -> list[Case]:
        """The images without a result of this method; those that cannot be read fail here."""
        found = []
        for case in self.cases:
            try:
                if case.failure is None and not self.results.has(self.key(case, contender), map=case.keep_map):
                    found.append(case)
            except OSError as error:
                case.failure = f"it cannot be read ({error.strerror or error})."
        return found

    def run(self, explainer: Explainer, contender: Contender, due: Iterable[Case]) -> Iterator[Case]:
        """Make and keep the results of these images; each is yielded once that is done.

        An image that cannot be explained or scored is yielded with its ``failure``.

        Args:
            explainer: with the contender's method.
            contender: what is evaluated.
            due: the images.

        Raises:
            EngineError: the engine failed.
            SaveError: a result could not be kept.
        """
        waiting: list[_Waiting] = []
        began = time.perf_counter()
        for case in due:
            try:
                if not waiting:
                    began = time.perf_counter()
                waiting.append(self._explained(explainer, contender, case))
            except EngineError:
                raise
            except SightlineError as error:
                case.failure = str(error)
                yield case
                continue
            if len(waiting) == _TOGETHER or time.perf_counter() - began > _AT_RISK:
                yield from self._scored(explainer, contender, waiting)
                waiting = []
        yield from self._scored(explainer, contender, waiting)

    def _explained(self, explainer: Explainer, contender: Contender, case: Case) -> _Waiting:
        target = case.target(self.bundle, self.settings)
        began = time.perf_counter()
        explanation = explainer(case.path, target, max_passes=contender.max_passes)
        seconds = time.perf_counter() - began
        assert explanation.target is not None  # it is for a target that is a function only
        region = case.region(self.bundle, explanation.picture.size, explanation.target)
        values = {
            name: None if region is None else _LOCALIZATION[name](explanation.saliency, region)
            for name in self.settings.metrics
            if name in _LOCALIZATION
        }
        result: dict[str, Any] = {
            "image": case.name,
            **contender.facts(),
            "target": explanation.target,
            "label": explanation.label,
            "score": explanation.score,
            "passes": explanation.passes,
            "seconds": seconds,
            "engine": explanation.engine,
            "values": values,
        }
        if case.keep_map:
            result[MAP] = _packed(explanation.saliency)
        subject = None
        if self.settings.kinds:
            subject = Subject(_channels_first(case.path, self.bundle), explanation.saliency, explanation.target)
        return _Waiting(case, subject, result)

    def _scored(self, explainer: Explainer, contender: Contender, waiting: Sequence[_Waiting]) -> Iterator[Case]:
        subjects = [entry.subject for entry in waiting if entry.subject is not None]
        if subjects:
            found = faithfulness(subjects, explainer.classify, kinds=self.settings.kinds, steps=self.settings.steps)
            for entry, faithful in zip(waiting, found, strict=True):
                self._add(entry, contender, faithful)
                yield entry.case
        else:
            for entry in waiting:
                self._add(entry, contender, None)
                yield entry.case

    def _add(self, entry: _Waiting, contender: Contender, faithful: Faithfulness | None) -> None:
        if faithful is not None:
            entry.result["values"] |= {name: getattr(faithful, name) for name in self.settings.metrics if name in _KIND}
            entry.result["curves"] = {
                name: curve.tolist()
                for name, curve in (("deletion", faithful.deletion_curve), ("insertion", faithful.insertion_curve))
                if curve is not None
            }
        self.results.add(self.key(entry.case, contender), entry.result)


@dataclass(eq=False)
class _Waiting:
    """A map whose passes are due."""

    case: Case
    subject: Subject | None
    result: dict[str, Any]


def _is_of(box: Box, bundle: Bundle, target: int) -> bool:
    """Whether a box, its class given by label or number or not at all, counts for a class of the network."""
    if box.label is None:
        return True
    try:
        return bundle.target(box.label) == target
    except TargetError:
        return not bundle.labels  # a network without labels cannot tell what names mean


def unpacked(text: str) -> npt.NDArray[np.uint8]:
    """The map of a result: H×W, 255 for 1."""
    with Image.open(io.BytesIO(base64.b64decode(text))) as picture:
        return np.asarray(picture)


def _packed(saliency: Floats) -> str:
    buffer = io.BytesIO()
    Image.fromarray(np.rint(saliency * 255).astype(np.uint8)).save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def _channels_first(path: Path, bundle: Bundle) -> Floats:
    array = prepare(path, bundle.input).array
    return np.moveaxis(array, 2, 0) if bundle.input.layout == "NHWC" else array
