"""ONNX Runtime on a GPU: CuPy buffers bound once, passes enqueued on our stream, replayed as one CUDA graph.

The class serves both of its GPU providers; TensorRT's own options stand in ``onnxruntime_tensorrt.py``.
"""

from __future__ import annotations

import ctypes
import importlib
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from threading import Lock, Thread, current_thread
from types import MappingProxyType, TracebackType
from typing import Any
from weakref import WeakSet

import cupy
import numpy.typing as npt
import onnxruntime

from sightline.bindings.engine import Precision
from sightline.bindings.onnxruntime_session import Port, Shape, closed, create, failed, ports
from sightline.errors import EngineError, OutOfMemoryError

CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"
CPU = "CPUExecutionProvider"

Providers = Sequence[tuple[str, Mapping[str, str]]]

_NO_CAPTURE = ("captur", "cuda graph")
"""What messages say of a network that cannot be captured."""
_CAPTURING = Lock()
"""Held while ONNX Runtime captures a CUDA graph, which two threads must not do at once."""

logger = logging.getLogger(__name__)


class OnnxRuntimeGpu:
    """An :class:`~sightline.bindings.engine.Engine` on one of ONNX Runtime's CUDA providers."""

    device = "cuda"

    def __init__(
        self,
        path: Path,
        shapes: Mapping[str, Shape],
        *,
        name: str,
        stream: Any,
        providers: Providers,
        graph: str,
        outputs: Sequence[str] | None = None,
        threads: int | None = None,
        precision: Precision = "fp32",
    ) -> None:
        """Open a graph at fixed shapes; the shapes, outputs and threads are those of ``open``.

        Args:
            path: the ONNX file.
            shapes: the shape of every input that is dynamic in the graph.
            name: of the engine.
            stream: the CuPy stream whose pointer stands in the options of the providers.
            providers: with their options; the first is the one wanted. The CPU provider is added for operators that
                none of them has.
            graph: the option of the first provider that asks for a CUDA graph.
            outputs: the outputs to bind.
            threads: of the operators left to the CPU, one by default.
            precision: what the options ask for.

        Raises:
            EngineError: ONNX Runtime cannot open the graph on the provider, or the shapes do not fit it.
            OutOfMemoryError: the GPU has no room for it.
        """
        self.name = name
        self.precision = precision
        self.stream = stream
        self._closed = False
        self._threads: WeakSet[Thread] = WeakSet([current_thread()])
        _load_libraries()
        (wanted, options), *rest = providers
        captured: Providers = [(wanted, {**options, graph: "True"}), *rest]
        with _CAPTURING:
            if any(not engine._threads <= self._threads for engine in _OPEN):
                # ONNX Runtime captures in CUDA's global mode: whatever allocates meanwhile in another thread fails.
                logger.info("%s: no CUDA graph, another thread has an engine of ONNX Runtime on this GPU", path.name)
                self._open(path, shapes, providers, outputs, threads or 1)
            else:
                try:
                    self._open(path, shapes, captured, outputs, threads or 1)
                except OutOfMemoryError:
                    raise
                except EngineError as error:  # as the session is made, or in the first pass
                    if not any(sign in str(error).lower() for sign in _NO_CAPTURE):
                        raise
                    logger.info("%s: no CUDA graph, the network cannot be captured (%s)", path.name, error.__cause__)
                    self._end_capture()
                    self._open(path, shapes, providers, outputs, threads or 1)
            _OPEN.add(self)
        logger.debug("opened %s on %s %s", path, self.name, onnxruntime.__version__)

    def _open(
        self,
        path: Path,
        shapes: Mapping[str, Shape],
        providers: Providers,
        outputs: Sequence[str] | None,
        threads: int,
    ) -> None:
        """Make the session, bind its buffers, and pass once."""
        self._session = create(path, _options(threads), [*providers, CPU])
        if (found := list(self._session.get_providers()))[:1] != [providers[0][0]]:
            raise _fallen_back(self.name, providers[0][0], found)
        self._binding = self._session.io_binding()
        inputs, bound = ports(self._session, path, shapes, outputs)
        _refuse_copies(self._session, path)
        device = cupy.cuda.Device().id
        try:
            with self.stream:  # which the zeros are written on
                buffers = {name: cupy.zeros(port.shape, port.dtype) for name, port in inputs.items()}
                for name, port in inputs.items():
                    self._binding.bind_input(name, **_place(buffers[name], port, device))
                if any(port.shape is None for port in bound.values()):
                    bound = self._measured(bound, device)
                for name, port in bound.items():
                    buffers[name] = cupy.zeros(port.shape, port.dtype)
                    self._binding.bind_output(name, **_place(buffers[name], port, device))
        except cupy.cuda.memory.OutOfMemoryError as error:
            raise OutOfMemoryError(
                f"the GPU has no room for the buffers: {error}. A smaller batch_size may do."
            ) from error
        self._buffers = MappingProxyType(buffers)
        self._options = onnxruntime.RunOptions()
        # Our stream orders the passes among our kernels; the host waits only where it reads a result.
        self._options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        # The first pass chooses algorithms, grows the arena and captures the CUDA graph: better here than while timed,
        # and a GPU that is too small for the batch says so now.
        self._pass()
        self._wait()

    @property
    def buffers(self) -> Mapping[str, npt.NDArray[Any]]:
        """The bound CuPy arrays, inputs and outputs, by name."""
        return self._buffers

    def run(self) -> None:
        """Enqueue one pass on ``stream``.

        Raises:
            OutOfMemoryError: the GPU has no room for this batch.
            EngineError: the pass failed, or the engine is closed.
        """
        if self._closed:
            raise closed()
        if current_thread() in self._threads:
            self._pass()
            return
        with _CAPTURING:  # ONNX Runtime keeps a graph for every thread: this one's is captured now
            self._pass()
            self._threads.add(current_thread())

    def _pass(self) -> None:
        try:
            self._session.run_with_iobinding(self._binding, self._options)
        except Exception as error:  # ONNX Runtime's own errors share no base class
            raise failed(error) from error

    def close(self) -> None:
        """Free the session, once its passes are done. The buffers must not be used afterwards."""
        if not self._closed:
            self._closed = True
            _OPEN.discard(self)
            self.stream.synchronize()
            del self._binding, self._session
            self._buffers = MappingProxyType({})
            cupy.get_default_memory_pool().free_all_blocks()  # which it keeps from ONNX Runtime otherwise

    def __enter__(self) -> OnnxRuntimeGpu:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _measured(self, bound: Mapping[str, Port], device: int) -> dict[str, Port]:
        """The outputs with their shapes, which a pass tells where the graph does not."""
        for name in bound:
            self._binding.bind_output(name, "cuda", device)
        options = onnxruntime.RunOptions()
        options.add_run_config_entry("gpu_graph_id", "-1")  # not to be captured: the outputs are not ours yet
        try:
            self.stream.synchronize()  # the inputs are zeroed there, and this pass may look at them
            self._session.run_with_iobinding(self._binding, options)
        except Exception as error:  # as in run
            raise failed(error) from error
        values = self._binding.get_outputs()
        measured = {
            name: Port(port.dtype, port.element, tuple(value.shape()))
            for (name, port), value in zip(bound.items(), values, strict=True)
        }
        self._binding.clear_binding_outputs()
        return measured

    def _end_capture(self) -> None:
        """A capture that failed is ended, or the stream takes no more work."""
        try:
            self.stream.end_capture()
        except (cupy.cuda.runtime.CUDARuntimeError, RuntimeError) as error:  # it was ended, or is so by this very call
            logger.debug("the capture ends with: %s", error)

    def _wait(self) -> None:
        try:
            self.stream.synchronize()
        except Exception as error:  # CuPy's errors of the CUDA runtime, which a kernel of the pass may have caused
            raise failed(error) from error


