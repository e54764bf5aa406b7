"""The arithmetic on maps: upsampling, masking, aggregation, thresholds. One interface, an implementation per device."""

from __future__ import annotations

from sightline.errors import EngineError
from sightline.kernels.cpu import CpuKernels
from sightline.kernels.protocol import Kernels

__all__ = ["CpuKernels", "Kernels", "kernels_for"]


def kernels_for(device: str) -> Kernels:
    """The kernels that work where an engine of this device keeps its buffers.

    Raises:
        EngineError: there are none for this device.
    """
    if device == "cpu":
        return CpuKernels()
    raise EngineError(f"there are no kernels for the device {device!r}: this Sightline has them for 'cpu'.")
