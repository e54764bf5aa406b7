"""What TensorRT says, in Python's log and in the errors of the binding."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping
from typing import Any

import tensorrt as trt

from sightline.bindings.memory import exhausted
from sightline.errors import EngineError, OutOfMemoryError

logger = logging.getLogger(__name__)

_KEPT = 8
# TensorRT's INFO reports every phase and the memory it took, its VERBOSE every tactic it tries.
_LEVELS: Mapping[str, int] = {
    "INTERNAL_ERROR": logging.ERROR,
    "ERROR": logging.ERROR,
    "WARNING": logging.WARNING,
    "INFO": logging.DEBUG,
    "VERBOSE": logging.DEBUG - 5,
}


class _Log(trt.ILogger):  # type: ignore[misc]  # the package has no types
    """TensorRT's calls answer None or False; the reason is in the messages before."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)  # pybind11 wants it called by name
        self.errors: deque[str] = deque(maxlen=_KEPT)

    def log(self, severity: Any, message: str) -> None:
        """Called by TensorRT, from any of its threads; an exception here would end the process."""
        level = _LEVELS.get(severity.name, logging.WARNING)
        if level >= logging.ERROR:
            self.errors.append(message.strip())
        logger.log(level, "%s", message)


# TensorRT keeps the first logger it is given for the whole process and complains of every other one.
LOG = _Log()


def failure(what: str, way_out: str) -> EngineError:
    """The error for a call that TensorRT answered with None or False, with the reason it logged last.

    Args:
        what: what failed, as the beginning of a sentence.
        way_out: what to do about it, where memory is not the reason.
    """
    # The last one alone: a build may log that tactics need too much memory before it fails of something else.
    reason = LOG.errors[-1] if LOG.errors else "it gave no reason"
    LOG.errors.clear()
    if "OutOfMemory" in reason or exhausted(RuntimeError(reason)):
        return OutOfMemoryError(
            f"{what}: {reason}. A smaller batch_size needs less memory; so does ending what else runs on this GPU."
        )
    return EngineError(f"{what}: {reason}. {way_out}")


def made(kind: Any) -> Any:
    """A ``trt.Builder`` or ``trt.Runtime``.

    Raises:
        EngineError: TensorRT cannot start, e.g. because the driver is too old for it.
    """
    LOG.errors.clear()
    try:
        return kind(LOG)
    except TypeError as error:  # pybind11's way to say that the factory returned nothing
        raise failure(
            f"TensorRT {trt.__version__} cannot start", "nvidia-smi must show a driver that is new enough for it."
        ) from error
