"""Class activation maps from gradients: Grad-CAM, Grad-CAM++ and LayerCAM. No masked pass at all.

Their gradients are those of the bare logit z_c, and their maps lie at the resolution of one block.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from sightline.errors import MethodError
from sightline.kernels import Kernels
from sightline.runtime.attributions import Attributions, BlockAttributions
from sightline.runtime.fusion import normalised
from sightline.runtime.masks import MaskSet
from sightline.runtime.method import Maps, Output, Plan
from sightline.runtime.selection import Indices

Doubles = npt.NDArray[np.float64]


class _Maskless:
    predict: ClassVar[bool] = False
    gradients: ClassVar[bool] = True

    def masks(self, attributions: Attributions, chosen: Mapping[str, Indices], kernels: Kernels) -> dict[str, MaskSet]:
        """None."""
        return {}


@dataclass(frozen=True)
class GradCAM(_Maskless):
    """ReLU(Σ_k w_k·A_k), w_k the mean of ∂z_c/∂A_k (Selvaraju et al., ICCV 2017, arXiv 1610.02391, §3).

    Args:
        block: name of the block, the last one by default.
    """

    block: str | None = None
    name: ClassVar[str] = "grad-cam"
    output: ClassVar[Output] = "probabilities"
    rivals: ClassVar[bool] = False

    def plan(self, attributions: Attributions, kernels: Kernels) -> Plan:
        """No masks."""
        features, gradient = _activations(attributions, self.block)
        weights = gradient.mean(axis=(1, 2))
        return _plan(np.tensordot(weights, features, 1), attributions, kernels)


@dataclass(frozen=True)
class GradCAMPlusPlus(_Maskless):
    """Grad-CAM with w_k = Σ a·ReLU(g), a = g² / (2g² + g³·ΣA) (Chattopadhay et al., WACV 2018, 1710.11063, §3.2).

    Args:
        block: name of the block, the last one by default.
    """

    block: str | None = None
    name: ClassVar[str] = "grad-cam++"
    output: ClassVar[Output] = "probabilities"
    rivals: ClassVar[bool] = False

    def plan(self, attributions: Attributions, kernels: Kernels) -> Plan:
        """No masks."""
        features, gradient = _activations(attributions, self.block)
        total = features.sum(axis=(1, 2), keepdims=True)
        share = gradient**2 / (2 * gradient**2 + gradient**3 * total + 1e-6)
        weights = (share * np.maximum(gradient, 0)).sum(axis=(1, 2))
        return _plan(np.tensordot(weights, features, 1), attributions, kernels)


@dataclass(frozen=True)
class LayerCAM(_Maskless):
    """ReLU(Σ_k ReLU(g_k) ⊙ A_k): a weight for every position (Jiang et al., IEEE TIP 2021, §3.2).

    Args:
        block: name of the block, the last one by default.
    """

    block: str | None = None
    name: ClassVar[str] = "layer-cam"
    output: ClassVar[Output] = "probabilities"
    rivals: ClassVar[bool] = False

    def plan(self, attributions: Attributions, kernels: Kernels) -> Plan:
        """No masks."""
        features, gradient = _activations(attributions, self.block)
        return _plan((np.maximum(gradient, 0) * features).sum(axis=0), attributions, kernels)


def chosen_block(attributions: Attributions, name: str | None) -> BlockAttributions:
    """The block of that name, the last one by default.

    Raises:
        MethodError: there is no such block.
    """
    if name is None:
        return attributions.blocks[-1]
    for block in attributions.blocks:
        if block.block.name == name:
            return block
    known = ", ".join(block.block.name for block in attributions.blocks)
    raise MethodError(f"there is no block {name!r}. Blocks: {known}.")


def drawn(low: Doubles, size: tuple[int, int], kernels: Kernels) -> Maps:
    """ReLU of a map at the block's resolution, upsampled and normalised: H×W."""
    map = normalised(kernels.upsample(kernels.to_device(np.maximum(low, 0)), size), kernels)
    return kernels.to_host(kernels.zeros(*size) if map is None else map), {}


def _activations(attributions: Attributions, name: str | None) -> tuple[Doubles, Doubles]:
    """Features and gradient of a block, on the host: C×h×w each."""
    block = chosen_block(attributions, name)
    features, gradient = (
        np.asarray(attributions.kernels.to_host(values), np.float64) for values in (block.features, block.gradient)
    )
    return features, gradient


def _plan(low: Doubles, attributions: Attributions, kernels: Kernels) -> Plan:
    size = attributions.size
    return Plan({}, lambda scored: drawn(low, size, kernels))
