"""OpenVINO without what it does beside: to whoever imports it, and to whoever frees it.

Its import forks a process that reports to an analytics service, and writes an identifier into the user's home. A
production line wants neither, nor a fork in the middle of a process that has threads. OpenVINO does without the package
that does this, so it is hidden while OpenVINO loads.

Its CPU plugin gives the thread that loads it a stack for signals, and unmaps that when the plugin is freed: where this
happens on another thread, or not in the order of loading, the first thread is left with a stack that is gone, and the
next Ctrl-C or SIGTERM is a segmentation fault (seen with 2026.4.1). So there is one core, and it is never freed.
"""

from __future__ import annotations

import importlib
import sys
from threading import Lock
from types import ModuleType
from typing import Any

_TELEMETRY = "openvino_telemetry"
_CORES: dict[Any, Any] = {}
_LOCK = Lock()


def load() -> ModuleType:
    """The module ``openvino``; where something else imported it before, as that did."""
    if _TELEMETRY in sys.modules or "openvino" in sys.modules:
        return importlib.import_module("openvino")
    sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # an import of it is an ImportError
    try:
        return importlib.import_module("openvino")
    finally:
        del sys.modules[_TELEMETRY]


def core() -> Any:
    """The process's one ``openvino.Core``."""
    kind = load().Core
    with _LOCK:
        if kind not in _CORES:
            _CORES[kind] = kind()
        return _CORES[kind]
