"""From an ONNX file to a TensorRT plan: parsed, narrowed to what is asked for, built once per GPU and kept.

Networks are strongly typed: TensorRT computes in the types that the ONNX file names, so float16, bfloat16 and int8 come
from the file (its fp16, bf16 or QDQ variant) and only TensorFloat-32 is a switch of the builder. TensorRT 11 knows
nothing else.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorrt as trt

from sightline import cache as caches
from sightline.bindings import tensorrt_plan as plans
from sightline.bindings.engine import Precision
from sightline.bindings.tensorrt_device import Gpu, current_gpu
from sightline.bindings.tensorrt_log import LOG, failure, made
from sightline.bindings.tensorrt_weights import files
from sightline.errors import EngineError, PrecisionError

logger = logging.getLogger(__name__)

OPTIMIZATION_LEVEL = 3  # TensorRT's default, named because plans depend on it
_WORKSPACE = 4 << 30
_TYPES: Mapping[str, str | None] = {"fp32": None, "tf32": None, "fp16": "HALF", "bf16": "BF16", "int8": "INT8"}
_AMPERE = (8, 0)  # the first compute capability with TensorFloat-32 and bfloat16

Shapes = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class Plan:
    """A built engine, not yet loaded."""

    path: Path
    """Where it is kept."""
    content: bytes
    built: bool
    """Whether it was built now, or found in the cache folder."""


def build(
    path: Path,
    shapes: Shapes,
    *,
    outputs: Sequence[str] | None = None,
    precision: Precision = "fp32",
    cache: Path | None = None,
    anew: bool = False,
) -> Plan:
    """The plan of one graph at fixed shapes on this GPU: from the cache folder, or built, which takes minutes.

    Of several processes that want the same plan one builds it. On one GPU plans are built one after the other, for
    TensorRT picks its kernels by timing them. Ctrl-C ends a build at its next step and leaves nothing behind.

    Args:
        path: the ONNX file; external weights are read from beside it.
        shapes: the shape of every input that is dynamic in the graph.
        outputs: the outputs to keep, all of them by default.
        precision: what the file computes in; ``fp32`` forbids TensorFloat-32, which ``tf32`` allows.
        cache: the folder for plans and timings, by default the user's cache folder.
        anew: build even if the cache folder has the plan.

    Raises:
        EngineError: no GPU, TensorRT cannot build the graph, or the shapes or outputs do not fit it.
        PrecisionError: the graph or the GPU does not have this precision.
        OutOfMemoryError: the GPU has no room for this batch.
        MissingPackageError: PyCUDA or CuPy is not installed.
    """
    gpu = current_gpu()
    _check_precision(precision, gpu)
    machine = {
        "gpu": gpu.name,
        "compute_capability": list(gpu.compute_capability),
        "tensorrt": trt.__version__,
    }
    facts: plans.Facts = {
        **machine,
        "graph": caches.key(files(path)),
        "precision": precision,
        "shapes": {name: list(shape) for name, shape in sorted(shapes.items())},
        "outputs": None if outputs is None else sorted(outputs),
        "workspace": _workspace(gpu),
        "optimization_level": OPTIMIZATION_LEVEL,
    }
    folder = (cache or caches.folder()) / "tensorrt"
    device = (gpu.name, "sm{}{}".format(*gpu.compute_capability), f"trt{trt.__version__}")
    timings = folder / f"{plans.name('timings', machine, *device)}.cache"
    stored = folder / f"{plans.name(path.stem, facts, *device, precision)}.plan"
    if not anew and (content := plans.read(stored, facts, warn=False)) is not None:
        return Plan(stored, content, built=False)
    with caches.locked(folder, timings.stem):
        # Another process may have built it while this one waited.
        if not anew and (content := plans.read(stored, facts)) is not None:
            return Plan(stored, content, built=False)
        logger.info("building %s for %s in %s: this takes minutes, once", path, gpu.name, precision)
        with gpu.current():
            content = _build(path, shapes, outputs, precision, gpu, timings, machine)
        plans.write(stored, facts, content)
    logger.info("built %s: %.1f MB", stored, len(content) / 1e6)
    return Plan(stored, content, built=True)


def _check_precision(precision: str, gpu: Gpu) -> None:
    if precision not in _TYPES:
        raise EngineError(f"there is no precision {precision!r}. Precisions: {', '.join(_TYPES)}.")
    if precision in ("tf32", "bf16") and gpu.compute_capability < _AMPERE:
        raise PrecisionError(
            "{} needs compute capability {}.{}; {} has {}.{}: take fp16 or fp32.".format(
                precision, *_AMPERE, gpu.name, *gpu.compute_capability
            )
        )


def _workspace(gpu: Gpu) -> int:
    """Scratch memory that a tactic may use: bounded, for buffers and kernels need room beside it."""
    return min(_WORKSPACE, gpu.memory // 4)


def _build(
    path: Path,
    shapes: Shapes,
    outputs: Sequence[str] | None,
    precision: Precision,
    gpu: Gpu,
    timings: Path,
    machine: plans.Facts,
) -> bytes:
    builder = made(trt.Builder)
    network = builder.create_network(_strongly_typed())
    parser = trt.OnnxParser(network, LOG)
    if not parser.parse_from_file(str(path)):  # from the file, so that external weights are found
        raise _unparsed(path, parser)
    _keep_outputs(path, network, outputs)
    _check_types(path, network, precision)
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, _workspace(gpu))
    config.builder_optimization_level = OPTIMIZATION_LEVEL
    if precision == "fp32":  # TensorRT allows it by default
        config.clear_flag(trt.BuilderFlag.TF32)
    else:
        config.set_flag(trt.BuilderFlag.TF32)
    _fix_shapes(path, builder, network, config, shapes)
    for tensor in (*_inputs(network), *_outputs(network)):  # plain row-major arrays, whatever the layers prefer
        tensor.allowed_formats = 1 << int(trt.TensorFormat.LINEAR)
    _load_timings(config, timings, machine)
    config.progress_monitor = monitor = _Monitor()
    with _cancelled_by_ctrl_c(monitor):
        plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise failure(
            f"TensorRT {trt.__version__} cannot build {path}",
            "Take the engine onnxruntime-cuda or openvino for it (sightline doctor lists them), or another precision.",
        )
    plans.write(timings, machine, bytes(config.get_timing_cache().serialize()))
    return bytes(plan)


def _strongly_typed() -> int:
    major = int(trt.__version__.split(".")[0])
    if major < 10:
        raise EngineError(f"TensorRT {trt.__version__} is too old: pip install 'tensorrt-cu13>=10.16'.")
    # From 11 on every network is strongly typed and the flag deprecated.
    return 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED) if major == 10 else 0


def _unparsed(path: Path, parser: Any) -> EngineError:
    errors = [parser.get_error(i) for i in range(parser.num_errors)]
    if not errors:
        return failure(f"TensorRT {trt.__version__} cannot read {path}", "Export the bundle again.")
    reasons = "; ".join(f"node {e.node_name() or e.node()!r} ({e.node_operator()}): {e.desc()}" for e in errors)
    LOG.errors.clear()
    return EngineError(
        f"TensorRT {trt.__version__} cannot read {path}: {reasons}. Upgrade TensorRT, take another engine for this "
        "network (sightline doctor lists them), or replace the operator in it."
    )


def _inputs(network: Any) -> list[Any]:
    return [network.get_input(i) for i in range(network.num_inputs)]


def _outputs(network: Any) -> list[Any]:
    return [network.get_output(i) for i in range(network.num_outputs)]


def _keep_outputs(path: Path, network: Any, outputs: Sequence[str] | None) -> None:
    if outputs is None:
        return
    tensors = {tensor.name: tensor for tensor in _outputs(network)}
    if missing := [name for name in outputs if name not in tensors]:
        raise EngineError(f"{path} has no {', '.join(missing)}: export the bundle again.")
    for name, tensor in tensors.items():
        if name not in outputs:
            network.unmark_output(tensor)  # what only this output needs is not computed


def _check_types(path: Path, network: Any, precision: str) -> None:
    """Refuse to call float32 what the caller calls fp16: strongly typed networks take the types of the file."""
    wanted = _TYPES[precision]
    if wanted is None:
        return
    kind = getattr(trt.DataType, wanted)
    layers = (network.get_layer(i) for i in range(network.num_layers))
    if not any(layer.get_output(i).dtype == kind for layer in layers for i in range(layer.num_outputs)):
        raise PrecisionError(
            f"nothing in {path} is computed in {precision}, which TensorRT takes from the file: export the bundle with "
            f"a variant for {precision} and open that."
        )


def _fix_shapes(path: Path, builder: Any, network: Any, config: Any, shapes: Shapes) -> None:
    """One profile with one shape: minimum, optimum and maximum are the same."""
    inputs = {tensor.name: tensor for tensor in _inputs(network)}
    if missing := [name for name in shapes if name not in inputs]:
        raise EngineError(f"{path} has no {', '.join(missing)}: export the bundle again.")
    profile, dynamic = builder.create_optimization_profile(), False
    for name, tensor in inputs.items():
        known, wanted = tuple(tensor.shape), tuple(shapes.get(name, tensor.shape))
        fits = len(known) == len(wanted) and all(w > 0 and k in (-1, w) for k, w in zip(known, wanted, strict=True))
        if not fits:
            raise EngineError(
                f"{name!r} in {path} has shape {list(known)}, which {list(wanted)} does not fix: "
                "export the bundle again."
            )
        if -1 in known:
            profile.set_shape(name, wanted, wanted, wanted)
            dynamic = True
    if dynamic and config.add_optimization_profile(profile) < 0:
        raise failure(
            f"TensorRT {trt.__version__} refuses the shapes {dict(shapes)} of {path}", "Try another batch_size."
        )


def _load_timings(config: Any, path: Path, machine: plans.Facts) -> None:
    """Reuse how fast each kernel ran in earlier builds on this GPU: most of what a build does."""
    known = config.create_timing_cache(plans.read(path, machine) or b"")
    if known is None or not config.set_timing_cache(known, ignore_mismatch=False):
        logger.warning("TensorRT refuses the timings in %s: they are measured again", path)
        config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)


class _Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # the package has no types
    """Logs the phases of a build and can end it at the next step. Called by TensorRT, from any of its threads."""

    def __init__(self) -> None:
        trt.IProgressMonitor.__init__(self)
        self.cancelled = False

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        """A phase begins."""
        if parent_phase is None:
            logger.info("TensorRT: %s, %d steps", phase_name, num_steps)

    def step_complete(self, phase_name: str, step: int) -> bool:
        """Whether to go on."""
        return not self.cancelled

    def phase_finish(self, phase_name: str) -> None:
        """A phase ends."""


@contextmanager
def _cancelled_by_ctrl_c(monitor: _Monitor) -> Iterator[None]:
    """Ctrl-C ends a build at TensorRT's next step, and is raised once TensorRT has returned.

    Python raises it at the next Python code, here a callback of TensorRT's, through which no exception may leave.
    """
    if threading.current_thread() is not threading.main_thread():  # only there Python handles signals
        yield
        return

    def cancel(number: int, frame: object) -> None:
        monitor.cancelled = True

    previous = signal.signal(signal.SIGINT, cancel)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL if previous is None else previous)
    if monitor.cancelled:
        raise KeyboardInterrupt
