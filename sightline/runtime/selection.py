"""Which feature maps are worth a pass of their own."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sightline.kernels import Kernels

Indices = npt.NDArray[np.intp]


def above_share(alpha: npt.NDArray[np.floating], mu: float) -> Indices:
    """Keep k where α_k > μ·β and α_k > 0, β = max_k α_k (SISE, §3.2). Nothing is kept where β <= 0.

    Args:
        alpha: α_k of one block.
        mu: μ in [0, 1).

    Returns:
        The indices kept, ascending.
    """
    alpha = alpha.astype(np.float64)
    return np.flatnonzero((alpha > mu * alpha.max()) & (alpha > 0))


def above_otsu(alpha: npt.NDArray[np.floating], kernels: Kernels) -> Indices:
    """Keep k where α_k/β reaches Otsu's threshold over the positive α_k/β (Ada-SISE, §2).

    With two or fewer positive maps, or ratios that cannot be split, all positive ones are kept.

    Args:
        alpha: α_k of one block.
        kernels: compute the threshold.

    Returns:
        The indices kept, ascending.
    """
    positive = above_share(alpha, 0.0)
    if positive.size <= 2:
        return positive
    ratios = alpha[positive].astype(np.float64)
    ratios /= ratios.max()
    threshold = kernels.otsu(kernels.to_device(ratios))
    return positive if threshold is None else positive[ratios >= threshold]
