"""ONNX Runtime's TensorRT provider: what it builds is kept, for this file, these shapes and this precision."""

from __future__ import annotations

import importlib
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import cupy
import onnxruntime

from sightline.bindings.engine import Precision
from sightline.bindings.onnxruntime_cuda import CUDA, TENSORRT, OnnxRuntimeGpu, cuda_options, own_stream
from sightline.bindings.onnxruntime_session import Shape
from sightline.bindings.probe import tensorrt_provider_lacks
from sightline.bundle import WEIGHTS
from sightline.cache import key, locked, read_json, write
from sightline.errors import EngineError, OutOfMemoryError, PrecisionError

logger = logging.getLogger(__name__)


def open(
    path: Path,
    shapes: Mapping[str, Shape],
    *,
    outputs: Sequence[str] | None = None,
    threads: int | None = None,
    precision: Precision = "fp32",
    cache: Path | None = None,
) -> OnnxRuntimeGpu:
    """Open a graph on the TensorRT provider, at fixed shapes. Building takes minutes, reading it back a second.

    Args:
        path: the ONNX file: float32 for ``fp32`` and ``tf32``, float16 for ``fp16``, quantized (QDQ) for ``int8``.
        shapes: the shape of every input that is dynamic in the graph.
        outputs: the outputs to bind, all of them by default.
        threads: of the operators that no provider of the GPU has, one by default.
        precision: ``fp32`` needs a GPU without TF32, or the environment variable NVIDIA_TF32_OVERRIDE=0: the provider
            has no option for it.
        cache: the folder to keep what was built in; None builds it every time.

    Raises:
        PrecisionError: ``fp32`` where the provider would take TF32.
        EngineError: the graph cannot be opened on TensorRT, or the shapes do not fit it.
        OutOfMemoryError: the GPU has no room for it.
    """
    if reason := tensorrt_provider_lacks(precision):
        raise PrecisionError(f"onnxruntime-tensorrt cannot run in {precision}: {reason}.")
    _load_tensorrt()
    stream = own_stream()
    fixed = ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in shapes.items())
    # This provider takes True and False, and no 1 or 0.
    options = {
        "device_id": str(cupy.cuda.Device().id),
        "user_compute_stream": str(stream.ptr),
        "trt_fp16_enable": str(precision == "fp16"),
        "trt_int8_enable": str(precision == "int8"),
        **{f"trt_profile_{bound}_shapes": fixed for bound in ("min", "opt", "max") if fixed},
    }

    def build(kept: Mapping[str, str]) -> OnnxRuntimeGpu:
        return OnnxRuntimeGpu(
            path,
            shapes,
            name="onnxruntime-tensorrt",
            stream=stream,
            # The CUDA provider takes the operators that TensorRT lacks.
            providers=[(TENSORRT, {**options, **kept}), (CUDA, cuda_options(stream, precision))],
            graph="trt_cuda_graph_enable",
            outputs=outputs,
            threads=threads,
            precision=precision,
        )

    if cache is None:
        return build({})
    weights = path.parent / WEIGHTS
    # The provider names its files after the graph and the GPU's architecture: neither networks that differ in their
    # weights nor GPUs that differ in size must share them.
    gpu = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)["name"].decode()
    name = key([path, *([weights] if weights.is_file() else [])], onnxruntime.__version__, gpu, fixed, precision)
    folder = cache / "onnxruntime-tensorrt" / name
    kept = {
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": str(cache / "onnxruntime-tensorrt"),
    }
    with locked(folder.parent, name):
        return _kept(folder, lambda: build(kept))


def _kept(folder: Path, build: Callable[[], OnnxRuntimeGpu]) -> OnnxRuntimeGpu:
    """Open what lies in the folder or build it there; what a killed process left behind, or a damaged file, goes."""
    marker = folder / "complete.json"
    complete = read_json(marker)
    if complete is None:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        engine = build()
    except OutOfMemoryError:
        raise
    except EngineError as error:
        if complete is None:
            raise
        logger.warning("what was kept in %s does not open (%s): building it again", folder, error)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        engine = build()
    write(marker, b'{"onnxruntime": "%s"}\n' % onnxruntime.__version__.encode())
    return engine


def _load_tensorrt() -> None:
    """Load TensorRT's libraries from its pip package where it is, which the system's loader does not search."""
    try:
        importlib.import_module("tensorrt")
    except Exception as error:  # the session says what it misses
        logger.debug("tensorrt is not imported: %s", error)
