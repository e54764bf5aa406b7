"""Grad-CAM and LayerCAM in a graph: that of sightline/runtime/cam.py."""

from __future__ import annotations

from sightline.bundle import Block
from sightline.exporter.builder import Term
from sightline.exporter.single.fusion import normalised
from sightline.exporter.single.sampling import upsampled
from sightline.exporter.single.writer import FLOAT, Writer


def grad_cam(w: Writer, features: Term, gradient: Term) -> Term:
    """Σ_k w_k·A_k, w_k the mean of the gradient: C×h×w twice -> h×w."""
    weights = w.mean(gradient, (1, 2))
    return w.sum(features * weights, (0,), keepdims=False)


def layer_cam(w: Writer, features: Term, gradient: Term) -> Term:
    """Σ_k ReLU(g_k) ⊙ A_k: C×h×w twice -> h×w."""
    return w.sum(w.maximum(gradient, 0.0) * features, (0,), keepdims=False)


CAMS = {"grad-cam": grad_cam, "layer-cam": layer_cam}
"""By the names of the methods."""


def drawn(w: Writer, method: str, block: Block, features: Term, gradient: Term, size: tuple[int, int]) -> Term:
    """The map of a method at one block, ReLU, upsampled and normalised: H×W in [0, 1], float32."""
    low = CAMS[method](w, w.precise(features), w.precise(gradient))
    up = upsampled(w, w.maximum(low, 0.0), (block.height, block.width), size)
    return w.cast(normalised(w, up).map, FLOAT)
