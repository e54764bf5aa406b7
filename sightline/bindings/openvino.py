"""OpenVINO on Intel's CPUs and GPUs: NumPy buffers shared with its inference requests, bound once."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from sightline.bindings import openvino_package
from sightline.bindings.engine import FACTOR, Precision, Product
from sightline.bindings.memory import exhausted
from sightline.bindings.probe import openvino_lacks
from sightline.cache import locked
from sightline.errors import EngineError, OutOfMemoryError, PrecisionError

openvino: Any = openvino_package.load()

Shape = Sequence[int]

# What is not quantized in an int8 graph stays in float32: OpenVINO's own choice would be bfloat16 where there is AMX.
_HINTS: Mapping[Precision, str] = {"fp32": "f32", "fp16": "f16", "bf16": "bf16", "int8": "f32"}

_LEAST_ROWS = 4
"""Of a batch, that one request of several has."""

logger = logging.getLogger(__name__)


class OpenVino:
    """An :class:`~sightline.bindings.engine.Engine` on OpenVINO. The buffers are NumPy arrays, on a GPU as well."""

    device = "cpu"
    stream = None

    def __init__(
        self,
        path: Path,
        shapes: Mapping[str, Shape],
        *,
        plugin: str,
        outputs: Sequence[str] | None = None,
        threads: int | None = None,
        precision: Precision = "fp32",
        cache: Path | None = None,
        product: Product | None = None,
    ) -> None:
        """Open a graph at fixed shapes.

        On a CPU a batch of eight or more is shared out: several requests, each with its part of the rows and its part
        of the threads, pass at the same time and wait for one another once, not in every layer.

        Args:
            path: the ONNX file; external weights are read from beside it.
            shapes: the shape of every input that is dynamic in the graph. Where all inputs and outputs have the same
                number of rows, these must not depend on one another.
            plugin: ``CPU`` or ``GPU``.
            outputs: the outputs to compute, all of them by default.
            threads: how many CPU threads one pass may use, by default one per physical core.
            precision: ``fp32``, ``bf16`` (CPU), ``fp16`` (GPU), or ``int8`` where the file holds a quantized graph.
            cache: the folder to keep compiled graphs in; None compiles them every time.
            product: an input to multiply by a second array, the buffer ``FACTOR``.

        Raises:
            PrecisionError: the device does not compute in this precision.
            EngineError: OpenVINO cannot open the graph, or the shapes do not fit it.
            OutOfMemoryError: there is no room for it.
        """
        self.name = "openvino" if plugin == "CPU" else "openvino-gpu"
        self.precision = precision
        self._closed = False
        core = openvino_package.core()
        if reason := openvino_lacks(plugin, precision):
            raise PrecisionError(f"{self.name} cannot run in {precision}: {reason}.")
        model = _read(core, path, outputs)
        inputs, bound = _names(model.inputs), _names(model.outputs)
        wanted = (*shapes, *(outputs or ()), *((product.input,) if product else ()))
        if missing := [name for name in wanted if name not in (*inputs, *bound)]:
            raise EngineError(f"{path} has no {', '.join(missing)}: export the bundle again.")
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": _HINTS[precision]}
        if threads is not None and plugin == "CPU":
            # Whoever shares out the threads runs other processes beside this one, which would be pinned to the same
            # cores.
            settings |= {"INFERENCE_NUM_THREADS": threads, "ENABLE_CPU_PINNING": False}
        try:
            rows = _reshaped(model, inputs, shapes)
            parts = _parts(rows, threads or _cores()) if rows and plugin == "CPU" else 1
            if rows and parts > 1:
                of_part = {name: _part(shape, parts) for name, shape in shapes.items()}
                if _reshaped(model, inputs, of_part) != rows // parts:  # a side that was no batch, as long as it
                    parts = 1
                    _reshaped(model, inputs, shapes)
            if product is not None:
                shape = _part(product.shape, parts)
                inputs.append(_multiply(model, model.inputs[inputs.index(product.input)], shape))
            hint = "LATENCY" if parts == 1 else "THROUGHPUT"
            settings |= {"NUM_STREAMS": str(parts), "PERFORMANCE_HINT": hint}
            compiled = _compiled(core, model, plugin, settings, cache)
            self._requests = [compiled.create_infer_request() for _ in range(parts)]
        except Exception as error:  # OpenVINO raises RuntimeError for everything
            raise _failed(f"cannot open {path} at {dict(shapes)}", error) from error
        taken = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        if taken != _HINTS[precision]:
            raise PrecisionError(
                f"{self.name} took {taken} instead of {precision} on {core.get_property(plugin, 'FULL_DEVICE_NAME')}: "
                "choose another precision or engine."
            )
        buffers = {}
        ports = (*zip(inputs, compiled.inputs, strict=True), *zip(bound, compiled.outputs, strict=True))
        for name, port in ports:
            if not port.partial_shape.is_static:
                raise EngineError(
                    f"{name!r} in {path} has shape {port.partial_shape}, which {dict(shapes)} does not fix: "
                    "export the bundle again."
                )
            buffers[name] = _buffer(port, parts)
            shares = np.split(buffers[name], parts) if parts > 1 else [buffers[name]]
            for request, part in zip(self._requests, shares, strict=True):
                request.set_tensor(port, openvino.Tensor(part, port.shape, port.element_type))
        self._buffers = MappingProxyType(buffers)
        logger.debug("opened %s on %s %s in %s", path, self.name, openvino.__version__, taken)
        self.run()  # allocates what a pass needs: a machine too small for the batch says so now

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
            raise EngineError("this engine is closed: make a new Explainer.")
        try:
            self._pass()
        except Exception as error:  # as above
            raise _failed("failed in a pass", error) from error

    def _pass(self) -> None:
        if len(self._requests) == 1:
            self._requests[0].infer()
            return
        begun, failures = [], []
        try:
            for request in self._requests:
                request.start_async()
                begun.append(request)
        finally:  # none is left running, whatever happens to another
            for request in begun:
                try:
                    request.wait()
                except Exception as error:  # OpenVINO raises RuntimeError for everything
                    failures.append(error)
        if failures:
            raise failures[0]

    def close(self) -> None:
        """Free the compiled graph. The buffers must not be used afterwards."""
        if not self._closed:
            self._closed = True
            self._requests.clear()

    def __enter__(self) -> OpenVino:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_cpu(
    path: Path,
    shapes: Mapping[str, Shape],
    *,
    outputs: Sequence[str] | None = None,
    threads: int | None = None,
    precision: Precision = "fp32",
    cache: Path | None = None,
    product: Product | None = None,
) -> OpenVino:
    """Open a graph on the CPU; see :class:`OpenVino`."""
    return OpenVino(
        path,
        shapes,
        plugin="CPU",
        outputs=outputs,
        threads=threads,
        precision=precision,
        cache=cache,
        product=product,
    )


def open_gpu(
    path: Path,
    shapes: Mapping[str, Shape],
    *,
    outputs: Sequence[str] | None = None,
    threads: int | None = None,
    precision: Precision = "fp32",
    cache: Path | None = None,
) -> OpenVino:
    """Open a graph on Intel's GPU; see :class:`OpenVino`."""
    return OpenVino(path, shapes, plugin="GPU", outputs=outputs, threads=threads, precision=precision, cache=cache)


