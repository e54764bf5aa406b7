"""The classifier in float16."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from onnx import TensorProto
from onnxruntime.transformers.float16 import convert_float_to_float16

from sightline.bundle import Bundle
from sightline.errors import PrecisionError
from sightline.exporter import variant
from sightline.exporter.check import session

Floats: TypeAlias = npt.NDArray[np.float32]

LARGEST = float(np.finfo(np.float16).max)


def halve(source: Bundle, path: Path) -> None:
    """Write the classifier with weights and everything before the logits in float16, and a float16 image."""
    model, raw = variant.behead(variant.load(source))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of weights rounded to 0 or cut: the check of the logits decides
        model = convert_float_to_float16(model, disable_shape_infer=True)
    model = variant.append_head(model, raw, source)
    variant.save(model, path, source)


def refuse_overflow(source: Bundle, images: Sequence[Floats]) -> None:
    """Look for what float16 cannot hold: engines without its kernels compute in float32 and would hide it.

    Args:
        source: the bundle.
        images: each as the network takes it, without the batch.

    Raises:
        PrecisionError: a tensor inside exceeds the largest float16.
    """
    model = variant.load(source)
    inner = [name for node in model.graph.node for name in node.output if name]
    known = {value.name: value for value in model.graph.value_info}
    floats = [name for name in inner if name in known and known[name].type.tensor_type.elem_type == TensorProto.FLOAT]
    model.graph.output.extend(known[name] for name in floats)
    with tempfile.TemporaryDirectory(prefix="sightline.") as scratch:
        path = Path(scratch) / "inner.onnx"
        variant.write(model, path)
        exposed = session(path)
        for image in images:
            for name, value in zip(floats, exposed.run(floats, {source.input.name: image[None]}), strict=True):
                largest = float(np.abs(value).max(initial=0))
                if not largest <= LARGEST:
                    raise PrecisionError(
                        f"the tensor {name!r} reaches {largest:.1e}, which float16 cannot hold: use bf16 or fp32 for "
                        "this network."
                    )
