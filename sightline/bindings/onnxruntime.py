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

from sightline.errors import EngineError

logger = logging.getLogger(__name__)

_TYPES: Mapping[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
}

Shape = Sequence[int]


class OnnxRuntimeCpu:
    """An :class:`~sightline.bindings.engine.Engine` on ONNX Runtime's CPU provider. Deterministic."""

    name = "onnxruntime-cpu"
    device = "cpu"

    def __init__(
        self,
        path: Path,
        shapes: Mapping[str, Shape],
        *,
        outputs: Sequence[str] | None = None,
        threads: int | None = None,
    ) -> None:
        """Open a graph at fixed shapes.

        Args:
            path: the ONNX file; external weights are read from beside it.
            shapes: the shape of every input that is dynamic in the graph.
            outputs: the outputs to bind, all of them by default.
            threads: how many threads one pass may use, by default one per physical core.

        Raises:
            EngineError: ONNX Runtime cannot open the graph, or the shapes do not fit it.
        """
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # warnings go to stderr and concern its optimiser
        options.use_deterministic_compute = True
        options.intra_op_num_threads = threads or 0
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's own errors share no base class
            raise EngineError(
                f"ONNX Runtime {onnxruntime.__version__} cannot open {path}: {error}. "
                "Upgrade it (pip install -U onnxruntime), or export the bundle again."
            ) from error
        self._closed = False
        self._binding = self._session.io_binding()
        inputs = {node.name: node for node in self._session.get_inputs()}
        bound = {node.name: node for node in self._session.get_outputs() if outputs is None or node.name in outputs}
        if missing := [name for name in (*shapes, *(outputs or ())) if name not in inputs | bound]:
            raise EngineError(f"{path} has no {', '.join(missing)}: export the bundle again.")
        buffers = {name: _buffer(node, shapes.get(name, node.shape), path) for name, node in inputs.items()}
        for name in inputs:
            self._binding.bind_input(name, **_place(buffers[name]))
        # The shapes of the outputs follow from those of the inputs: a first pass tells them, where the graph does not.
        for name in bound:
            self._binding.bind_output(name, "cpu")
        self.run()
        for name, value in zip(bound, self._binding.get_outputs(), strict=True):
            buffers[name] = np.zeros(value.shape(), value.numpy().dtype)
        self._binding.clear_binding_outputs()
        for name in bound:
            self._binding.bind_output(name, **_place(buffers[name]))
        self._buffers = MappingProxyType(buffers)
        logger.debug("opened %s on %s %s", path, self.name, onnxruntime.__version__)

    @property
    def buffers(self) -> Mapping[str, npt.NDArray[Any]]:
        """The bound arrays, inputs and outputs, by name."""
        return self._buffers

    def run(self) -> None:
        """One pass: from the input buffers to the output buffers.

        Raises:
            EngineError: the pass failed, or the engine is closed.
        """
        if self._closed:
            raise EngineError("this engine is closed: make a new Explainer.")
        try:
            self._session.run_with_iobinding(self._binding)
        except Exception as error:  # as above
            raise EngineError(
                f"ONNX Runtime {onnxruntime.__version__} failed in a pass: {error}. "
                "A smaller batch_size needs less memory; otherwise export the bundle again."
            ) from error

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


def _buffer(node: Any, shape: Sequence[int | str | None], path: Path) -> npt.NDArray[Any]:
    sizes = [size for size in shape if isinstance(size, int)]
    if len(sizes) != len(shape) or len(shape) != len(node.shape):
        raise EngineError(
            f"{node.name!r} in {path} has shape {node.shape}, which {list(shape)} does not fix: "
            "export the bundle again."
        )
    if node.type not in _TYPES:
        raise EngineError(f"{node.name!r} in {path} is a {node.type}, which the runtime does not handle.")
    return np.zeros(sizes, _TYPES[node.type])


def _place(buffer: npt.NDArray[Any]) -> dict[str, Any]:
    return {
        "device_type": "cpu",
        "device_id": 0,
        "element_type": buffer.dtype.type,
        "shape": buffer.shape,
        "buffer_ptr": buffer.ctypes.data,
    }


open = OnnxRuntimeCpu
