"""What an explanation is for: a class, or any function of the network's probabilities."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from sightline.bundle import Activation
from sightline.errors import TargetError
from sightline.runtime.batching import scores

Doubles = npt.NDArray[np.float64]
TargetFunction: TypeAlias = Callable[[Doubles], Doubles]
Target: TypeAlias = "int | str | TargetFunction"
"""Index or label of a class; or a function of the probabilities, N×K float64, to N scores, larger the more the image
has of what is to be explained. (Of a network whose activation is ``none`` they are its outputs as they are, flattened.)
"""
Targets: TypeAlias = "list[int] | list[str] | list[TargetFunction] | list[Target] | tuple[Target | None, ...]"

LARGEST = 4096
"""Outputs of a network up to which a function's gradient is found by difference quotients."""
_STEP = 1e-5
"""Of the difference quotients, relative to the logits: float64's rounding and curvature both stay below 1e-6."""
_SURE = 1 - 1e-6
"""A probability above which steps of the logits may move a function by nothing but rounding."""
_ROUNDING = 1e-11
"""A move of the function, relative to its values, that may be rounding alone."""


def name(function: TargetFunction) -> str:
    """What to call a function in a caption."""
    found = getattr(function, "__name__", type(function).__name__)
    return "function" if found == "<lambda>" else str(found)


def gradient(function: TargetFunction, logits: Doubles, activation: Activation) -> Doubles:
    """The gradient of a function of the probabilities with respect to the logits, its largest entry ±1.

    By central differences, all in one call of the function, or in a second one with respect to the probabilities where
    the network is too sure for the first; or by its own attribute ``gradient``, a function of the
    probabilities, K, to ∂function/∂probabilities, K, where it has one.

    Args:
        function: of the probabilities, N×K -> N.
        logits: K.
        activation: what turns logits into probabilities.

    Returns:
        K; all zero where the function does not depend on the logits.

    Raises:
        TargetError: the function returns something else than finite numbers, or has no gradient of its own and the
            network more than ``LARGEST`` outputs.
    """
    logits = np.asarray(logits, np.float64)
    if (own := getattr(function, "gradient", None)) is not None:
        found = _through(activation, logits, _checked(own(_activated(logits[None], activation)[0]), len(logits)))
    elif len(logits) > LARGEST:
        raise TargetError(
            f"the network has {len(logits)} outputs, too many for difference quotients: give the target function an "
            "attribute 'gradient' (probabilities, K, to its derivatives, K), or take a method without gradients (rise)."
        )
    else:
        steps = _STEP * np.maximum(1, abs(logits))
        moved = np.concatenate([logits + np.diag(steps), logits - np.diag(steps)])
        above, below = np.split(scores(function, _activated(moved, activation)), 2)
        found = (above - below) / (2 * steps)
        (p,) = _activated(logits[None], activation)
        seen = abs(above - below).max() > _ROUNDING * max(1.0, abs(above).max())
        if activation != "none" and p.max() > _SURE and not seen:
            found = _through(activation, logits, _inward(function, p, activation))
    largest = abs(found).max()
    return found / largest if largest > 0 else found


def _inward(function: TargetFunction, p: Doubles, activation: Activation) -> Doubles:
    """∂function/∂probabilities by steps that stay among them; of a softmax up to a constant, which does not count."""
    if activation == "sigmoid":
        steps = np.where(p > 0.5, -_STEP, _STEP)
        moved = p + np.diag(steps)
    else:
        steps = np.full(len(p), _STEP)
        moved = p + _STEP * (np.eye(len(p)) - p)
    whole, *values = scores(function, np.concatenate([p[None], moved]))
    return np.asarray((np.array(values) - whole) / steps)


def _checked(found: npt.ArrayLike, classes: int) -> Doubles:
    values = np.asarray(found, np.float64)
    if values.shape != (classes,) or not np.isfinite(values).all():
        raise TargetError(
            f"the target function's gradient has shape {values.shape}: return {classes} finite numbers, one for each "
            "output."
        )
    return values


def _activated(logits: Doubles, activation: Activation) -> Doubles:
    """Probabilities: N×K -> N×K."""
    if activation == "none":
        return logits
    if activation == "sigmoid":
        return np.exp(-np.logaddexp(0, -logits))
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def _through(activation: Activation, logits: Doubles, outer: Doubles) -> Doubles:
    """The chain rule through the activation: ∂/∂probabilities -> ∂/∂logits, K -> K."""
    if activation == "none":
        return outer
    (p,) = _activated(logits[None], activation)
    if activation == "sigmoid":
        return np.asarray(outer * p * _activated(-logits, activation))  # 1 − p, which may be too little beside 1
    outer = outer - outer[p.argmax()]  # changes nothing but the rounding, where a p is all but 1
    return np.asarray(p * (outer - outer @ p))
