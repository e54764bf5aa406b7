"""What a benchmark writes: figures with their spread, and everything needed to judge them, checked against a schema."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np

HERE = Path(__file__).parent
SCHEMA = HERE / "schema.json"
RESULTS = HERE / "results"
PACKAGES = ("numpy", "onnx", "onnxruntime", "openvino", "pillow", "torch", "torchvision")


def spread(values: Sequence[float], unit: str) -> dict[str, Any]:
    """The median and the quartiles of repeated measurements."""
    low, middle, high = np.percentile(values, (25, 50, 75)).tolist()
    return {"median": middle, "quartiles": [low, high], "least": min(values), "unit": unit, "repeats": len(values)}


def write(name: str, parameters: Mapping[str, Any], figures: Mapping[str, Any], to: Path | None = None) -> Path:
    """Write ``results/<name>.json`` (or ``to``); a record that does not follow the schema is not written."""
    record = {
        "schema": 1,
        "benchmark": name,
        "command": [Path(word).name for word in sys.argv],  # names only: no path of this machine
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": {
            "cpu": _cpu(),
            "cores": len(os.sched_getaffinity(0)),
            "system": platform.platform(),
            "load": os.getloadavg()[0],
        },
        "versions": {"python": platform.python_version(), **_versions()},
        "parameters": dict(parameters),
        "figures": dict(figures),
    }
    jsonschema.validate(record, json.loads(SCHEMA.read_text(encoding="utf-8")))
    path = to or RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return path


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
