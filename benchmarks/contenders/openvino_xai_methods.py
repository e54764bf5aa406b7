"""RISE and AISE of openvino_xai, the model compiled by openvino_xai itself."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from .contender import RISE_CELLS, RISE_KEPT, Case, Contender, Counter, Map, Opened
from .counting import count_calls


def open_rise(case: Case) -> Opened:
    provide_openvino_runtime()
    from openvino_xai.methods.black_box.rise import RISE

    return _open(case, RISE, {"num_masks": case.passes, "num_cells": RISE_CELLS, "prob": RISE_KEPT, "seed": case.seed})


def open_aise(case: Case) -> Opened:
    provide_openvino_runtime()
    from openvino_xai.methods.black_box.aise.classification import AISEClassification

    return _open(case, AISEClassification, {})


def _open(case: Case, method: Callable[..., Any], options: dict[str, Any]) -> Opened:
    import openvino

    counter = Counter()
    opened = method(model=openvino.Core().read_model(case.onnx), postprocess_fn=lambda outputs: np.asarray(outputs[0]))
    count_calls(opened, "model_forward", counter, lambda images, **_: len(images))
    compiled = opened.model_compiled
    chosen = compiled.get_property("INFERENCE_PRECISION_HINT")
    precision = {openvino.Type.f32: "fp32", openvino.Type.bf16: "bf16"}[chosen]
    image = case.image[None]

    def explain() -> Map:
        return np.asarray(opened.generate_saliency_map(image, target_indices=[case.target], **options)[case.target])

    return Opened(explain, counter, f"openvino {precision}")


def provide_openvino_runtime() -> None:
    """Give openvino_xai the old name of OpenVINO's module, which releases after 2025 no longer have.

    openvino_xai 1.1 pins OpenVINO 2024.4. Held against an engine two years younger than its own it would lose for the
    engine's sake; under the old name it runs on the same one as Sightline.
    """
    import openvino

    if hasattr(openvino, "runtime"):
        return
    import openvino.opset10
    import openvino.utils.data_helpers.wrappers

    aliases = {
        "": openvino,
        ".opset10": openvino.opset10,
        ".utils": openvino.utils,
        ".utils.data_helpers": openvino.utils.data_helpers,
        ".utils.data_helpers.wrappers": openvino.utils.data_helpers.wrappers,
    }
    for name, module in aliases.items():
        sys.modules[f"openvino.runtime{name}"] = module
    openvino.runtime = openvino


_CHOSEN_BY_OPENVINO = "batch 1 (the only one), precision and threads as OpenVINO chooses"
CONTENDERS = (
    Contender("openvino_xai RISE", ("openvino_xai", "openvino"), _CHOSEN_BY_OPENVINO, open_rise),
    Contender(
        "openvino_xai AISE",
        ("openvino_xai", "openvino"),
        f"{_CHOSEN_BY_OPENVINO}; preset BALANCE (its default), which fixes the number of passes",
        open_aise,
    ),
)
