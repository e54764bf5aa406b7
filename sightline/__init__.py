"""Sightline explains any CNN at the speed of its own inference engine.

::

    bundle = sightline.export(model, "model.sightline", example=x)   # once; needs torch or onnx
    explainer = sightline.Explainer("model.sightline")               # anywhere; needs neither
    explanation = explainer("part.png")
    explanation.saliency, explanation.regions(), explanation.save("why.png")

Importing this package loads nothing heavy: every name below is loaded when it is first used (PEP 562).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sightline import errors
from sightline.bundle import Bundle, load
from sightline.errors import SightlineError

if TYPE_CHECKING:
    from sightline.exporter.export import export
    from sightline.exporter.precision import add_precision
    from sightline.exporter.single_file import export_single_file
    from sightline.exporter.stages import add_stages
    from sightline.runtime.ada_sise import AdaSISE
    from sightline.runtime.cam import GradCAM, GradCAMPlusPlus, LayerCAM
    from sightline.runtime.decomposer import Decomposer, decompose
    from sightline.runtime.explainer import Explainer
    from sightline.runtime.explanation import Explanation
    from sightline.runtime.features import feature_cards
    from sightline.runtime.frames import Frame, FrameResult
    from sightline.runtime.hierarchy import Hierarchy
    from sightline.runtime.prediction import Prediction
    from sightline.runtime.regions import Region
    from sightline.runtime.remise import REMISE
    from sightline.runtime.requests import Answer, Request
    from sightline.runtime.rise import RISE
    from sightline.runtime.score_cam import ScoreCAM
    from sightline.runtime.sise import SISE
    from sightline.runtime.stream import Stream
    from sightline.runtime.tree import Unit

__version__ = "0.1.0"

__all__ = [
    "REMISE",
    "RISE",
    "SISE",
    "AdaSISE",
    "Answer",
    "Bundle",
    "Decomposer",
    "Explainer",
    "Explanation",
    "Frame",
    "FrameResult",
    "GradCAM",
    "GradCAMPlusPlus",
    "Hierarchy",
    "LayerCAM",
    "Prediction",
    "Region",
    "Request",
    "ScoreCAM",
    "SightlineError",
    "Stream",
    "Unit",
    "__version__",
    "add_precision",
    "add_stages",
    "decompose",
    "errors",
    "export",
    "export_single_file",
    "feature_cards",
    "load",
]

_LAZY = {
    "AdaSISE": "sightline.runtime.ada_sise",
    "Answer": "sightline.runtime.requests",
    "Decomposer": "sightline.runtime.decomposer",
    "Explainer": "sightline.runtime.explainer",
    "Explanation": "sightline.runtime.explanation",
    "Frame": "sightline.runtime.frames",
    "FrameResult": "sightline.runtime.frames",
    "GradCAM": "sightline.runtime.cam",
    "GradCAMPlusPlus": "sightline.runtime.cam",
    "LayerCAM": "sightline.runtime.cam",
    "Prediction": "sightline.runtime.prediction",
    "REMISE": "sightline.runtime.remise",
    "RISE": "sightline.runtime.rise",
    "Region": "sightline.runtime.regions",
    "Request": "sightline.runtime.requests",
    "SISE": "sightline.runtime.sise",
    "ScoreCAM": "sightline.runtime.score_cam",
    "Hierarchy": "sightline.runtime.hierarchy",
    "Stream": "sightline.runtime.stream",
    "Unit": "sightline.runtime.tree",
    "add_precision": "sightline.exporter.precision",
    "add_stages": "sightline.exporter.stages",
    "decompose": "sightline.runtime.decomposer",
    "export": "sightline.exporter.export",
    "export_single_file": "sightline.exporter.single_file",
    "feature_cards": "sightline.runtime.features",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        value = globals()[name] = getattr(import_module(_LAZY[name]), name)
    except ModuleNotFoundError as error:
        raise errors.MissingPackageError(error.name or "", purpose=f"sightline.{name}", extra="export") from error
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
