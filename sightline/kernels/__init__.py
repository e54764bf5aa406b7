"""The arithmetic on maps: upsampling, masking, aggregation, thresholds. One interface, an implementation per device."""

from __future__ import annotations

from typing import Any

from sightline.errors import EngineError
from sightline.kernels.cpu import CpuKernels
from sightline.kernels.protocol import Kernels, Window

__all__ = ["CpuKernels", "Kernels", "Window", "kernels_for"]


def kernels_for(device: str, stream: Any = None) -> Kernels:
    """The kernels that work where an engine of this device keeps its buffers.

    Args:
        device: ``cpu`` or ``cuda``.
        stream: the CUDA stream of the engine, which orders the kernels among its passes.

    Raises:
        EngineError: there are none for this device.
        MissingPackageError: CuPy is not installed.
    """
    if device == "cpu":
        return CpuKernels()
    if device == "cuda":
        from sightline.kernels.gpu import GpuKernels

        return GpuKernels(stream)
    raise EngineError(f"there are no kernels for the device {device!r}: Sightline has them for 'cpu' and 'cuda'.")
