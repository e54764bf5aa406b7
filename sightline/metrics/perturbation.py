"""Does the network depend on what the map shows? Passes of perturbed images through the engine itself.

- **Drop, Increase**: what is left of p_c when only the top 15 % of the pixels are kept (Sattarzadeh et al., AAAI 2021,
  §4, after Chattopadhay et al., Grad-CAM++, WACV 2018).
- **Deletion, insertion**: p_c while pixels are removed from, or revealed in, the image by rank; the area under the
  curve (Petsiuk et al., RISE, BMVC 2018, §4.1).

Every perturbation is of the preprocessed image: what is removed becomes zero there, the mean colour of networks that
subtract one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import numpy.typing as npt

from sightline.errors import EngineError, MetricError
from sightline.metrics.ranking import Doubles, Floats, pixels_of, ranked
from sightline.numeric import whole

Classify = Callable[[Iterable[Floats]], Iterator[Doubles]]
"""From preprocessed images (C×H×W), drawn as they are needed, to probabilities, N×K for every batch: for instance
``explainer.classify``."""

KEPT_PERCENT = 15
"""The share of the pixels that Drop and Increase keep."""
STEPS = 50
"""The least number of steps of a curve."""
KINDS = ("kept", "deletion", "insertion")
"""What can be asked for: the pass for Drop and Increase, and the two curves."""

_KERNEL, _SIGMA = 11, 5.0


@dataclass(frozen=True, eq=False)
class Subject:
    """A map and what it claims to explain."""

    image: Floats
    """C×H×W, preprocessed."""
    saliency: npt.ArrayLike
    """H×W; only the rank of its pixels matters."""
    target: int
    """Index of the class explained."""


@dataclass(frozen=True, eq=False)
class Faithfulness:
    """What the network answered. Scores are p_c, of the class explained."""

    score: float
    """p_c(I) of the whole image."""
    kept: float | None = None
    """p_c(I⊙T), T the top 15 % of the pixels; None where it was not asked for."""
    fractions: Doubles = field(default_factory=lambda: np.zeros(0))
    """The share of the pixels changed after every step, from 0 to 1."""
    deletion_curve: Doubles | None = None
    """p_c after every step, from the whole image to zeros; None where it was not asked for."""
    insertion_curve: Doubles | None = None
    """p_c after every step, from the blurred image to the whole one; None where it was not asked for."""

    @property
    def drop(self) -> float | None:
        """The share of p_c lost with the other 85 %, max(0, p_c(I) − p_c(I⊙T)) / p_c(I): in [0, 1], less is better.

        0 where p_c(I) is 0: nothing is there to lose.
        """
        if self.kept is None:
            return None
        return max(0.0, self.score - self.kept) / self.score if self.score > 0 else 0.0

    @property
    def increase(self) -> float | None:
        """1 where p_c(I⊙T) > p_c(I), else 0; the mean over images is better the higher it is."""
        return None if self.kept is None else float(self.kept > self.score)

    @property
    def deletion(self) -> float | None:
        """Area under the deletion curve, in [0, 1]: less is better."""
        return None if self.deletion_curve is None else area(self.fractions, self.deletion_curve)

    @property
    def insertion(self) -> float | None:
        """Area under the insertion curve, in [0, 1]: more is better."""
        return None if self.insertion_curve is None else area(self.fractions, self.insertion_curve)


def faithfulness(
    subjects: Iterable[Subject], classify: Classify, *, kinds: Iterable[str] = KINDS, steps: int = STEPS
) -> Iterator[Faithfulness]:
    """Score maps one after the other; the passes of neighbouring ones share batches.

    Per map: one pass of the whole image, one for Drop and Increase, ``steps`` for each curve (its end that is the whole
    image is known already). After step i of n, ⌊i·H·W/n⌋ pixels are changed, all channels together, by stable rank.
    Never more than one perturbed image exists here at a time, and subjects are drawn as batches have room.

    Args:
        subjects: drawn while ``classify`` fills a batch: they must not run the same engine.
        classify: where the passes run.
        kinds: which of ``KINDS``.
        steps: of a curve, at least 50.

    Raises:
        MetricError: a map does not fit its image, there is no such kind or class, too few steps, or p_c is below 0.
        EngineError: the network answers with NaN or infinity, or not as many images as it was asked.
    """
    asked = frozenset(kinds)
    if unknown := asked - set(KINDS):
        raise MetricError(f"there is no perturbation {min(unknown)!r}: choose of {', '.join(KINDS)}.")
    return _scored(subjects, classify, asked, whole("steps", steps, MetricError, STEPS))


def blurred(image: npt.ArrayLike) -> Floats:
    """Where insertion starts: the image blurred as the official RISE code does it.

    That is ``conv2d(x, gkern(11, 5), padding=5)``: zeros around the preprocessed image, and a kernel of 11×11 made by
    SciPy's ``gaussian_filter`` (σ = 5, cut at 4σ, mirrored at the edges) of a single one in an 11×11 field. The mirror
    folds the Gaussian's tails back into the kernel, which is therefore flatter than a Gaussian and sums to 1.

    Args:
        image: C×H×W, preprocessed.
    """
    array = np.asarray(image, np.float64)
    rows, columns = (_band(side) for side in array.shape[1:])
    return np.asarray(rows @ array @ columns.T, np.float32)


def area(fractions: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """Area under a curve by the trapezoid rule, over its length: a curve that is 1 throughout has the area 1."""
    x, y = np.asarray(fractions, np.float64), np.asarray(scores, np.float64)
    return float(np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2) / (x[-1] - x[0]))


@dataclass(eq=False)
class _Job:
    subject: Subject
    due: int
    scores: list[float] = field(default_factory=list)


def _scored(
    subjects: Iterable[Subject], classify: Classify, kinds: frozenset[str], steps: int
) -> Iterator[Faithfulness]:
    jobs: deque[_Job] = deque()
    due = 1 + ("kept" in kinds) + steps * (("deletion" in kinds) + ("insertion" in kinds))

    def images() -> Iterator[Floats]:
        for subject in subjects:
            perturbed = _perturbed(subject, kinds, steps)
            jobs.append(_Job(subject, due))
            yield from perturbed

    for batch in classify(images()):
        for row in np.asarray(batch, np.float64):
            if not jobs:
                raise EngineError("the network answered more images than it was asked.")
            job = jobs[0]
            job.scores.append(_score(row, job.subject.target))
            if len(job.scores) == job.due:
                yield _finished(jobs.popleft(), kinds, steps)
    if jobs:
        raise EngineError(f"the network left {sum(job.due - len(job.scores) for job in jobs)} images unanswered.")


def _perturbed(subject: Subject, kinds: frozenset[str], steps: int) -> Iterator[Floats]:
    """Checked at once; the images of one subject, in the order in which :func:`_finished` reads their scores."""
    image = np.asarray(subject.image, np.float32)
    if image.ndim != 3 or image.shape[1:] != np.shape(subject.saliency):
        raise MetricError(
            f"the image is {image.shape} and the map {np.shape(subject.saliency)}: they must be C×H×W and H×W."
        )
    order = ranked(subject.saliency)
    pixels = len(order)
    flat = image.reshape(len(image), pixels)
    counts = [i * pixels // steps for i in range(steps + 1)]

    def images() -> Iterator[Floats]:
        yield image.copy()
        if "kept" in kinds:
            kept = np.zeros_like(flat)
            yield from _changed(kept, flat, order, [pixels_of(KEPT_PERCENT, pixels)], image.shape)
        if "deletion" in kinds:
            yield from _changed(flat.copy(), np.zeros_like(flat), order, counts[1:], image.shape)
        if "insertion" in kinds:
            yield from _changed(blurred(image).reshape(flat.shape), flat, order, counts[:-1], image.shape)

    return images()


def _changed(
    start: Floats, end: Floats, order: npt.NDArray[np.intp], counts: Iterable[int], shape: tuple[int, ...]
) -> Iterator[Floats]:
    """From ``start`` to ``end`` (both C×(H·W)): the image with its first ``count`` pixels changed, for every count."""
    done = 0
    for count in counts:
        pixels = order[done:count]
        start[:, pixels] = end[:, pixels]
        done = count
        yield start.reshape(shape).copy()


def _score(probabilities: Doubles, target: int) -> float:
    if not 0 <= target < len(probabilities):
        raise MetricError(f"there is no class {target}: the network has {len(probabilities)}.")
    score = float(probabilities[target])
    if not np.isfinite(score):
        raise EngineError("the network answers a perturbed image with NaN or infinity: check its weights.")
    if score < 0:
        raise MetricError(
            f"the network gives the class {score:.3g}, which is no probability: export it with its softmax or sigmoid."
        )
    return score


def _finished(job: _Job, kinds: frozenset[str], steps: int) -> Faithfulness:
    score, *rest = job.scores
    answers = iter(rest)
    pixels = np.size(job.subject.saliency)
    kept = next(answers) if "kept" in kinds else None
    deletion = np.array([score, *(next(answers) for _ in range(steps))]) if "deletion" in kinds else None
    insertion = np.array([*(next(answers) for _ in range(steps)), score]) if "insertion" in kinds else None
    fractions = np.array([i * pixels // steps for i in range(steps + 1)]) / pixels
    return Faithfulness(score, kept, fractions, deletion, insertion)


@cache
def _kernel() -> tuple[float, ...]:
    """One dimension of the official kernel: a Gaussian of 41 taps, folded into 11 by mirrors at both edges."""
    radius = int(4 * _SIGMA + 0.5)
    offsets = np.arange(-radius, radius + 1)
    gaussian = np.exp(-(offsets**2) / (2 * _SIGMA**2))
    folded = np.zeros(_KERNEL)
    for offset, weight in zip(offsets, gaussian / gaussian.sum(), strict=True):
        position = (_KERNEL // 2 + offset) % (2 * _KERNEL)  # mirrors repeat after twice the width
        folded[min(position, 2 * _KERNEL - 1 - position)] += weight
    return tuple(folded.tolist())


def _band(side: int) -> Doubles:
    """The blur along one axis as a matrix, with zeros beyond the edges."""
    half = _KERNEL // 2
    return sum(
        (weight * np.eye(side, k=tap - half) for tap, weight in enumerate(_kernel())), start=np.zeros((side, side))
    )
