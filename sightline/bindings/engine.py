"""The one thing the runtime knows about inference engines.

An engine runs one graph at fixed shapes. Its inputs are written into ``buffers`` and its outputs read from there; the
buffers are bound once and stay where they are, so that nothing is allocated or copied between passes (and so that a
GPU engine can replay a captured graph). An engine knows nothing about masks.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]
Device = Literal["cpu", "cuda"]
Precision = Literal["fp32", "tf32", "fp16", "bf16", "int8"]

FACTOR = "sightline.factor"
"""The buffer of a :class:`Product`'s second factor."""


class Product(NamedTuple):
    """An input that the engine is to multiply, within its pass, by a second array, elementwise."""

    input: str
    shape: tuple[int, ...]
    """Of the factor; it is broadcast to the input's."""


class Engine(Protocol):
    """One graph, opened at fixed shapes, with its buffers bound."""

    @property
    def name(self) -> str:
        """Which engine this is, e.g. ``onnxruntime-cpu``."""

    @property
    def device(self) -> Device:
        """Where the buffers live."""

    @property
    def precision(self) -> Precision:
        """What the engine computes in. The buffers say themselves what they hold."""

    @property
    def stream(self) -> Any:
        """The CUDA stream (``cupy.cuda.Stream``) that passes are enqueued on; None on a CPU."""

    @property
    def buffers(self) -> Mapping[str, npt.NDArray[Any]]:
        """The bound arrays, inputs and outputs, by the names they have in the graph: NumPy or CuPy arrays.

        bfloat16 is held as its bits, in uint16. An engine that multiplies an input (:class:`Product`) has the factor
        here as well, as ``FACTOR``, and multiplies by what it holds, at first by zero.
        """

    def run(self) -> None:
        """One pass: from the input buffers to the output buffers.

        On a CPU the outputs are there on return. On a GPU the pass is enqueued on ``stream``, after what was enqueued
        before, and the call returns at once.

        Raises:
            OutOfMemoryError: the device has no room for this batch; a smaller one may do.
            EngineError: the pass failed, or the engine is closed.
        """

    def close(self) -> None:
        """Free what the engine holds. The buffers must not be used afterwards."""

    def __enter__(self) -> Engine: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
