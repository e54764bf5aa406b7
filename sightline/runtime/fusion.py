"""From scores to maps: the layer map of a block, and the fusion of the layer maps (SISE, §3.3)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from sightline.kernels import Kernels
from sightline.runtime.masks import Scored

logger = logging.getLogger(__name__)

Doubles = npt.NDArray[np.float64]

_FLAT = 1e-12
"""Below this spread, relative to its values, a float64 map holds nothing but rounding."""


def layer_map(scored: Scored, kernels: Kernels) -> Doubles | None:
    """V_b = Σ_k s_k·M_k / Σ_λ M_k(λ), min–max normalised: H×W in [0, 1], or None where it is constant.

    Exact at low resolution: V_b is up(Σ_k w_k·A_k) with w_k = s_k / ((max_k − min_k)·Σ_λ M_k(λ)), up to a constant
    that the normalisation removes.
    """
    masks = scored.masks
    blended = kernels.aggregate(masks.maps, kernels.to_device(scored.scores / masks.sums))
    return normalised(kernels.upsample(blended, masks.size), kernels)


def normalised(map: Doubles, kernels: Kernels) -> Doubles | None:
    """Min–max to [0, 1]; None where the map is constant."""
    low, high = kernels.spread(map)
    if high - low <= _FLAT * max(abs(low), abs(high)):
        return None
    return kernels.rescale(map, low, high)


def fuse(layer_maps: Sequence[Doubles], size: tuple[int, int], kernels: Kernels, width: float = 0.0) -> Doubles:
    """E_1 = V_1, E_b = (E_{b−1} + V_b) ⊙ [V_b >= otsu(V_b)], then min–max: H×W in [0, 1].

    Args:
        layer_maps: V_b from shallow to deep, none of them constant.
        size: (H, W), for the map of zeros where there is no layer map at all.
        kernels: work where the maps are.
        width: where over 0, σ((V_b − otsu(V_b)) / width) takes the place of the bracket.
    """
    if not layer_maps:
        return kernels.zeros(*size)
    fused = layer_maps[0]
    for layer in layer_maps[1:]:
        threshold = kernels.otsu(layer)
        assert threshold is not None  # a map with 0 and 1 in it can be split
        fused = kernels.fuse(fused, layer, threshold, width)
    result = normalised(fused, kernels)
    return kernels.zeros(*size) if result is None else result


def fuse_blocks(
    blocks: Mapping[str, Scored], size: tuple[int, int], kernels: Kernels, width: float = 0.0
) -> tuple[Doubles, dict[str, Doubles]]:
    """The fused map and the layer maps, by block, of one image, on the host.

    Constant layer maps are left out and logged.
    """
    layer_maps = {}
    for name, scored in blocks.items():
        layer = layer_map(scored, kernels)
        if layer is None:
            logger.info("block %s left out: its layer map is constant (scores up to %g)", name, scored.scores.max())
        else:
            layer_maps[name] = layer
    if not layer_maps:
        logger.warning("no block has anything to show for this class: the saliency map is all zero")
    fused = fuse(list(layer_maps.values()), size, kernels, width)
    return kernels.to_host(fused), {name: kernels.to_host(layer) for name, layer in layer_maps.items()}