def _refuse_copies(session: Any, path: Path) -> None:
    """Refuse a graph with an input that is read on the CPU: it is copied when it is bound, and never again."""
    if not hasattr(session, "get_input_memory_infos"):
        return  # older than 1.23
    places = zip(session.get_inputs(), session.get_input_memory_infos(), strict=True)
    if names := [node.name for node, place in places if place.name.lower() == "cpu"]:
        raise EngineError(
            f"ONNX Runtime would read {', '.join(names)} of {path} on the CPU, copied once and never again: choose "
            "another engine."
        )


_OPEN: WeakSet[OnnxRuntimeGpu] = WeakSet()
"""The engines of this process."""


def open(
    path: Path,
    shapes: Mapping[str, Shape],
    *,
    outputs: Sequence[str] | None = None,
    threads: int | None = None,
    precision: Precision = "fp32",
    cache: Path | None = None,
) -> OnnxRuntimeGpu:
    """Open a graph on the CUDA provider, at fixed shapes.

    Args:
        path: the ONNX file: float32 for ``fp32`` and ``tf32``, float16 for ``fp16``, quantized (QDQ) for ``int8``.
        shapes: the shape of every input that is dynamic in the graph.
        outputs: the outputs to bind, all of them by default.
        threads: of the operators that the provider leaves to the CPU, one by default.
        precision: only ``tf32`` lets float32 be rounded to ten bits of mantissa.
        cache: not used, there is nothing to build.

    Raises:
        EngineError: ONNX Runtime cannot open the graph on the GPU, or the shapes do not fit it.
        OutOfMemoryError: the GPU has no room for it.
    """
    stream = own_stream()
    return OnnxRuntimeGpu(
        path,
        shapes,
        name="onnxruntime-cuda",
        stream=stream,
        providers=[(CUDA, cuda_options(stream, precision))],
        graph="enable_cuda_graph",
        outputs=outputs,
        threads=threads,
        precision=precision,
    )


