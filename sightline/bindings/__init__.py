"""Inference engines behind one small protocol, loaded only when one is opened.

Adding an engine is one file, with an ``open`` that returns an :class:`~sightline.bindings.engine.Engine`, and one line
in the table below.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import cast

from sightline.bindings.engine import Engine
from sightline.errors import EngineError, MissingPackageError

__all__ = ["Availability", "Engine", "available", "open_engine"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Entry:
    device: str
    package: str
    distributions: tuple[str, ...]
    module: str


_ENGINES: Mapping[str, _Entry] = {  # the fastest first: "auto" takes the first one installed
    "onnxruntime-cpu": _Entry(
        device="cpu",
        package="onnxruntime",
        distributions=("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino"),
        module="sightline.bindings.onnxruntime",
    ),
}


@dataclass(frozen=True)
class Availability:
    """Whether one engine can be used on this machine."""

    name: str
    device: str
    version: str | None
    """The version of its package, or None where it is not installed."""
    hint: str
    """How to install it."""


def available() -> list[Availability]:
    """Every engine that Sightline knows, the fastest first, with what is installed of it. Imports none of them."""
    return [
        Availability(name, entry.device, _version(entry), f"pip install {entry.package}")
        for name, entry in _ENGINES.items()
    ]


def open_engine(
    path: str | Path,
    engine: str = "auto",
    *,
    shapes: Mapping[str, Sequence[int]],
    outputs: Sequence[str] | None = None,
    threads: int | None = None,
) -> Engine:
    """Open one graph on an inference engine, at fixed shapes.

    Args:
        path: the ONNX file; its external weights lie beside it.
        engine: a name from :func:`available`, or ``auto`` for the fastest one installed.
        shapes: the shape of every input that is dynamic in the graph.
        outputs: the outputs to bind, all of them by default.
        threads: how many CPU threads one pass may use; None leaves it to the engine.

    Raises:
        EngineError: no such engine, or it cannot open the graph.
        MissingPackageError: the engine's package is not installed.
    """
    name = _fastest() if engine == "auto" else engine
    if name not in _ENGINES:
        raise EngineError(f"there is no engine {engine!r}. Engines: auto, {', '.join(_ENGINES)}.")
    entry = _ENGINES[name]
    if _version(entry) is None:
        raise MissingPackageError(entry.package, purpose=f"the engine {name!r}")
    opened = import_module(entry.module).open(Path(path), shapes, outputs=outputs, threads=threads)
    return cast("Engine", opened)


def _fastest() -> str:
    for name, entry in _ENGINES.items():
        if version := _version(entry):
            logger.info("engine auto: %s (%s %s), the fastest one installed", name, entry.package, version)
            return name
        logger.info("engine auto: %s passed over, %s is not installed", name, entry.package)
    first = next(iter(_ENGINES.values()))
    raise MissingPackageError(first.package, purpose="explaining")


def _version(entry: _Entry) -> str | None:
    if find_spec(entry.package) is None:
        return None
    for distribution in entry.distributions:
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return "unknown"
