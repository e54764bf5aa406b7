"""TensorRT on an NVIDIA GPU: buffers of PyCUDA bound once, a pass replayed as one CUDA graph.

Who owns what, and for how long:

- The GPU's primary context (:mod:`sightline.bindings.tensorrt_device`) is shared and outlives every engine.
- The engine owns TensorRT's runtime, its engine and its execution context, PyCUDA's stream and allocations, and the
  graph. ``close`` waits for the stream and gives them back in the order in which each needs the next: graph, execution
  context (it uses buffers and engine), buffers, engine, runtime, stream.
- ``buffers`` are CuPy arrays over PyCUDA's memory, ``stream`` is a CuPy stream over PyCUDA's: nothing is copied. Both
  keep what they show alive as long as the engine is open. Neither may be used after ``close``.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import tensorrt as trt

from sightline.bindings.engine import Precision
from sightline.bindings.memory import exhausted
from sightline.bindings.tensorrt_builder import Plan, build
from sightline.bindings.tensorrt_device import current_gpu
from sightline.bindings.tensorrt_log import LOG, failure, made
from sightline.errors import EngineError, OutOfMemoryError

__all__ = ["Plan", "TensorRt", "build", "open"]

logger = logging.getLogger(__name__)

_TYPES: Mapping[str, type[np.generic]] = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    "BF16": np.uint16,  # its bits: NumPy and CuPy have no bfloat16
    "INT64": np.int64,
    "INT32": np.int32,
    "INT8": np.int8,
    "UINT8": np.uint8,
}

Shape = Sequence[int]


class TensorRt:
    """An :class:`~sightline.bindings.engine.Engine` on TensorRT. One thread at a time may use it, any thread."""

    name: Literal["tensorrt"] = "tensorrt"
    device: Literal["cuda"] = "cuda"

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
        """Open a graph at fixed shapes. The first time on a GPU TensorRT builds it, which takes minutes.

        Args:
            path: the ONNX file; external weights are read from beside it.
            shapes: the shape of every input that is dynamic in the graph.
            outputs: the outputs to bind, all of them by default.
            threads: has no effect: a pass uses no CPU threads.
            precision: what the file computes in; ``fp32`` forbids TensorFloat-32, which ``tf32`` allows.
            cache: where built engines are kept, by default the user's cache folder.

        Raises:
            EngineError: no GPU, TensorRT cannot build or load the graph, or the shapes or outputs do not fit it.
            OutOfMemoryError: the GPU has no room for this batch.
            PrecisionError: the graph or the GPU does not have this precision.
            MissingPackageError: PyCUDA or CuPy is not installed.
        """
        if threads is not None:
            logger.info("threads=%d has no effect: a pass of TensorRT uses no CPU threads", threads)
        self._path, self._precision, self._gpu = path, precision, current_gpu()
        self._runtime: Any = None
        self._engine: Any = None
        self._context: Any = None
        self._graph: Any = None
        self._stream: Any = None
        self._owned_stream: Any = None
        self._allocations: list[Any] = []
        self._buffers: dict[str, Any] = {}
        self._shown = MappingProxyType(self._buffers)
        with self._gpu.current():
            try:
                wanted = functools.partial(build, path, shapes, outputs=outputs, precision=precision, cache=cache)
                self._load(wanted, shapes)
                self._bind(shapes)
                self._graph = self._captured()
            except BaseException as error:
                self._release()
                if isinstance(error, self._gpu.driver.MemoryError):
                    raise OutOfMemoryError(
                        f"{self._gpu.name} has no room for {path} at {_listed(shapes)}: {error}. "
                        "A smaller batch_size needs less memory; so does ending what else runs on this GPU."
                    ) from error
                if isinstance(error, self._gpu.driver.Error):
                    raise EngineError(
                        f"PyCUDA cannot bind {path} on {self._gpu.name}: {error}. See nvidia-smi."
                    ) from error
                raise
        logger.debug("opened %s on TensorRT %s, %s, %s", path, trt.__version__, self._gpu.name, precision)

    @property
    def precision(self) -> Precision:
        """What the engine computes in."""
        return self._precision

    @property
    def stream(self) -> Any:
        """The ``cupy.cuda.Stream`` that passes are enqueued on."""
        return self._stream

    @property
    def buffers(self) -> Mapping[str, npt.NDArray[Any]]:
        """The bound CuPy arrays, inputs and outputs, by name."""
        return self._shown

    def run(self) -> None:
        """Enqueue one pass: from the input buffers to the output buffers. Returns at once.

        Raises:
            OutOfMemoryError: the GPU has no room for this batch.
            EngineError: the pass failed, or the engine is closed.
        """
        if self._context is None:
            raise EngineError("this engine is closed: make a new Explainer.")
        with self._gpu.cupy.cuda.Device(self._gpu.index):  # another thread may work on another GPU
            if self._graph is None:
                self._enqueue(self._stream)
                return
            try:
                self._graph.launch(self._stream)
            except self._gpu.cupy.cuda.runtime.CUDARuntimeError as error:
                if exhausted(error):
                    raise OutOfMemoryError(
                        f"{self._gpu.name}: {error}. A smaller batch_size needs less memory."
                    ) from error
                raise EngineError(f"TensorRT failed in a pass of {self._path}: {error}. See nvidia-smi.") from error

    def close(self) -> None:
        """Free what the engine holds, once its passes are done. Buffers and stream must not be used afterwards."""
        with self._gpu.current():
            self._release()

    def __enter__(self) -> TensorRt:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _load(self, wanted: Callable[..., Plan], shapes: Mapping[str, Shape]) -> None:
        self._runtime, plan = made(trt.Runtime), wanted()
        self._engine = self._runtime.deserialize_cuda_engine(plan.content)
        if self._engine is None and not plan.built:  # e.g. after an update of the driver
            reason = failure(f"TensorRT {trt.__version__} refuses it", "")
            if isinstance(reason, OutOfMemoryError):
                raise reason
            logger.warning("%s is built again: %s", plan.path, reason)
            plan = wanted(anew=True)
            self._engine = self._runtime.deserialize_cuda_engine(plan.content)
        if self._engine is None:
            raise failure(
                f"TensorRT {trt.__version__} cannot load {plan.path}, which it built itself",
                "Restart the process; if that does not help, take another engine (sightline doctor lists them).",
            )
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise failure(
                f"TensorRT cannot make an execution context for {self._path} at {_listed(shapes)}",
                "Restart the process; if that does not help, take another engine (sightline doctor lists them).",
            )

    def _bind(self, shapes: Mapping[str, Shape]) -> None:
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        for name in names:
            dynamic = -1 in tuple(self._engine.get_tensor_shape(name))
            if dynamic and self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT:
                self._check(self._context.set_input_shape(name, tuple(shapes[name])), f"the shape of {name!r}")
        if unknown := self._context.infer_shapes():
            raise EngineError(f"{self._path} does not say the shape of {', '.join(unknown)}: export the bundle again.")
        # Not a non-blocking stream: work on CUDA's default stream, e.g. a plain CuPy copy into a buffer, is waited for.
        self._owned_stream = self._gpu.driver.Stream()
        self._stream = self._gpu.cupy.cuda.Stream.from_external(_Lent(self._owned_stream))
        for name in names:
            self._buffers[name] = self._buffer(name)
            self._check(self._context.set_tensor_address(name, self._buffers[name].data.ptr), f"the buffer of {name!r}")

    def _buffer(self, name: str) -> npt.NDArray[Any]:
        engine, cuda = self._engine, self._gpu.cupy.cuda
        shape, kind = tuple(self._context.get_tensor_shape(name)), engine.get_tensor_dtype(name).name
        if kind not in _TYPES:
            raise EngineError(f"{name!r} in {self._path} is a {kind}, which the runtime does not handle.")
        if min(shape, default=1) < 0:
            raise EngineError(
                f"{name!r} in {self._path} has the shape {list(shape)}, which depends on the values in it."
            )
        if engine.get_tensor_location(name) != trt.TensorLocation.DEVICE:
            raise EngineError(
                f"{name!r} in {self._path} decides over shapes, so TensorRT wants it in the memory of the host: export "
                "the bundle again."
            )
        if engine.get_tensor_format(name) != trt.TensorFormat.LINEAR:
            raise EngineError(
                f"{name!r} in {self._path} is not a row-major array: delete the built engine, open it again."
            )
        dtype = np.dtype(_TYPES[kind])
        size = max(dtype.itemsize, dtype.itemsize * int(np.prod(shape, dtype=np.int64)))
        allocation = self._gpu.driver.mem_alloc(size)
        self._allocations.append(allocation)
        self._gpu.driver.memset_d8_async(int(allocation), 0, size, self._owned_stream)
        memory = cuda.UnownedMemory(int(allocation), size, allocation, self._gpu.index)
        buffer: npt.NDArray[Any] = self._gpu.cupy.ndarray(shape, dtype, cuda.MemoryPointer(memory, 0))
        return buffer

    def _check(self, accepted: bool, what: str) -> None:
        if not accepted:
            raise failure(f"TensorRT refuses {what} of {self._path}", "Delete the built engine and open it again.")

    def _enqueue(self, stream: Any) -> None:
        if not self._context.execute_async_v3(stream.ptr):
            raise failure(
                f"TensorRT failed in a pass of {self._path}",
                "Look at nvidia-smi; if the GPU is well, delete the built engine and open it again.",
            )

    def _captured(self) -> Any:
        """The pass as a CUDA graph, or None where it cannot be captured.

        A first pass goes before: TensorRT finishes what new shapes need in the pass after them, outside of a capture.
        """
        self._enqueue(self._stream)
        self._stream.synchronize()
        LOG.errors.clear()
        runtime = self._gpu.cupy.cuda.runtime
        # Thread-local, and on a stream that does not wait for CUDA's default one, which nobody could use meanwhile:
        # what other threads do on this GPU neither fails nor spoils the capture.
        aside = self._gpu.cupy.cuda.Stream(non_blocking=True)
        try:
            aside.begin_capture(runtime.streamCaptureModeThreadLocal)
            try:
                self._enqueue(aside)
            finally:
                graph = aside.end_capture()
            return graph
        except (EngineError, runtime.CUDARuntimeError) as error:
            logger.warning(
                "%s runs without a CUDA graph, each pass enqueued anew: %s", self._path, error.__context__ or error
            )
            return None

    def _release(self) -> None:
        """The order matters: see the head of this module. The calling thread has the GPU's context."""
        if self._stream is not None:
            try:
                self._stream.synchronize()
            except self._gpu.cupy.cuda.runtime.CUDARuntimeError as error:  # the GPU is lost; free what can be freed
                logger.warning("the passes of %s did not end well: %s", self._path, error)
        self._graph = None
        self._context = None
        self._buffers.clear()
        while self._allocations:
            self._allocations.pop().free()
        self._engine = None
        self._runtime = None
        self._stream = self._owned_stream = None


class _Lent:
    """PyCUDA's stream in CUDA's stream protocol. The CuPy stream over it holds it, and so keeps PyCUDA's alive."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self._stream.handle


def _listed(shapes: Mapping[str, Shape]) -> str:
    return ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items()) or "its fixed shapes"


open = TensorRt
