"""The attribution pass: one run of ``attribution.onnx`` gives everything that the selection of maps needs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sightline.bindings import Engine
from sightline.bundle import LOGITS, PROBABILITIES, RIVALS, TARGET, Block, Bundle, Layout
from sightline.errors import EngineError

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class BlockAttributions:
    """What the attribution pass says about one block. The arrays are views that the next pass overwrites."""

    block: Block
    features: Floats
    """A_k: C×h×w."""
    gradient: Floats
    """C×h×w, of the seeded decision with respect to the features."""
    alpha: Floats
    """α_k, the spatial means of the gradient: C."""


@dataclass(frozen=True, eq=False)
class Attributions:
    """What the attribution pass says about one image."""

    image: Floats
    """C×H×W or H×W×C, preprocessed."""
    layout: Layout
    size: tuple[int, int]
    """(H, W) of the network."""
    target: int
    score: float
    """p_c."""
    blocks: tuple[BlockAttributions, ...]
    """From shallow to deep."""


class AttributionPass:
    """Runs ``attribution.onnx`` on one image at a time."""

    def __init__(self, bundle: Bundle, engine: Engine) -> None:
        """Take an engine that has ``bundle.attribution`` open."""
        self._bundle = bundle
        self._engine = engine

    def __call__(self, image: Floats, target: int | None) -> Attributions:
        """Attribute the decision for a class, the predicted one by default.

        Args:
            image: as the network takes it, preprocessed.
            target: index of the class, or None.

        Raises:
            EngineError: the pass failed, or the network itself answers with NaN or infinity.
        """
        spec, buffers = self._bundle.input, self._engine.buffers
        buffers[spec.name][0] = image
        buffers[TARGET][:] = -1 if target is None else target
        if RIVALS in buffers:
            buffers[RIVALS][:] = 1  # the gradient of p_c up to a positive factor (SISE), not of the bare logit
        self._engine.run()
        for name in (LOGITS, PROBABILITIES, *(block.features for block in self._bundle.blocks)):
            if not np.isfinite(buffers[name]).all():
                raise EngineError(
                    f"the network answers this image with NaN or infinity ({name}): check that the image is "
                    "preprocessed as the network expects (sightline inspect) and that its weights are finite."
                )
        # The logits decide, as in the graph: probabilities of float32 tie at 1.
        chosen = int(buffers[LOGITS][0].argmax()) if target is None else target
        return Attributions(
            image=image,
            layout=spec.layout,
            size=(spec.height, spec.width),
            target=chosen,
            score=float(buffers[PROBABILITIES][0, chosen]),
            blocks=tuple(
                BlockAttributions(block, *(buffers[name][0] for name in (block.features, block.gradient, block.alpha)))
                for block in self._bundle.blocks
            ),
        )
