"""Inference engines behind one small protocol, loaded only when one is opened.

Adding an engine is one file, with an ``open`` that returns an :class:`~sightline.bindings.engine.Engine`, and one entry
in ``table.py``.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module, metadata
from pathlib import Path
from typing import cast

from sightline.bindings.engine import Device, Engine, Precision, Product
from sightline.bindings.table import ENGINES, Entry, Variant
from sightline.errors import EngineError, MissingPackageError, PrecisionError

__all__ = [
    "Availability",
    "Engine",
    "Variant",
    "attribution_engine",
    "available",
    "choose",
    "open_engine",
    "variant",
]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Availability:
    """Whether one engine can be used on this machine."""

    name: str
    device: Device
    """Where its buffers are."""
    version: str | None
    """The version of its package, or None where it is not installed."""
    usable: bool
    reason: str
    """Why not, or in which precisions."""
    hint: str | None
    """What to type to make it usable; None where nothing is to be done, or nothing but other hardware helps."""


def available() -> list[Availability]:
    """Every engine that Sightline knows, the fastest first, and whether this machine can use it. Never raises."""
    return [_availability(name, entry) for name, entry in ENGINES.items()]


def variant(engine: str, precision: Precision) -> Variant:
    """Which variant of the graph an engine opens to compute in a precision.

    Raises:
        EngineError: no such engine.
        PrecisionError: it does not compute in this precision.
    """
    precisions = _entry(engine).precisions
    if precision not in precisions:
        raise PrecisionError(
            f"{engine} does not compute in {precision!r}. Precisions of {engine}: {', '.join(precisions)}."
        )
    return precisions[precision]


def choose(engine: str, *, variants: Collection[str], precision: Precision) -> str:
    """The engine to use: the one named, once it is clear that it can be used, or the fastest usable one for ``auto``.

    Args:
        engine: a name from :func:`available`, or ``auto``.
        variants: the variants of the graph that there are.
        precision: what the passes are to be computed in.

    Raises:
        EngineError: no such engine, or this machine cannot use it; for ``auto``: none.
        MissingPackageError: the engine's package is not installed.
        PrecisionError: the engine, or this machine, does not compute in this precision, or the variant is missing.
    """
    if engine != "auto":
        if error := _objection(engine, variants, precision):
            raise error
        return engine
    objections = {}
    for name in ENGINES:
        if (error := _objection(name, variants, precision)) is None:
            logger.info("engine auto: %s, the fastest one usable in %s", name, precision)
            return name
        logger.info("engine auto: %s passed over: %s", name, error)
        objections[name] = error
    if all(isinstance(error, PrecisionError) for error in objections.values()):
        raise PrecisionError(_together(f"no engine runs this network in {precision!r}", objections))
    # Everything needs a package, and this is the one that every machine can have.
    if isinstance(error := objections["onnxruntime-cpu"], MissingPackageError):
        raise MissingPackageError(error.package, purpose="explaining", extra=error.extra)
    raise EngineError(_together(f"no engine can run this network in {precision!r} on this machine", objections))


def attribution_engine(engine: str) -> str:
    """The engine that runs the attribution graph, in float32, beside one that runs the classifier.

    Raises:
        EngineError: no such engine, or none that can run the attribution graph can be used here.
        MissingPackageError: such an engine's package is not installed.
    """
    beside = _entry(engine).attribution
    if not beside:
        return engine
    for name in beside:
        if (error := _objection(name, ("fp32",), "fp32")) is None:
            logger.info("the attribution pass runs on %s beside %s", name, engine)
            return name
        logger.info("the attribution pass beside %s: %s passed over: %s", engine, name, error)
    assert error is not None
    raise error


def open_engine(
    path: str | Path,
    engine: str = "auto",
    *,
    shapes: Mapping[str, Sequence[int]],
    outputs: Sequence[str] | None = None,
    threads: int | None = None,
    precision: Precision = "fp32",
    cache: Path | None = None,
    product: Product | None = None,
) -> Engine:
    """Open one graph on an inference engine, at fixed shapes.

    Args:
        path: the ONNX file, its external weights beside it, or the torch program: the :func:`variant` that the engine
            opens for this precision.
        engine: a name from :func:`available`, or ``auto`` for the fastest usable one that takes such a file.
        shapes: the shape of every input that is dynamic in the graph.
        outputs: the outputs to bind, all of them by default.
        threads: how many CPU threads one pass may use; None leaves it to the engine.
        precision: what to compute in.
        cache: the folder where engines that are built first keep what they built; None builds it every time.
        product: an input to multiply within the pass, by the engines that gain by it (:class:`Entry` says which); the
            others open the graph as it is, and have no ``FACTOR`` among their buffers.

    Raises:
        EngineError: no such engine, or it cannot be used here, or it cannot open the graph.
        MissingPackageError: the engine's package is not installed.
        PrecisionError: it does not compute in this precision.
        OutOfMemoryError: the device has no room for a pass at these shapes.
    """
    path = Path(path)
    name = choose(
        engine, variants=("fp32", "fp16", "int8") if path.suffix == ".onnx" else ("torch",), precision=precision
    )
    entry = ENGINES[name]
    opener = getattr(import_module(entry.module), entry.opener)
    settings = {"outputs": outputs, "threads": threads, "precision": precision, "cache": cache}
    opened = opener(path, shapes, **settings, **({"product": product} if entry.multiplies and product else {}))
    return cast("Engine", opened)


def _entry(engine: str) -> Entry:
    if engine not in ENGINES:
        raise EngineError(f"there is no engine {engine!r}. Engines: auto, {', '.join(ENGINES)}.")
    return ENGINES[engine]


def _objection(
    name: str, variants: Collection[str], precision: Precision
) -> EngineError | MissingPackageError | PrecisionError | None:
    """Why an engine cannot be used, as the error to raise."""
    try:
        needed = variant(name, precision)
    except PrecisionError as error:
        return error
    if needed not in variants:
        way_out = "export with torch_program=True" if needed == "torch" else f"sightline build --precision {needed}"
        return PrecisionError(
            f"{name} needs the {needed} variant of the network for {precision!r}, and there is only: "
            f"{', '.join(sorted(variants)) or 'none'}. Add it ({way_out}), or choose another engine or precision."
        )
    entry = ENGINES[name]
    if obstacle := entry.probe():
        if obstacle.package:
            return MissingPackageError(obstacle.package, purpose=f"the engine {name!r}", extra=obstacle.extra)
        remedy = f": {obstacle.remedy}" if obstacle.remedy else ""
        return EngineError(f"{name} cannot be used: {obstacle.reason}{remedy}.")
    if reason := entry.lacks(precision):
        return PrecisionError(f"{name} cannot compute in {precision!r} here: {reason}.")
    return None


def _availability(name: str, entry: Entry) -> Availability:
    obstacle = entry.probe()
    if obstacle:
        reason = obstacle.reason
    else:
        lacking = [precision for precision in entry.precisions if entry.lacks(precision)]
        reason = ", ".join(precision for precision in entry.precisions if precision not in lacking)
        reason += f" ({', '.join(lacking)} not on this machine)" if lacking else ""
    hint = obstacle.remedy if obstacle else None
    return Availability(name, entry.device, _version(entry), obstacle is None, reason, hint)


def _version(entry: Entry) -> str | None:
    own, below = _installed(entry.distributions), _installed(entry.stands_on)
    return own if own is None or below is None else f"{own} on {below}"


def _installed(distributions: Sequence[str]) -> str | None:
    """The version of the first one that is there."""
    for distribution in distributions:
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return None


def _together(what: str, objections: Mapping[str, Exception]) -> str:
    return f"{what}:\n" + "\n".join(f"  {error}" for error in objections.values())
