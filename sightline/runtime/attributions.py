"""The attribution pass: one run of ``attribution.onnx`` gives everything that the selection of maps needs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sightline.bindings import Engine
from sightline.bundle import LOGITS, PREDICTED, PROBABILITIES, RIVALS, SEED, SEEDED, TARGET, Block, Bundle, Layout
from sightline.errors import EngineError
from sightline.kernels import Kernels, kernels_for

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class BlockAttributions:
    """What the attribution pass says about one block."""

    block: Block
    features: Floats
    """A_k: C×h×w, in the engine's own buffer, on its device: the next pass overwrites it."""
    gradient: Floats
    """C×h×w, of the seeded decision with respect to the features; likewise."""
    alpha: Floats
    """α_k, the spatial means of the gradient: C, on the host."""


@dataclass(frozen=True, eq=False)
class Attributions:
    """What the attribution pass says about one image."""

    image: Floats
    """C×H×W or H×W×C, preprocessed, on the host."""
    layout: Layout
    size: tuple[int, int]
    """(H, W) of the network."""
    logits: Floats
    probabilities: Floats
    """K each, on the host."""
    blocks: tuple[BlockAttributions, ...]
    """From shallow to deep."""
    kernels: Kernels
    """Those of the device that features and gradients are on."""


class AttributionPass:
    """Runs ``attribution.onnx`` on one image at a time."""

    def __init__(self, bundle: Bundle, engine: Engine) -> None:
        """Take an engine that has ``bundle.attribution`` open.

        Args:
            bundle: tells what the graph puts out.
            engine: runs it.
        """
        self._bundle = bundle
        self._engine = engine
        self._kernels = kernels_for(engine.device, engine.stream)
        self.latest: Attributions | None = None
        """What the buffers hold: the features and gradients of earlier ones are overwritten."""

    def __call__(self, image: Floats, target: int | Doubles | None, *, rivals: bool = True) -> Attributions:
        """Attribute the decision for a class, the predicted one by default, or for any function of the logits.

        Args:
            image: as the network takes it, preprocessed.
            target: index of the class, None, or the function's gradient with respect to the logits, K.
            rivals: whether a softmax network's gradients are those of p_c, up to a positive factor (SISE), or those of
                the bare logit (the Grad-CAMs).

        Raises:
            EngineError: the pass failed, or the network itself answers with NaN or infinity.
        """
        spec, buffers, kernels = self._bundle.input, self._engine.buffers, self._kernels
        kernels.write(buffers[spec.name][0], image)
        seed = target if isinstance(target, np.ndarray) else None
        kernels.write(buffers[SEED], 0 if seed is None else seed[None])
        number = PREDICTED if target is None else SEEDED if isinstance(target, np.ndarray) else target
        kernels.write(buffers[TARGET], number)
        if RIVALS in buffers:
            kernels.write(buffers[RIVALS], float(rivals))
        self.latest = None
        self._engine.run()
        names = (LOGITS, PROBABILITIES, *(block.alpha for block in self._bundle.blocks))
        found = {name: finite(name, kernels.to_host(buffers[name])[0].copy()) for name in names}
        self.latest = Attributions(
            image=image,
            layout=spec.layout,
            size=(spec.height, spec.width),
            logits=found[LOGITS],
            probabilities=found[PROBABILITIES],
            blocks=tuple(
                BlockAttributions(block, buffers[block.features][0], buffers[block.gradient][0], found[block.alpha])
                for block in self._bundle.blocks
            ),
            kernels=kernels,
        )
        return self.latest


def finite(name: str, values: Floats) -> Floats:
    """An output of the network, once it is clear that it holds numbers.

    Raises:
        EngineError: it holds NaN or infinity.
    """
    if not np.isfinite(values).all():
        raise EngineError(
            f"the network answers this image with NaN or infinity ({name}): check that the image is preprocessed as "
            "the network expects (sightline inspect) and that its weights are finite."
        )
    return values
