"""What the CUDA kernels are given: tables beside the arrays, and arrays that were checked, since they get addresses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from sightline.errors import EngineError
from sightline.kernels.sampling import patch_corners, samples, shares

_ELEMENTS = {"float32": "float32", "float16": "float16", "uint16": "bfloat16", "float64": "float64"}
"""What the kernels call the elements of an array; bfloat16 is held as its bits."""

_SAMPLE = np.dtype([("first", np.int32), ("weight", np.float32)])
"""``struct Sample`` of sampling.cu."""


def _packed(axis: Any) -> npt.NDArray[np.void]:
    """Samples as the kernels read them."""
    table = np.empty(len(axis.first), _SAMPLE)
    table["first"], table["weight"] = axis.first, axis.weight
    return table.view(np.uint64)


TABLES: dict[str, Callable[[int, int], npt.NDArray[Any]]] = {
    "samples": lambda source, size: _packed(samples(source, size)),
    "mirrored": lambda source, size: _packed(samples(source, size, True)),
    "corners": lambda source, size: _packed(patch_corners(source, size)),
    "shares": shares,
    "float32": lambda source, size: samples(source, size).weight.astype(np.float32),
    "float64": lambda source, size: samples(source, size).weight,
}
"""What the host computes once for a pair of sizes, by kind: source and target size -> a table."""


def bfloat16(value: npt.ArrayLike) -> npt.NDArray[np.uint16]:
    """The bits of bfloat16, rounded to the nearest, ties to even."""
    values = np.asarray(value, np.float32)
    bits = values.view(np.uint32)
    rounded: npt.NDArray[np.uint16] = ((bits + np.uint32(0x7FFF) + (bits >> 16 & 1)) >> 16).astype(np.uint16)
    rounded = np.where(np.isnan(values), np.uint16(0x7FFF), rounded)
    return rounded


def address(array: Any) -> int:
    """Where an array begins on the device."""
    return int(array.data.ptr)


def contiguous(array: Any) -> Any:
    """The array itself.

    Raises:
        EngineError: it is not contiguous, and a kernel gets nothing but its address.
    """
    if not array.flags.c_contiguous:
        raise EngineError(f"an array of shape {array.shape} is not contiguous: copy it first.")
    return array


def typed(array: Any, dtype: npt.DTypeLike) -> Any:
    """The array itself.

    Raises:
        EngineError: it is of another type, or not contiguous.
    """
    if array.dtype != dtype:
        raise EngineError(f"an array is {array.dtype}: the kernels want {np.dtype(dtype)} there.")
    return contiguous(array)


def floats(array: Any) -> Any:
    """The array itself, which must be float32."""
    return typed(array, np.float32)


def doubles(array: Any) -> Any:
    """The array itself, which must be float64."""
    return typed(array, np.float64)


def output_element(out: Any, shape: tuple[int, ...]) -> str:
    """What the mask kernels call the elements of an output.

    Raises:
        EngineError: they do not write its type, or its shape is another one.
    """
    element = _ELEMENTS.get(out.dtype.name, "float64")
    if element == "float64" or out.shape != shape:
        raise EngineError(
            f"masks cannot be written to {out.shape} {out.dtype}: give {shape} in float32, float16 or uint16 "
            "(bfloat16)."
        )
    return element


def input_element(probabilities: Any, out: Any, target: int) -> str:
    """What the kernels that pick scores call the elements of an engine's output.

    Raises:
        EngineError: they do not read its type, there is no such class, or not one place per row.
    """
    rows, classes = probabilities.shape
    element = _ELEMENTS.get(probabilities.dtype.name)
    if element is None or out.shape != (rows,) or not 0 <= target < classes:
        raise EngineError(
            f"class {target} of {probabilities.shape} {probabilities.dtype} cannot be written to {out.shape}: give "
            "N×K floats, a class below K and N places."
        )
    return element
