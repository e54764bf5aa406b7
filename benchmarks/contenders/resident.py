"""Resident memory of this process, in MiB.

``ru_maxrss`` is the wrong figure for a child: Linux hands the peak of the process that started it over to it, so the
child of a parent that once exported a network would never show less than the parent. The peak kept for the address
space is this process's own and can be set back once the model is loaded.
"""

from __future__ import annotations

from pathlib import Path

_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")


def now() -> float:
    """What is resident now."""
    return _field("VmRSS")


def peak() -> float:
    """The most that was resident since the start, or since :func:`forget_peak`."""
    return _field("VmHWM")


def forget_peak() -> None:
    """Let the peak start again from what is resident now."""
    _RESET.write_text("5", encoding="ascii")


def _field(name: str) -> float:
    for line in _STATUS.read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    raise OSError(f"{_STATUS} has no {name}: memory is measured on Linux only")
