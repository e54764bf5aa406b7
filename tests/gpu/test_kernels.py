"""The CUDA kernels on a GPU: all that they must do, and how fast the masks are written.

For the effective bandwidth: ``pytest -s tests/gpu/test_kernels.py -k bandwidth``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sightline.kernels.gpu import GpuKernels

pytest.register_assert_rewrite("tests.kernels.masking", "tests.kernels.contract")

from tests.kernels.contract import KernelsContract  # noqa: E402
from tests.kernels.masking import TYPES, held, random  # noqa: E402

cupy: Any = pytest.importorskip("cupy", reason="CuPy is not installed")


def devices() -> int:
    try:
        return int(cupy.cuda.runtime.getDeviceCount())
    except cupy.cuda.runtime.CUDARuntimeError:
        return 0


if not devices():
    pytest.skip("there is no GPU here", allow_module_level=True)


@pytest.fixture
def kernels() -> GpuKernels:
    return GpuKernels(cupy.cuda.Stream(non_blocking=True))


class TestOnGpu(KernelsContract):
    """Everything that the kernels must do."""


def test_masks_can_be_captured_in_a_graph() -> None:
    stream = cupy.cuda.Stream(non_blocking=True)
    kernels = GpuKernels(stream)
    image, maps, affine = (kernels.to_device(random(*shape)) for shape in ((3, 8, 8), (2, 4, 4), (2, 2)))
    out = cupy.empty((2, 3, 8, 8), np.float32)
    kernels.mask_into(out, image, maps, affine)
    expected = kernels.to_host(out)
    kernels.write(out, 0)
    with stream:
        stream.begin_capture()
        kernels.mask_into(out, image, maps, affine)
        graph = stream.end_capture()
    graph.launch(stream)
    np.testing.assert_array_equal(kernels.to_host(out), expected)


@pytest.mark.parametrize("type_name", TYPES)
@pytest.mark.parametrize("side", [7, 14, 56, 112])
def test_bandwidth_of_masks(type_name: str, side: int) -> None:
    """Bytes of masks written per second, beside those of a copy of as many (read and written); median of 50."""
    stream = cupy.cuda.Stream(non_blocking=True)
    kernels = GpuKernels(stream)
    image, maps, affine = (kernels.to_device(random(*s)) for s in ((3, 224, 224), (64, side, side), (64, 2)))
    out, source = (cupy.zeros((64, 3, 224, 224), held(type_name)) for _ in range(2))

    def seconds(work: Any) -> float:
        # A batch of launches between two events: one alone would measure how long Python takes.
        found = []
        for _ in range(50):
            begin, end = cupy.cuda.Event(), cupy.cuda.Event()
            begin.record(stream)
            for _ in range(20):
                work()
            end.record(stream)
            end.synchronize()
            found.append(cupy.cuda.get_elapsed_time(begin, end) / 20e3)
        return float(np.median(found))

    with stream:
        stream.begin_capture()
        for _ in range(20):
            out.data.copy_from_device_async(source.data, out.nbytes, stream)
        copies = stream.end_capture()
    kernels.mask_into(out, image, maps, affine)
    stream.synchronize()
    with stream:
        stream.begin_capture()
        for _ in range(20):
            kernels.mask_into(out, image, maps, affine)
        masks = stream.end_capture()
    copied = 20 * 2 * out.nbytes / seconds(lambda: copies.launch(stream))
    written = 20 * out.nbytes / seconds(lambda: masks.launch(stream))
    print(f"{type_name} {side}²: masks {written / 1e9:.0f} GB/s written, copy {copied / 1e9:.0f} GB/s")
    assert written > 0
