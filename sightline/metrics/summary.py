"""What an evaluation found: means with intervals, methods compared image by image, mean curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from sightline.errors import MetricError
from sightline.metrics.catalogue import METRICS
from sightline.metrics.evaluation import Contender, Evaluator
from sightline.metrics.intervals import Estimate, bootstrap

Doubles = npt.NDArray[np.float64]
CURVES = ("deletion", "insertion")


@dataclass(frozen=True, eq=False)
class MethodSummary:
    """One method over all images."""

    contender: Contender
    values: Mapping[str, Doubles]
    """By metric: one per image, NaN where the image has no region. In [0, 1]."""
    estimates: Mapping[str, Estimate]
    """By metric; one that no image has is absent."""
    differences: Mapping[str, Estimate]
    """By metric: this method minus the first, over the images that both have. Empty for the first."""
    curves: Mapping[str, Doubles] = field(repr=False)
    """Mean ``deletion`` and ``insertion`` curves: p_c after equal steps."""
    passes: float
    """Mean number of masked passes per image."""
    seconds: float
    """Median wall time of an explanation."""

    @property
    def label(self) -> str:
        """What tables call it."""
        return self.contender.label

    def verdict(self, metric: str) -> int:
        """1 where it is better than the first method for sure (95 %), -1 where it is worse, else 0."""
        if metric not in self.differences:
            return 0
        return self.differences[metric].sign * (1 if METRICS[metric].higher_is_better else -1)


@dataclass(frozen=True, eq=False)
class Summary:
    """All methods over the images that every one of them explained."""

    metrics: tuple[str, ...]
    """Those that at least one image has, in the order of tables."""
    images: tuple[str, ...]
    methods: tuple[MethodSummary, ...]
    results: Mapping[str, Sequence[Mapping[str, Any]]]
    """By method: what was kept of every image, without curves and maps."""
    failures: Mapping[str, str]
    """Images left out, with the reason."""
    located: int
    """Images with a true region of the class explained."""

    def best(self, metric: str) -> str | None:
        """The label of the method with the best mean."""
        having = [method for method in self.methods if metric in method.estimates]
        if not having:
            return None
        sign = 1 if METRICS[metric].higher_is_better else -1
        return max(having, key=lambda method: sign * method.estimates[metric].mean).label

    def facts(self) -> dict[str, Any]:
        """Everything, in types that JSON knows: shares and areas in [0, 1], not in per cent."""
        return {
            "images": len(self.images),
            "located": self.located,
            "failures": dict(self.failures),
            "metrics": {name: asdict(METRICS[name]) for name in self.metrics},
            "methods": [
                {
                    "label": method.label,
                    **method.contender.facts(),
                    "passes": method.passes,
                    "seconds": method.seconds,
                    "metrics": {name: asdict(estimate) for name, estimate in method.estimates.items()},
                    "minus_first": {name: asdict(estimate) for name, estimate in method.differences.items()},
                    "curves": {name: curve.tolist() for name, curve in method.curves.items()},
                    "results": [dict(result) for result in self.results[method.label]],
                }
                for method in self.methods
            ],
        }


def summarise(evaluator: Evaluator, contenders: Sequence[Contender], *, seed: int = 0) -> Summary:
    """Gather what was kept.

    Args:
        evaluator: whose results hold every image that did not fail, by every method.
        contenders: of different labels; the first one is what the others are compared with.
        seed: of the bootstrap.

    Raises:
        MetricError: not one image was explained.
    """
    cases = [case for case in evaluator.cases if case.failure is None]
    failures = {case.name: case.failure for case in evaluator.cases if case.failure is not None}
    if not cases:
        raise MetricError(
            f"not one of {len(evaluator.cases)} images could be evaluated; the first: {next(iter(failures))}: "
            f"{next(iter(failures.values()))}"
            if failures
            else "there are no images to evaluate."
        )
    results: dict[str, list[dict[str, Any]]] = {}
    found: list[MethodSummary] = []
    for contender in contenders:
        kept = results[contender.label] = []
        curves: dict[str, Doubles] = {}
        for case in cases:
            result = evaluator.results[evaluator.key(case, contender)]
            for name, curve in result.get("curves", {}).items():
                curves[name] = curves.get(name, 0) + np.asarray(curve) / len(cases)
            kept.append(
                {key: result[key] for key in ("target", "label", "score", "passes", "seconds", "values")}
                | {"image": case.name}
            )
        found.append(_method(contender, kept, curves, evaluator.settings.metrics, found[:1], seed))
    present = tuple(name for name in METRICS if any(name in method.estimates for method in found))
    located = max((int(np.isfinite(values).sum()) for values in _located(found[0])), default=0)
    return Summary(present, tuple(case.name for case in cases), tuple(found), results, failures, located)


def _method(
    contender: Contender,
    results: Sequence[Mapping[str, Any]],
    curves: Mapping[str, Doubles],
    metrics: Sequence[str],
    first: Sequence[MethodSummary],
    seed: int,
) -> MethodSummary:
    values = {
        name: np.array([result["values"][name] for result in results], np.float64)  # None becomes NaN
        for name in metrics
    }
    differences = {name: values[name] - other.values[name] for other in first for name in metrics}
    return MethodSummary(
        contender,
        values,
        _estimates(values, seed),
        _estimates(differences, seed),
        dict(curves),
        passes=float(np.mean([result["passes"] for result in results])),
        seconds=float(np.median([result["seconds"] for result in results])),
    )


def _estimates(values: Mapping[str, Doubles], seed: int) -> dict[str, Estimate]:
    having = {name: data[np.isfinite(data)] for name, data in values.items()}
    return {name: bootstrap(data, seed=seed) for name, data in having.items() if data.size}


def _located(method: MethodSummary) -> list[Doubles]:
    return [values for name, values in method.values.items() if METRICS[name].group == "localization"]
