"""Running a single file on the engines that are here, and comparing what it says with the runtime."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from sightline import Explanation

Arrays = dict[str, npt.NDArray[Any]]
INPUTS = ("image", "target", "mu", "max_passes")
OUTPUTS = ("logits", "probabilities", "explained", "saliency", "passes")
ENGINES = ("onnxruntime", "openvino")


@dataclass(frozen=True)
class Explained:
    saliency: npt.NDArray[np.float32]
    target: int
    passes: int
    logits: npt.NDArray[np.float32]
    probabilities: npt.NDArray[np.float32]


class SingleFile:
    """A single file opened on one engine. What is not said is asked of the file itself: -1."""

    def __init__(self, path: Path, engine: str = "onnxruntime") -> None:
        self._engine = engine
        if engine == "openvino":
            from sightline.bindings import openvino_package

            hints = {"INFERENCE_PRECISION_HINT": "f32"}  # bfloat16 is its own choice where the CPU has AMX
            self._model: Any = openvino_package.core().compile_model(str(path), "CPU", hints)
            known = {name for port in self._model.inputs for name in port.names}
            self.inputs = [name for name in INPUTS if name in known]
        else:
            options = onnxruntime.SessionOptions()
            options.log_severity_level = 3
            self._model = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            self.inputs = [node.name for node in self._model.get_inputs()]

    def __call__(self, image: npt.NDArray[Any], target: int = -1, mu: float = -1.0, max_passes: int = -1) -> Explained:
        feeds: Arrays = {
            "image": image,
            "target": np.array([target]),
            "mu": np.array([mu], np.float32),
            "max_passes": np.array([max_passes]),
        }
        found = self._run({name: feeds[name] for name in self.inputs})
        assert found["saliency"].dtype == np.float32
        return Explained(
            found["saliency"],
            int(found["explained"].item()),
            int(found["passes"].item()),
            found["logits"],
            found["probabilities"],
        )

    def _run(self, feeds: Arrays) -> Arrays:
        if self._engine == "openvino":
            found = self._model(feeds)
            return {name: np.array(found[name]) for name in OUTPUTS}
        names = [node.name for node in self._model.get_outputs()]
        return dict(zip(names, self._model.run(names, feeds), strict=True))


def assert_same(got: Explained, want: Explanation) -> None:
    """The bounds that the single file promises: the same passes, and no more than one pixel in a thousand off."""
    assert got.target == want.target
    assert got.passes == want.passes
    assert np.isfinite(got.saliency).all()
    assert got.saliency.min() >= 0
    assert got.saliency.max() <= 1
    if want.saliency.any() and got.saliency.any():
        assert np.corrcoef(got.saliency.ravel(), want.saliency.ravel())[0, 1] >= 0.9999
    assert np.mean(np.abs(got.saliency - want.saliency) > 1e-3) <= 1e-3
