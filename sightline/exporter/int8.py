"""The classifier in 8-bit integers, calibrated on images."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from onnx import ModelProto
from onnxruntime.quantization import CalibrationMethod, QDQQuantizer, QuantType, create_calibrator

from sightline.bundle import Bundle, ImageInput
from sightline.exporter import variant
from sightline.exporter.check import TINY

Floats: TypeAlias = npt.NDArray[np.float32]

PERCENTILE = 99.99
"""Of a tensor's values, what its 8 bits cover: the last ones would coarsen what masked images, the fainter, yield."""
GRIDS = (4, 7, 14, 28)
"""Sides of the random masks before they are enlarged."""

_MATRICES = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_QUANTIZED = (
    *_MATRICES,
    *("Add", "Mul", "Concat", "Relu", "LeakyRelu", "Clip", "Sigmoid"),
    *("MaxPool", "AveragePool", "GlobalAveragePool", "Resize", "Pad"),
    *("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Split"),
)


def quantize(source: Bundle, path: Path, images: Iterable[Floats], symmetric: bool) -> None:
    """Write the classifier with QuantizeLinear and DequantizeLinear around what engines run on 8 bits.

    Args:
        source: the bundle.
        path: the file to write; temporary ones are written beside it.
        images: at least one, each as the network takes it, without the batch; read one by one.
        symmetric: int8 activations around 0, quantized only where they enter a convolution or a matrix product;
            otherwise uint8, quantized between all operators.
    """
    model, raw = variant.behead(variant.load(source))
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{number}"
    operators = list(_MATRICES if symmetric else _QUANTIZED)
    plain = path.with_name("plain.onnx")
    variant.write(model, plain)
    with contextlib.redirect_stdout(io.StringIO()):  # onnxruntime prints its progress
        calibrator = create_calibrator(
            plain,
            operators,
            str(path.with_name("calibration.onnx")),
            CalibrationMethod.Percentile,
            use_external_data_format=model.ByteSize() > variant.EXTERNAL_BYTES,
            extra_options={"percentile": PERCENTILE, "symmetric": symmetric},
        )
        for image in images:
            # One by one: the calibrator keeps every tensor of what it is given in one go.
            calibrator.collect_data(_Reader({source.input.name: image[None]}))
        ranges = calibrator.compute_data()
    options: dict[str, Any] = {"ActivationSymmetric": symmetric, "WeightSymmetric": True}
    if symmetric:
        options["OpTypesToExcludeOutputQuantization"] = operators
    quantizer = QDQQuantizer(
        model,
        per_channel=True,
        reduce_range=True,  # with 8 bits, two products of a weight and a uint8 overflow the 16 bits of AVX2 and SSE
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QInt8 if symmetric else QuantType.QUInt8,
        tensors_range=ranges,
        nodes_to_quantize=[],
        nodes_to_exclude=[],
        op_types_to_quantize=operators,
        extra_options=options,
    )
    quantizer.quantize_model()
    model = quantizer.model.model
    model = variant.append_head(model, _before_quantization(model, raw), source)
    variant.save(model, path, source)


def masked(image: Floats, expected: ImageInput, random: np.random.Generator) -> Floats:
    """The image behind a smooth random mask in [0, 1]: what the network meets when it is explained."""
    side = int(random.choice(GRIDS))
    coarse = random.random((side, side))
    rows, columns = (
        np.array(
            [np.interp((np.arange(size) + 0.5) * side / size - 0.5, np.arange(side), unit) for unit in np.eye(side)]
        )
        for size in (expected.height, expected.width)
    )
    mask = rows.T @ coarse @ columns
    mask = (mask - mask.min()) / max(float(np.ptp(mask)), TINY)
    return np.asarray(image * (mask[:, :, None] if expected.layout == "NHWC" else mask), np.float32)


class _Reader:
    """One feed, in the form in which onnxruntime's calibration asks for it."""

    def __init__(self, feed: Mapping[str, Floats]) -> None:
        self._feeds: Iterator[Mapping[str, Floats]] = iter([feed])

    def get_next(self) -> Mapping[str, Floats] | None:
        return next(self._feeds, None)


def _before_quantization(model: ModelProto, raw: str) -> str:
    """The logits themselves, where they were rounded to 8 bits: 256 steps would tell few masks apart."""
    producers = {name: node for node in model.graph.node for name in node.output}
    last = producers[raw]
    if last.op_type != "DequantizeLinear":
        return raw
    return str(producers[last.input[0]].input[0])
