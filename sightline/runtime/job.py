"""One image under way: its targets, the masks that they share, and their scores as they come."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from sightline.bundle import Bundle
from sightline.kernels import Kernels
from sightline.runtime import budget, targets
from sightline.runtime.attributions import AttributionPass, Attributions
from sightline.runtime.batching import MaskedPasses, Result, Scorer, Task, scores
from sightline.runtime.explanation import Explanation
from sightline.runtime.image import ImageLike, prepare
from sightline.runtime.kriging import Kriging, pooled
from sightline.runtime.masks import MaskSet, Scored
from sightline.runtime.method import Method, Plan
from sightline.runtime.prediction import Prediction, predicted
from sightline.runtime.selection import Choice, Indices
from sightline.runtime.targets import TargetFunction
from sightline.runtime.whole import WholePass

Doubles = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Subject:
    """What one explanation of the image is for."""

    target: int | None
    """The class; None for a function."""
    label: str
    scorer: Scorer
    score: float
    plan: Plan


class Job:
    """An image from its attribution passes to its explanations."""

    def __init__(
        self,
        image: ImageLike,
        wanted: Sequence[int | TargetFunction | None],
        *,
        bundle: Bundle,
        method: Method,
        attribute: AttributionPass,
        passes: MaskedPasses,
        max_passes: int | None = None,
        whole: WholePass | None = None,
        seen: Callable[[Prediction], None] | None = None,
        only_if: Callable[[Prediction], bool] | None = None,
    ) -> None:
        """Run the attribution pass of every target and make the masks that they choose.

        Args:
            image: whatever :func:`~sightline.runtime.image.prepare` takes.
            wanted: classes, None for the predicted one, or functions of the probabilities.
            bundle: what is explained.
            method: how.
            attribute: the attribution pass.
            passes: the masked passes, whose kernels make the masks. A batch without room opens the engine anew, on
                another stream: what is made then must be enqueued there.
            max_passes: at most so many masks are scored.
            whole: a cheaper pass, for images that may not be explained; without it the attribution pass predicts.
            seen: told what the network predicts.
            only_if: where it says no to what the network predicts, there are no masks and no explanations.
        """
        self.clock = Clock()
        self._bundle, self._method, self._passes = bundle, method, passes
        prepared = prepare(image, bundle.input)
        self._picture: Image.Image = prepared.picture
        self.clock.lap("preprocess")
        self._subjects: list[Subject] = []
        self.prediction: Prediction | None = None
        attributions: Attributions | None = None

        def goes_on(logits: Floats, probabilities: Floats) -> bool:
            self.prediction = predicted(logits, probabilities, bundle)
            if seen is not None:
                seen(self.prediction)
            return only_if is None or only_if(self.prediction)

        if only_if is not None and whole is not None and whole.ready() and not goes_on(*whole(prepared.array)):
            wanted = ()
        for target in wanted:
            # One class, whichever pass predicted it: scores that tie may not do so in both.
            likeliest = None if self.prediction is None else self.prediction.target
            decision = likeliest if callable(target) or target is None else target
            if attributions is None or not callable(target):
                attributions = attribute(prepared.array, decision, rivals=method.rivals)
            if self.prediction is None and not goes_on(attributions.logits, attributions.probabilities):
                break
            if callable(target):
                # Its gradient needs the logits, which are those of any pass of this image.
                scores(target, attributions.probabilities[None].astype(np.float64))  # refuses what is no target
                if method.gradients:
                    seed = targets.gradient(target, attributions.logits.astype(np.float64), bundle.manifest.activation)
                    attributions = attribute(prepared.array, seed, rivals=method.rivals)
            elif attribute.latest is not attributions:  # ``only_if`` asked about another image meanwhile
                attributions = attribute(prepared.array, decision, rivals=method.rivals)
            self.clock.lap("attribution")
            self._subjects.append(self._subject(target, attributions))
            self.clock.lap("selection")
        self._chosen = budget.united(subject.plan.choices for subject in self._subjects)
        numbers = {name: choice.numbers for name, choice in self._chosen.items()}
        self._sets: Mapping[str, MaskSet] = {}
        if numbers and attributions is not None:
            self._sets = method.masks(attributions, numbers, passes.kernels)
        self.clock.lap("selection")
        self._offsets = np.cumsum([0, *map(len, self._sets.values())])
        self._scores = np.full((len(self._subjects), self._offsets[-1]), np.nan)
        self._planned = int(self._offsets[-1] if max_passes is None else min(max_passes, self._offsets[-1]))
        self._waiting: deque[Indices] = deque()
        self._by_worth: budget.Order | None = None
        self._kriging: Kriging | None = None
        self.asked = 0
        """How many masks were given out to be scored."""
        self._done = 0
        self._seconds = {"masking": 0.0, "passes": 0.0}

    @property
    def _kernels(self) -> Kernels:
        """Those of the engine that is open now."""
        return self._passes.kernels

    def __len__(self) -> int:
        """How many masks there are to score."""
        return self._planned

    def tasks(self) -> Iterator[Task]:
        """The masks to score, block by block."""
        if self._planned == self._offsets[-1]:
            for masks, begin in zip(self._sets.values(), self._offsets, strict=False):
                yield self._task(masks, begin + np.arange(len(masks)))
        else:
            yield from self.next(self._planned)

    def next(self, count: int) -> list[Task]:
        """The next masks to score, what matters most first; none where there is none."""
        if not self._planned:
            return []
        self._by_worth = self._by_worth or self._order()
        self.clock.restart()
        places, tasks = self._by_worth.next(count), []
        for masks, begin, end in zip(self._sets.values(), self._offsets, self._offsets[1:], strict=False):
            inside = places[(places >= begin) & (places < end)]
            if len(inside):
                tasks.append(self._task(masks.subset(inside - begin, self._kernels), inside))
        self.clock.lap("selection")
        return tasks

    def add(self, result: Result) -> None:
        """Take the scores of a task. Results come in the order of the tasks."""
        places = self._waiting.popleft()
        self._scores[:, places] = result.scores
        self._done += len(places)
        self._seconds["masking"] += result.masking
        self._seconds["passes"] += result.passes

    def explanations(self, engine: str, precision: str) -> list[Explanation]:
        """What the scores so far say, for every target."""
        for stage, seconds in self._seconds.items():
            self.clock.add(stage, seconds)
        self.clock.restart()
        maps = [subject.plan.explain(self._scored(subject, values)) for subject, values in self._by_subject()]
        self.clock.lap("fusion")
        covered = self._covered()
        return [
            Explanation(
                saliency=saliency.astype(np.float32),
                target=subject.target,
                label=subject.label,
                score=subject.score,
                method=self._method.name,
                parameters=asdict(self._method),
                layer_maps={name: layer.astype(np.float32) for name, layer in layer_maps.items()},
                passes=self._done,
                completeness=budget.completeness(subject.plan.choices, covered),
                timings=self.clock.timings(),
                bundle_hash=self._bundle.hash,
                engine=engine,
                precision=precision,
                picture=self._picture,
            )
            for subject, (saliency, layer_maps) in zip(self._subjects, maps, strict=True)
        ]

    def _subject(self, target: int | TargetFunction | None, attributions: Attributions) -> Subject:
        probabilities = attributions.probabilities.astype(np.float64)
        plan = self._method.plan(attributions, self._kernels)
        if callable(target):
            (score,) = scores(target, probabilities[None])
            return Subject(None, targets.name(target), target, float(score), plan)
        assert self.prediction is not None  # the network has seen the image
        number = self.prediction.target if target is None else target
        return Subject(number, self._bundle.label(number), number, float(probabilities[number]), plan)

    def _order(self) -> budget.Order:
        """In which order masks are scored when there may not be time for all."""
        self.clock.restart()
        worth = [choice.worth[np.isin(choice.numbers, self._sets[name].numbers)] for name, choice in self._left()]
        if not self._method.predict:
            return budget.Worthiest(np.concatenate([np.zeros(0), *worth]))
        counts = None
        if self._subjects[0].plan.promised:
            worth = [
                _promise(each, masks, self._kernels) for each, masks in zip(worth, self._sets.values(), strict=True)
            ]
            counts = np.concatenate(worth)
        # If there is time for one pass only, it goes to the best mask of the last block.
        first = int(self._offsets[-2] + worth[-1].argmax())
        self._kriging = Kriging(pooled(self._sets.values(), self._kernels), first, counts)
        self.clock.lap("selection")
        return self._kriging

    def _left(self) -> list[tuple[str, Choice]]:
        """What was chosen in the blocks that have masks: constant maps have none."""
        return [(name, self._chosen[name]) for name in self._sets]

    def _task(self, masks: MaskSet, places: Indices) -> Task:
        self._waiting.append(places)
        self.asked += len(places)
        return Task(masks, tuple(subject.scorer for subject in self._subjects), self._method.output)

    def _by_subject(self) -> Iterator[tuple[Subject, Doubles]]:
        """Every target with the scores of all masks: NaN where one is neither known nor predicted."""
        for subject, found in zip(self._subjects, self._scores, strict=True):
            if self._kriging is None or not np.isnan(found).any():
                yield subject, found
            else:
                shares = not callable(subject.scorer) and self._bundle.manifest.activation != "none"
                yield subject, self._kriging.predicted(found, shares=shares)

    def _scored(self, subject: Subject, scores: Doubles) -> dict[str, Scored]:
        """The masks that have a score, by block; the target's own count, those of others are 0."""
        found = {}
        for name, masks, begin in zip(self._sets, self._sets.values(), self._offsets, strict=False):
            values = scores[begin : begin + len(masks)]
            known = np.flatnonzero(~np.isnan(values))
            if not len(known) or name not in subject.plan.choices:
                continue
            if len(known) < len(masks):
                masks, values = masks.subset(known, self._kernels), values[known]
            own = np.isin(masks.numbers, subject.plan.choices[name].numbers)
            found[name] = Scored(masks, np.where(own, values, 0.0), subject.score)
        return found

    def _covered(self) -> dict[str, Indices]:
        """The masks that were scored, or dropped because they are constant, by block."""
        covered = {name: choice.numbers for name, choice in self._chosen.items()}
        for name, masks, begin in zip(self._sets, self._sets.values(), self._offsets, strict=False):
            missing = masks.numbers[np.isnan(self._scores[0, begin : begin + len(masks)])]
            covered[name] = np.setdiff1d(covered[name], missing)
        return covered


def _promise(worth: Doubles, masks: MaskSet, kernels: Kernels) -> Doubles:
    """α_k·(max_k − min_k), over the largest of the block: blocks are made equal before they are fused."""
    promise = worth / np.abs(kernels.to_host(masks.affine)[:, 0].astype(np.float64))
    return np.asarray(promise / promise.max())


class Clock:
    """Seconds by stage."""

    def __init__(self) -> None:
        self._stages: dict[str, float] = {}
        self.began = time.perf_counter()
        self.restart()

    def restart(self) -> None:
        """Begin a stage."""
        self._began = time.perf_counter()

    def lap(self, stage: str) -> None:
        """End a stage and begin the next."""
        self.add(stage, time.perf_counter() - self._began)
        self.restart()

    def add(self, stage: str, seconds: float) -> None:
        """Add to a stage."""
        self._stages[stage] = self._stages.get(stage, 0.0) + seconds

    def timings(self) -> dict[str, float]:
        """Of every stage, and ``total``."""
        return {**self._stages, "total": sum(self._stages.values())}