def own_stream() -> Any:
    """The current CuPy stream, so that engines opened under one share it, or a new one where that is the default."""
    current = cupy.cuda.get_current_stream()
    # The default stream can neither be captured nor given to ONNX Runtime, which takes its pointer, 0, for none.
    return current if current.ptr not in (0, 1, 2) else cupy.cuda.Stream(non_blocking=True)


def cuda_options(stream: Any, precision: Precision) -> dict[str, str]:
    """The options of the CUDA provider."""
    return {
        "device_id": str(cupy.cuda.Device().id),
        "user_compute_stream": str(stream.ptr),
        "use_tf32": "1" if precision == "tf32" else "0",
        # Thousands of passes of one shape repay trying every algorithm once.
        "cudnn_conv_algo_search": "EXHAUSTIVE",
        # The default doubles the arena whenever it grows, and the kernels need room as well.
        "arena_extend_strategy": "kSameAsRequested",
    }


def _options(threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return options


def _place(buffer: Any, port: Port, device: int) -> dict[str, Any]:
    return {
        "device_type": "cuda",
        "device_id": device,
        "element_type": port.element,
        "shape": buffer.shape,
        "buffer_ptr": buffer.data.ptr,
    }


def _load_libraries() -> None:
    """Load CUDA and cuDNN from NVIDIA's pip packages where they are, which the system's loader does not search."""
    if hasattr(onnxruntime, "preload_dlls"):
        with redirect_stdout(StringIO()) as said:  # it prints what it does not find; the session decides what it needs
            onnxruntime.preload_dlls()
        if text := said.getvalue().strip():
            logger.debug("onnxruntime.preload_dlls: %s", text)


def _fallen_back(name: str, wanted: str, found: Sequence[str]) -> EngineError:
    missing = list(missing_libraries(tensorrt=wanted == TENSORRT))
    why = f"these libraries do not load: {'; '.join(missing)}" if missing else "it does not say why"
    packages = "pip install 'onnxruntime-gpu[cuda,cudnn]'"
    if wanted == TENSORRT:
        packages += " 'tensorrt-cu13<11'"
    return EngineError(
        f"ONNX Runtime {onnxruntime.__version__} did not load {wanted} and fell back to "
        f"{', '.join(found) or 'nothing'}: {why}. {packages} brings them; or choose another engine than {name}."
    )


def missing_libraries(*, tensorrt: bool) -> Iterator[str]:
    """The libraries of NVIDIA that a provider needs and the loader does not find, each in the loader's own words."""
    # The provider itself must not be loaded here: it asks for its host's address while it loads, too early.
    built = importlib.import_module("onnxruntime.capi.build_and_package_info")
    major = str(getattr(built, "cuda_version", "13")).partition(".")[0] or "13"
    names = [("cudart", major), ("cublasLt", major), ("cublas", major), ("cudnn", "9")]
    if tensorrt:
        names += [("nvinfer", "10"), ("nvinfer_plugin", "10"), ("nvonnxparser", "10")]
    for library, version in names:
        file = f"{library}64_{version}.dll" if sys.platform == "win32" else f"lib{library}.so.{version}"
        if sys.platform == "win32" and library.startswith("nv"):
            file = f"{library}_{version}.dll"
        try:
            ctypes.CDLL(file)
        except OSError as error:
            yield str(error)
