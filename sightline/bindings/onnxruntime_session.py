"""What every provider of ONNX Runtime has in common: opening a session, its ports at fixed shapes, its errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from sightline.bindings.memory import exhausted
from sightline.errors import EngineError, OutOfMemoryError

Shape = Sequence[int]

BFLOAT16 = 16
"""ONNX's number for the type that NumPy lacks."""

_TYPES: Mapping[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(bfloat16)": np.uint16,  # its bits
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
}


@dataclass(frozen=True)
class Port:
    """One input or output: what a buffer for it must be."""

    dtype: type[np.generic]
    element: Any
    """The type by the name that the binding knows it by."""
    shape: tuple[int, ...] | None
    """None where it follows from the inputs and the graph does not say it."""


def create(path: Path, options: Any, providers: Sequence[Any]) -> Any:
    """Open a session on these providers, and no others.

    Raises:
        EngineError: ONNX Runtime cannot open the graph.
        OutOfMemoryError: the device has no room for its weights.
    """
    options.log_severity_level = 3  # warnings go to stderr and concern its optimiser
    options.use_deterministic_compute = True
    try:
        # enable_fallback would print to stdout and retry on a slower provider.
        return onnxruntime.InferenceSession(str(path), options, providers=list(providers), enable_fallback=0)
    except Exception as error:  # ONNX Runtime's own errors share no base class
        if exhausted(error):
            raise OutOfMemoryError(f"there is no room for {path}: {error}.") from error
        raise EngineError(
            f"ONNX Runtime {onnxruntime.__version__} cannot open {path}: {error}. "
            "Upgrade it (pip install -U onnxruntime), or export the bundle again."
        ) from error


def ports(
    session: Any, path: Path, shapes: Mapping[str, Shape], outputs: Sequence[str] | None
) -> tuple[dict[str, Port], dict[str, Port]]:
    """The inputs, and the outputs asked for (all by default), by name.

    Raises:
        EngineError: a name that the graph has not, an input whose shape is not fixed, or a type without a buffer.
    """
    inputs = {node.name: node for node in session.get_inputs()}
    bound = {node.name: node for node in session.get_outputs() if outputs is None or node.name in outputs}
    if missing := [name for name in (*shapes, *(outputs or ())) if name not in inputs | bound]:
        raise EngineError(f"{path} has no {', '.join(missing)}: export the bundle again.")
    fixed = {}
    sizes: dict[str, int] = {}
    for name, node in inputs.items():
        fixed[name] = port = _port(node, shapes.get(name, node.shape), path)
        if port.shape is None or len(port.shape) != len(node.shape):
            raise EngineError(
                f"{name!r} in {path} has shape {node.shape}, which {list(shapes.get(name, node.shape))} does not fix: "
                "export the bundle again."
            )
        sizes |= {named: size for named, size in zip(node.shape, port.shape, strict=True) if isinstance(named, str)}
    named = {name: [sizes.get(size, size) for size in node.shape] for name, node in bound.items()}
    return fixed, {name: _port(node, named[name], path) for name, node in bound.items()}


def failed(error: Exception) -> EngineError:
    """A pass that raised, as one of our errors."""
    said = f"ONNX Runtime {onnxruntime.__version__} failed in a pass: {error}."
    if exhausted(error):
        return OutOfMemoryError(f"{said} A smaller batch_size needs less memory.")
    return EngineError(f"{said} Export the bundle again, or choose another engine.")


def closed() -> EngineError:
    """A pass of an engine that was closed."""
    return EngineError("this engine is closed: make a new Explainer.")


def _port(node: Any, shape: Sequence[int | str | None], path: Path) -> Port:
    if node.type not in _TYPES:
        raise EngineError(f"{node.name!r} in {path} is a {node.type}, which the runtime does not handle.")
    dtype = _TYPES[node.type]
    sizes = tuple(size for size in shape if isinstance(size, int))
    return Port(
        dtype,
        BFLOAT16 if node.type == "tensor(bfloat16)" else dtype,
        sizes if len(sizes) == len(shape) else None,
    )
