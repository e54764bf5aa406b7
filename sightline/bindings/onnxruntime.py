"""ONNX Runtime on the CPU: NumPy buffers bound once, so that a pass neither allocates nor copies an input or output."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from sightline.bindings.engine import Precision
from sightline.bindings.onnxruntime_session import Port, Shape, closed, create, failed, ports

logger = logging.getLogger(__name__)

SPIN_MICROSECONDS = 1000
"""How long a session's threads look for more work before they sleep.

Long enough for the masks of the next batch to be written in between. By ONNX Runtime's own default they spin for tens
of milliseconds after a pass, on the cores that another session's pass needs by then: after every attribution pass, the
first two masked passes took 2.6 times as long. Versions before 1.26 do not know the entry and spin as they always did.
"""


class OnnxRuntimeCpu:
    """An :class:`~sightline.bindings.engine.Engine` on ONNX Runtime's CPU provider. Deterministic."""

    name = "onnxruntime-cpu"
    device = "cpu"
    stream = None

    def __init__(
        self,
        path: Path,
        shapes: Mapping[str, Shape],
        *,
        outputs: Sequence[str] | None = None,
        threads: int | None = None,
        precision: Precision = "fp32",
        cache: Path | None = None,
    ) -> None:
        """Open a graph at fixed shapes.

        Args:
            path: the ONNX file; external weights are read from beside it.
            shapes: the shape of every input that is dynamic in the graph.
            outputs: the outputs to bind, all of them by default.
            threads: how many threads one pass may use, by default one per physical core.
            precision: ``fp32``, or ``int8`` where the file holds a quantized graph (QDQ).
            cache: not used, a session opens in less time than one would be read in.

        Raises:
            EngineError: ONNX Runtime cannot open the graph, or the shapes do not fit it.
            OutOfMemoryError: there is no room for it.
        """
        self.precision = precision
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.add_session_config_entry("session.intra_op.spin_duration_us", str(SPIN_MICROSECONDS))
        self._session = create(path, options, ["CPUExecutionProvider"])
        self._closed = False
        self._binding = self._session.io_binding()
        inputs, bound = ports(self._session, path, shapes, outputs)
        buffers = {name: np.zeros(port.shape or (), port.dtype) for name, port in inputs.items()}
        for name, port in inputs.items():
            self._binding.bind_input(name, **_place(buffers[name], port))
        # The shapes of the outputs follow from those of the inputs: a first pass tells them, where the graph does not.
        for name in bound:
            self._binding.bind_output(name, "cpu")
        self.run()
        for (name, port), value in zip(bound.items(), self._binding.get_outputs(), strict=True):
            buffers[name] = np.zeros(value.shape(), port.dtype)
        self._binding.clear_binding_outputs()
        for name, port in bound.items():
            self._binding.bind_output(name, **_place(buffers[name], port))
        self._buffers = MappingProxyType(buffers)
        logger.debug("opened %s on %s %s", path, self.name, onnxruntime.__version__)

    @property
    def buffers(self) -> Mapping[str, npt.NDArray[Any]]:
        """The bound arrays, inputs and outputs, by name."""
        return self._buffers

    def run(self) -> None:
        """One pass: from the input buffers to the output buffers.

        Raises:
            OutOfMemoryError: there is no room for this batch.
            EngineError: the pass failed, or the engine is closed.
        """
        if self._closed:
            raise closed()
        try:
            self._session.run_with_iobinding(self._binding)
        except Exception as error:  # ONNX Runtime's own errors share no base class
            raise failed(error) from error

    def close(self) -> None:
        """Free the session. The buffers must not be used afterwards."""
        if not self._closed:
            self._closed = True
            del self._binding, self._session

    def __enter__(self) -> OnnxRuntimeCpu:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _place(buffer: npt.NDArray[Any], port: Port) -> dict[str, Any]:
    return {
        "device_type": "cpu",
        "device_id": 0,
        "element_type": port.element,
        "shape": buffer.shape,
        "buffer_ptr": buffer.ctypes.data,
    }


open = OnnxRuntimeCpu
