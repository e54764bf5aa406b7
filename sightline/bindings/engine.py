"""The one thing the runtime knows about inference engines.

An engine runs one graph at fixed shapes. Its inputs are written into ``buffers`` and its outputs read from there; the
buffers are bound once and stay where they are, so that nothing is allocated or copied between passes (and so that a
GPU engine can replay a captured graph). An engine knows nothing about masks.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]


class Engine(Protocol):
    """One graph, opened at fixed shapes, with its buffers bound."""

    @property
    def name(self) -> str:
        """Which engine this is, e.g. ``onnxruntime-cpu``."""

    @property
    def device(self) -> str:
        """Where the buffers live, e.g. ``cpu``."""

    @property
    def buffers(self) -> Mapping[str, npt.NDArray[Any]]:
        """The bound arrays, inputs and outputs, by the names they have in the graph."""

    def run(self) -> None:
        """One pass: from the input buffers to the output buffers."""

    def close(self) -> None:
        """Free what the engine holds. The buffers must not be used afterwards."""

    def __enter__(self) -> Engine: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
