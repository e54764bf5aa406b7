"""What was found out once about a bundle on this machine, kept in the user's cache folder."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from sightline import cache
from sightline.bindings.engine import Device
from sightline.errors import EngineError

logger = logging.getLogger(__name__)


class Memo:
    """Findings of one kind, each a JSON object under the facts that it depends on."""

    def __init__(self, kind: str) -> None:
        """``kind`` names the folder, e.g. ``batch-size``."""
        self._kind = kind

    def recall(self, facts: Mapping[str, Any]) -> dict[str, Any] | None:
        """What was kept under exactly these facts."""
        kept = cache.read_json(self._path(facts))
        if not isinstance(kept, dict) or kept.get("facts") != dict(facts) or not isinstance(kept.get("found"), dict):
            return None
        found: dict[str, Any] = kept["found"]
        return found

    def keep(self, facts: Mapping[str, Any], found: Mapping[str, Any]) -> None:
        """Keep a finding. Where the folder cannot be written, that is logged and nothing else."""
        text = json.dumps({"facts": dict(facts), "found": dict(found)}, indent=2)
        try:
            cache.write(self._path(facts), text.encode())
        except EngineError as error:
            logger.warning("the %s found cannot be kept: %s", self._kind, error)

    def _path(self, facts: Mapping[str, Any]) -> Path:
        key = hashlib.sha256(json.dumps(dict(facts), sort_keys=True).encode()).hexdigest()
        return cache.folder() / self._kind / f"{key[:32]}.json"


@lru_cache
def machine(device: Device) -> str:
    """What a measurement depends on: the name of the processor or GPU, and how many cores this process may use."""
    if device == "cuda":
        import cupy

        properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)
        return str(properties["name"].decode())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{_processor()}, {cores} cores"


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