def _read(core: Any, path: Path, outputs: Sequence[str] | None) -> Any:
    try:
        model = core.read_model(str(path))
        for result in model.get_results():
            # Without this an output nobody asked for would be computed and stored all the same.
            if outputs is not None and not result.output(0).get_names() & set(outputs):
                model.remove_result(result)
        _unshare(model)
    except Exception as error:  # as above
        raise _failed(f"cannot open {path}", error) from error
    return model


def _reshaped(model: Any, inputs: Sequence[str], shapes: Mapping[str, Shape]) -> int | None:
    """Fix the shapes of a graph; how many rows it has then, None where inputs and outputs differ in that."""
    model.reshape({name: list(shapes[name]) for name in inputs if name in shapes})
    ports = [port.partial_shape for port in (*model.inputs, *model.outputs)]
    rows = {shape[0].to_string() if shape.rank.is_static and len(shape) else "" for shape in ports}
    (only, *others) = rows
    return int(only) if not others and only.isdecimal() else None


def _parts(rows: int, cores: int) -> int:
    """Into how many equal parts rows are shared out: of four rows or more, and no more than there are cores."""
    return max(parts for parts in range(1, max(1, min(cores, rows // _LEAST_ROWS)) + 1) if rows % parts == 0)


def _part(shape: Shape, parts: int) -> Shape:
    return (shape[0] // parts, *shape[1:])


def _cores() -> int:
    """Physical cores that this process may use: what OpenVINO takes by itself."""
    import psutil

    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(allowed, psutil.cpu_count(logical=False) or allowed)


def _unshare(model: Any) -> None:
    """Give every transposed convolution weights of its own.

    The CPU plugin keeps packed weights by their address and shape. Where a convolution and a transposed one share
    square weights, as a strided convolution and its gradient do, the second is given those packed for the first, and
    its result is wrong without a word (2026.4; a strided 3×3 convolution of as many channels in as out is enough).
    """
    for node in model.get_ops():
        if node.get_type_name() in ("ConvolutionBackpropData", "GroupConvolutionBackpropData"):
            shape, constant = list(node.input(1).get_shape()), node.input_value(1).get_node()
            if constant.get_type_name() == "Reshape":  # of the weights of a grouped convolution
                constant = constant.input_value(0).get_node()
            if constant.get_type_name() == "Constant":
                own = openvino.op.Constant(np.array(constant.data).reshape(shape))
                node.input(1).replace_source_output(own.output(0))


def _multiply(model: Any, port: Any, shape: Shape) -> str:
    """Let whatever reads an input read its product with a new one, and name that."""
    readers = port.get_target_inputs()
    factor = openvino.opset8.parameter(list(shape), port.get_element_type())
    factor.output(0).set_names({FACTOR})
    product = openvino.opset8.multiply(port, factor)
    for reader in readers:
        reader.replace_source_output(product.output(0))
    model.add_parameters([factor])
    model.validate_nodes_and_infer_types()
    return FACTOR


def _compiled(core: Any, model: Any, plugin: str, settings: Mapping[str, Any], cache: Path | None) -> Any:
    """Compile a model, or read it back: OpenVINO names what it keeps by the graph, the weights and the settings."""
    if cache is None:
        return core.compile_model(model, plugin, settings)
    folder = cache / "openvino"
    try:
        with locked(folder, "compile"):
            return core.compile_model(model, plugin, {**settings, "CACHE_DIR": str(folder)})
    except EngineError as error:  # of the folder; OpenVINO's own are no errors of ours
        logger.warning("what OpenVINO compiles cannot be kept: %s", error)
        return core.compile_model(model, plugin, settings)


def _names(ports: Sequence[Any]) -> list[str]:
    return [port.any_name for port in ports]


def _buffer(port: Any, parts: int) -> npt.NDArray[Any]:
    """An array for all parts of an input or output."""
    # bfloat16, which NumPy lacks, is held as its bits.
    dtype = np.uint16 if port.element_type == openvino.Type.bf16 else port.element_type.to_dtype()
    shape = tuple(port.shape)
    return np.zeros(shape if parts == 1 else (parts * shape[0], *shape[1:]), dtype)


def _failed(what: str, error: Exception) -> EngineError:
    said = f"OpenVINO {openvino.__version__} {what}: {error}"
    if exhausted(error):
        return OutOfMemoryError(f"{said}. A smaller batch_size needs less memory.")
    return EngineError(f"{said}. Choose another engine, or export the bundle again.")
