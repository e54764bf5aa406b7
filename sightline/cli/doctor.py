"""``sightline doctor``: what is installed, what works, and how to get what is missing."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from sightline import __version__
from sightline.cli import jetson
from sightline.cli.table import table
from sightline.errors import SightlineError

NAME = "doctor"
HELP = "show versions, engines and devices, and how to get what is missing"
DESCRIPTION = """\
Show what is installed, which engines and devices can be used, what is missing for which task, and how to get it.
The exit code is 1 if this machine cannot explain."""
EXAMPLES = """\
examples:
  sightline doctor
  sightline doctor --json                            for a bug report"""

PACKAGES = (
    "numpy",
    "pillow",
    "onnxruntime",
    "onnxruntime-gpu",
    "onnx",
    "onnx-ir",
    "onnxscript",
    "torch",
    "openvino",
    "fastapi",
    "uvicorn",
    "prometheus-client",
    "pyarrow",
    "ray",
    "cupy-cuda13x",
    "tensorrt-cu13",
    "pycuda",
)


@dataclass(frozen=True)
class Task:
    """Something a user may want to do, and the packages that it takes."""

    name: str
    packages: tuple[str, ...]
    remedy: str


TASKS = (
    Task("export ONNX files", ("onnx", "onnx-ir", "onnxscript"), "pip install 'sightline[export]'"),
    Task("export torch modules", ("torch", "onnx", "onnx-ir", "onnxscript"), "pip install 'sightline[torch]'"),
    Task("serve", ("fastapi", "uvicorn", "prometheus-client"), "pip install 'sightline[serve]'"),
    Task("data sets", ("pyarrow",), "pip install 'sightline[dataset]'"),
    Task("data sets on Ray", ("pyarrow", "ray"), "pip install 'sightline[ray]'"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print the findings."""
    found = findings()
    print(json.dumps(found, indent=2) if arguments.json else _text(found))
    return 0 if found["auto"]["engine"] else 1


def findings() -> dict[str, Any]:
    """Versions, engines, GPUs, tasks and problems. Each missing thing comes with its reason and remedy."""
    from sightline.bindings import available

    versions = {name: _version(name) for name in PACKAGES}
    devices, problems = _onnxruntime(versions)
    engines = [
        {
            "name": engine.name,
            "version": engine.version,
            "device": engine.device,
            "ready": engine.usable,
            "reason": engine.reason,
            "remedy": engine.hint,
        }
        for engine in available()
    ]
    tasks = []
    for task in TASKS:
        missing = [package for package in task.packages if versions[package] is None]
        tasks.append({"name": task.name, "missing": missing, "remedy": task.remedy if missing else None})
    return {
        "sightline": __version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "packages": versions,
        "engines": engines,
        "auto": _auto(),
        "gpus": _gpus(),
        "jetson": jetson.findings(),
        "onnxruntime_providers": devices,
        "tasks": tasks,
        "problems": problems,
    }


def _auto() -> dict[str, str | None]:
    """The engine that explains a bundle if none is named, and why; None for the engine if none can."""
    from sightline.bindings import attribution_engine, choose

    try:
        name = choose("auto", variants=("fp32",), precision="fp32")
        beside = attribution_engine(name)
    except SightlineError as error:
        return {"engine": None, "why": str(error)}
    why = "the fastest one usable here in fp32"
    return {"engine": name, "why": why if beside == name else f"{why}, with {beside} for the attribution pass"}


def _gpus() -> list[dict[str, Any]]:
    """What CuPy sees; empty where there is no CuPy or no CUDA device, which the engines say."""
    from sightline.bindings import probe

    if probe.cuda():
        return []
    runtime = importlib.import_module("cupy").cuda.runtime
    driver = runtime.driverGetVersion()
    gpus = []
    for number in range(runtime.getDeviceCount()):
        facts = runtime.getDeviceProperties(number)
        gpus.append(
            {
                "name": facts["name"].decode(),
                "compute_capability": f"{facts['major']}.{facts['minor']}",
                "memory_bytes": facts["totalGlobalMem"],
                "driver": f"CUDA {driver // 1000}.{driver % 1000 // 10}",
            }
        )
    return gpus


def _onnxruntime(versions: Mapping[str, str | None]) -> tuple[list[str], list[str]]:
    """The providers that ONNX Runtime brings, and what is wrong with its installation."""
    problems = []
    if versions["onnxruntime"] and versions["onnxruntime-gpu"]:
        problems.append(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other: "
            "pip uninstall -y onnxruntime onnxruntime-gpu, then install the one you want"
        )
    try:
        return list(importlib.import_module("onnxruntime").get_available_providers()), problems
    except ModuleNotFoundError:
        return [], problems
    except Exception as error:  # a shared library that does not load, for instance
        return [], [*problems, f"onnxruntime is installed but cannot be imported ({error}): install it again"]


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _text(found: Mapping[str, Any]) -> str:
    engines = [(e["name"], e["version"] or "–", e["device"], _engine_state(e)) for e in found["engines"]]
    gpus = [
        (
            g["name"],
            f"compute capability {g['compute_capability']}",
            f"{g['memory_bytes'] / 2**30:.0f} GiB",
            g["driver"],
        )
        for g in found["gpus"]
    ]
    auto = found["auto"]
    tasks = [(t["name"], _task_state(t["missing"], t["remedy"])) for t in found["tasks"]]
    packages = [(name, version or "–") for name, version in found["packages"].items()]
    parts = [
        f"sightline {found['sightline']}, Python {found['python']}, {found['platform']}, {found['cpus']} CPUs",
        "engines to explain with, the fastest first\n" + table(engines),
        f"engine auto: {auto['engine']}, {auto['why']}" if auto["engine"] else f"engine auto: {auto['why']}",
        "CUDA devices\n" + (table(gpus) if gpus else "  none"),
        "providers of ONNX Runtime\n  " + (", ".join(found["onnxruntime_providers"]) or "none"),
        "other tasks\n" + table(tasks),
        "packages\n" + table(packages),
    ]
    if found["jetson"]:
        parts.insert(1, "Jetson\n" + table(jetson.lines(found["jetson"])))
    if found["problems"]:
        parts.append("problems\n" + "\n".join(f"  {problem}" for problem in found["problems"]))
    return "\n\n".join(parts)


def _engine_state(engine: Mapping[str, Any]) -> str:
    if engine["ready"]:
        return f"ready: {engine['reason']}"
    return f"{engine['reason']}; {engine['remedy']}" if engine["remedy"] else str(engine["reason"])


def _task_state(missing: Sequence[str], remedy: str | None) -> str:
    if not missing:
        return "ready"
    return f"{', '.join(missing)} missing: {remedy}"
