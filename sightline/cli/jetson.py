"""NVIDIA's Jetson modules: which one this is, and what Sightline needs on it. By the documents: tried on none."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path("/")
_RELEASE, _MODEL, _MEMORY = "etc/nv_tegra_release", "proc/device-tree/model", "proc/meminfo"


@dataclass(frozen=True)
class Target:
    """A family of modules that things can be prepared for."""

    title: str
    model: str
    """A word of the name that the device tree gives these modules."""
    archs: tuple[int, ...]
    """Compute capabilities times ten. Thor's was 10.1 before CUDA 13 and is 11.0 since."""


TARGETS: Mapping[str, Target] = {
    "jetson-orin": Target("Jetson Orin (Nano, NX, AGX)", "Orin", (87,)),
    "jetson-thor": Target("Jetson Thor (T4000, T5000)", "Thor", (110, 101)),
}

_JETPACKS: Mapping[int, tuple[str, int]] = {35: ("5", 11), 36: ("6", 12), 38: ("7", 13), 39: ("7", 13)}
"""By the number of Jetson Linux: JetPack, and the major version of its CUDA."""


def findings(root: Path = ROOT) -> dict[str, Any] | None:
    """What is known of this module; None where the machine is no Jetson.

    ``model``, ``l4t`` (Jetson Linux), ``jetpack``, ``cuda``, ``memory_bytes`` (shared by CPU and GPU), ``power_mode``,
    ``target`` of ``sightline build``, and ``advice``: what to do here.
    """
    release, model = _text(root / _RELEASE), _text(root / _MODEL)
    if release is None and "jetson" not in (model or "").lower():
        return None
    version = re.search(r"R(\d+)\b.*?REVISION:\s*([\d.]+)", release or "")
    number = int(version[1]) if version else None
    jetpack, cuda = _JETPACKS.get(number, (None, None)) if number else (None, None)
    target = next((name for name, entry in TARGETS.items() if entry.model in (model or "")), None)
    power = _power_mode()
    found = {
        "model": model,
        "l4t": f"{version[1]}.{version[2]}" if version else None,
        "jetpack": jetpack,
        "cuda": cuda,
        "memory_bytes": _memory(root),
        "power_mode": power,
        "target": target,
    }
    return {**found, "advice": _advice(target, cuda, power)}


def lines(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The findings as rows of a table."""
    memory = f"{found['memory_bytes'] / 2**30:.1f} GiB, shared by CPU and GPU" if found["memory_bytes"] else "unknown"
    software = f"JetPack {found['jetpack']} (Jetson Linux {found['l4t']}, CUDA {found['cuda']})"
    rows = [
        ("module", found["model"] or "unknown"),
        ("software", software if found["jetpack"] else f"Jetson Linux {found['l4t'] or 'unknown'}, not known here"),
        ("memory", memory),
        ("power mode", found["power_mode"] or "unknown"),
        ("target", found["target"] or "none that Sightline knows"),
    ]
    return rows + [("", line) for line in found["advice"]]


def _advice(target: str | None, cuda: int | None, power: str | None) -> list[str]:
    advice = []
    if cuda is not None and cuda < 13:
        advice.append(
            f"Sightline's extras are for CUDA 13 and this is CUDA {cuda}: install cupy-cuda{cuda}x instead of "
            "cupy-cuda13x, and let NVRTC compile the kernels here (cubins of CUDA 13 do not load)"
        )
    advice.append(
        "onnxruntime-gpu has no wheel for this processor on PyPI: take NVIDIA's for this JetPack, and install "
        "Sightline with SIGHTLINE_ONNXRUNTIME=none; TensorRT comes with JetPack"
    )
    if target:
        advice.append(f"sightline build BUNDLE --target {target}, on any machine, prepares what this one needs")
    if power and not power.upper().startswith("MAXN"):
        advice.append(
            "the power mode limits the clocks: 'sudo nvpmodel -q --verbose' lists the others, MAXN is the fastest"
        )
    return advice


def _power_mode() -> str | None:
    """What nvpmodel calls the mode; None where it cannot be asked."""
    program = shutil.which("nvpmodel") or shutil.which("nvpmodel", path="/usr/sbin:/sbin")
    if program is None:
        return None
    try:
        said = subprocess.run([program, "-q"], capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    mode = re.search(r"NV Power Mode:\s*(\S+)", said)
    return mode[1] if mode else None


def _memory(root: Path) -> int | None:
    total = re.search(r"MemTotal:\s*(\d+) kB", _text(root / _MEMORY) or "")
    return int(total[1]) * 1024 if total else None


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0\n ")
    except OSError:
        return None
