"""The image of the single file: preprocessed, or pixels with the preprocessing inside (sightline/runtime/image.py)."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from sightline.bundle import ImageInput
from sightline.exporter.builder import Term
from sightline.exporter.single.writer import FLOAT, Writer


def network_input(w: Writer, name: str, spec: ImageInput, *, uint8: bool) -> Term:
    """Add the input to the graph, and what makes of it a batch of one as the network takes it.

    Args:
        w: writes the nodes.
        name: of the input.
        spec: what the network expects of an image.
        uint8: pixels H×W×C, RGB or grey, instead of the preprocessed batch.
    """
    last = spec.layout == "NHWC"
    if not uint8:
        shape = (1, spec.height, spec.width, spec.channels) if last else (1, *spec.shape)
        value = ir.val(name, dtype=FLOAT, shape=shape)
        w.graph.inputs.append(value)
        return w.term(value)
    value = ir.val(name, dtype=ir.DataType.UINT8, shape=(spec.height, spec.width, spec.channels))
    w.graph.inputs.append(value)
    pixels = w.cast(w.term(value), FLOAT)
    if spec.colour == "BGR":
        pixels = w.gather(pixels, np.array([2, 1, 0], np.int32), 2)
    scaled = pixels * w.array(np.array(spec.range / 255, np.float32))
    mean, std = (w.array(np.asarray(values, np.float32)) for values in (spec.mean, spec.std))
    planes = w.transpose((scaled - mean) / std, (0, 1, 2) if last else (2, 0, 1))
    return w("Unsqueeze", planes, w.integers((0,)))
