"""Importing OpenVINO without what the import does beside: it forks a process that reports to an analytics service.

The import also writes an identifier into the user's home. A production line wants neither, nor a fork in the middle of
a process that has threads. OpenVINO does without the package that does this, so it is hidden while OpenVINO loads.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

_TELEMETRY = "openvino_telemetry"


def load() -> ModuleType:
    """The module ``openvino``; where something else imported it before, as that did."""
    if _TELEMETRY in sys.modules or "openvino" in sys.modules:
        return importlib.import_module("openvino")
    sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # an import of it is an ImportError
    try:
        return importlib.import_module("openvino")
    finally:
        del sys.modules[_TELEMETRY]
