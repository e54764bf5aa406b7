"""Which feature maps are worth a pass of their own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sightline.errors import MethodError
from sightline.kernels import Kernels
from sightline.numeric import real

Indices = npt.NDArray[np.intp]
Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Choice:
    """Masks of one block that are worth a pass."""

    numbers: Indices
    """Which they are: K of them, each once."""
    worth: Doubles
    """What each is worth, over 0: K. A budget goes to the worthiest first, whatever their block."""


def checked_share(mu: float) -> float:
    """A μ, as Python's float.

    Raises:
        MethodError: it is not in [0, 1).
    """
    number = real(mu)
    if not 0 <= number < 1:
        raise MethodError(f"mu={mu!r} is out of range: choose 0 <= mu < 1, for example 0.3.")
    return number


def above_share(alpha: npt.NDArray[np.floating], mu: float) -> Choice:
    """Keep k where α_k > μ·β and α_k > 0, β = max_k α_k (SISE, §3.2). Nothing is kept where β <= 0.

    Args:
        alpha: α_k of one block.
        mu: μ in [0, 1).

    Returns:
        The maps kept, each worth α_k/β.
    """
    alpha = alpha.astype(np.float64)
    numbers = np.flatnonzero((alpha > mu * alpha.max()) & (alpha > 0))
    return Choice(numbers, alpha[numbers] / alpha.max())


def above_otsu(alpha: npt.NDArray[np.floating], kernels: Kernels) -> Choice:
    """Keep k where α_k/β reaches Otsu's threshold over the positive α_k/β (Ada-SISE, §2).

    With two or fewer positive maps, or ratios that cannot be split, all positive ones are kept.

    Args:
        alpha: α_k of one block.
        kernels: compute the threshold.

    Returns:
        The maps kept, each worth α_k/β.
    """
    positive = above_share(alpha, 0.0)
    if positive.numbers.size <= 2:
        return positive
    threshold = kernels.otsu(kernels.to_device(positive.worth))
    if threshold is None:
        return positive
    above = positive.worth >= threshold
    return Choice(positive.numbers[above], positive.worth[above])
