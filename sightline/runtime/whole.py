"""The network on whole images, without gradients: what it predicts, for a third of what an attribution pass takes."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from sightline.bindings import Engine
from sightline.bundle import LOGITS, MANIFEST, PROBABILITIES, Bundle
from sightline.kernels import kernels_for
from sightline.runtime.attributions import finite

Floats = npt.NDArray[np.float32]
Outputs = tuple[Floats, Floats]
"""Logits and probabilities: K each, on the host."""

logger = logging.getLogger(__name__)


class WholePass:
    """Runs the classifier on one image at a time, in float32. Its engine is opened when it is first needed."""

    def __init__(self, bundle: Bundle, open_one: Callable[[], Engine]) -> None:
        """Take a way to open an engine.

        Args:
            bundle: of the classifier.
            open_one: opens it at batch size one.
        """
        self._bundle, self._open_one = bundle, open_one
        self._engine: Engine | None = None

    def ready(self) -> bool:
        """Open the engine, if it is not open yet; whether it is. Not where another bundle lies in the place by now.

        Raises:
            EngineError: the engine cannot open the classifier.
            OutOfMemoryError: there is no room for it.
        """
        if self._engine is None:
            if not self._is_there():
                logger.info("%s was replaced: its images are classified by attribution passes", self._bundle.path)
                return False
            self._engine = self._open_one()
        return True

    def __call__(self, image: Floats) -> Outputs:
        """Classify an image.

        Args:
            image: as the network takes it, preprocessed.

        Raises:
            EngineError: the pass failed, or the network answers with NaN or infinity.
        """
        assert self._engine is not None  # it is ready
        buffers = self._engine.buffers
        kernels = kernels_for(self._engine.device, self._engine.stream)
        kernels.write(buffers[self._bundle.input.name][0], image)
        self._engine.run()
        logits, probabilities = (
            finite(name, kernels.to_host(buffers[name])[0].copy()) for name in (LOGITS, PROBABILITIES)
        )
        return logits, probabilities

    def close(self) -> None:
        """Free the engine."""
        if self._engine is not None:
            self._engine.close()

    def _is_there(self) -> bool:
        try:
            content = (self._bundle.path / MANIFEST).read_bytes()
        except OSError:
            return False
        return hashlib.sha256(content).hexdigest() == self._bundle.hash
