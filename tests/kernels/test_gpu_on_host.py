"""The CUDA kernels on this CPU: the very same sources, compiled by a C++ compiler, launched through a fake CuPy."""

from __future__ import annotations

from typing import get_args

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sightline.kernels import kernels_for
from sightline.kernels.build import _SOURCES, FILES
from sightline.kernels.gpu import GpuKernels
from sightline.kernels.protocol import Layout
from tests.fakes import cuda, kernel_host
from tests.fakes import cupy as fake

pytest.register_assert_rewrite("tests.kernels.masking", "tests.kernels.contract")

from tests.kernels.contract import KernelsContract  # noqa: E402
from tests.kernels.masking import TYPES, random, windows  # noqa: E402

SIDES = st.integers(1, 40)
SETTINGS = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> GpuKernels:
    cupy = fake.install(monkeypatch)
    return GpuKernels(cupy.cuda.Stream(non_blocking=True))


class TestOnHost(KernelsContract):
    """Everything that the kernels must do."""


@SETTINGS
@given(st.data())
def test_masks_of_any_geometry(kernels: GpuKernels, data: st.DataObject) -> None:
    shape = (data.draw(st.integers(1, 9)), data.draw(SIDES), data.draw(SIDES))
    size = (data.draw(SIDES), data.draw(SIDES))
    KernelsContract().masked(
        kernels,
        shape,
        size,
        data.draw(st.integers(1, 5)),
        data.draw(st.sampled_from(TYPES)),
        data.draw(st.sampled_from(get_args(Layout))),
        data.draw(st.sampled_from([None, windows(shape[0], size)])),
        data.draw(st.integers(0, 3)),
    )


@SETTINGS
@given(st.tuples(st.integers(1, 5), SIDES, SIDES), SIDES, SIDES)
def test_reductions_of_any_geometry(kernels: GpuKernels, shape: tuple[int, int, int], height: int, width: int) -> None:
    contract = KernelsContract()
    contract.test_extrema(kernels, shape, (height, width))
    contract.test_totals(kernels, shape, (height, width))
    contract.test_accumulate(kernels, shape, (height, width))
    contract.test_upsample(kernels, shape, (height, width))


def test_work_goes_to_the_stream_of_the_engine_and_only_results_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    cupy = fake.install(monkeypatch)
    stream = cupy.cuda.Stream(non_blocking=True)
    kernels = kernels_for("cuda", stream)
    maps, weights = kernels.to_device(random(4, 7, 7)), kernels.to_device(np.ones(4))
    layer = kernels.upsample(kernels.aggregate(maps, weights), (28, 28))
    kernels.fuse(layer, kernels.rescale(layer, 0, 1), 0.5)
    kernels.extrema(maps, (28, 28))
    assert stream.synchronized == 0
    kernels.to_host(layer)
    assert stream.synchronized == 1
    assert {pointer for _, pointer in cuda.State.launches} == {stream.ptr}


def test_masks_can_be_captured_in_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    cupy = fake.install(monkeypatch)
    stream = cupy.cuda.Stream(non_blocking=True)
    kernels = GpuKernels(stream)
    image, maps, affine = (kernels.to_device(random(*shape)) for shape in ((3, 8, 8), (2, 4, 4), (2, 2)))
    out = cupy.empty((2, 3, 8, 8), np.float32)
    kernels.mask_into(out, image, maps, affine)  # uploads where the samples lie
    expected = kernels.to_host(out)
    kernels.write(out, 7)
    stream.begin_capture()
    kernels.mask_into(out, image, maps, affine)
    graph = stream.end_capture()
    assert (kernels.to_host(out) == 7).all()
    graph.launch(stream)
    assert (kernels.to_host(out) == expected).all()


@pytest.fixture(scope="module")
def conversions() -> dict[str, kernel_host.HostKernel]:
    """The conversions alone."""
    if kernel_host.compiler() is None:
        pytest.skip("no C++ compiler (g++ or c++): the CUDA kernels cannot be run on the CPU")
    kernels = "".join(
        f'extern "C" __global__ void to_{name}(unsigned short* out, const float* in, long long count) '
        f"{{ for (long long i = 0; i < count; ++i) out[i] = portable_{name}(in[i]); }}\n"
        for name in ("half", "bfloat16")
    )
    return kernel_host.compiled((_SOURCES / FILES[0]).read_text() + kernels)


def converted(kernel: kernel_host.HostKernel, floats: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    out = np.empty(len(floats), np.uint16)
    pointers = [np.uint64(array.ctypes.data).tobytes() for array in (out, floats)]
    kernel((1, 1, 1), (1, 1, 1), 0, [*pointers, np.int64(len(floats)).tobytes()])
    return out


def boundaries(positive: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Every value, every middle between two neighbours, and the floats on both sides of each: both signs."""
    middles = ((positive[:-1].astype(np.float64) + positive[1:]) / 2).astype(np.float32)
    marks = np.concatenate([positive, middles, np.array([np.inf, np.nan, 3.4e38, 1e-45], np.float32)])
    every = np.concatenate([marks, np.nextafter(marks, np.float32(np.inf)), np.nextafter(marks, np.float32(-np.inf))])
    return np.concatenate([every, -every])


def test_float16_is_rounded_as_numpy_does(conversions: dict[str, kernel_host.HostKernel]) -> None:
    every = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    floats = boundaries(np.append(every, np.float32(65536)))
    with np.errstate(over="ignore"):
        expected = floats.astype(np.float16)
    got = converted(conversions["to_half"], floats)
    numbers = ~np.isnan(floats)
    assert (got[numbers] == expected.view(np.uint16)[numbers]).all()
    assert (got[~numbers] == 0x7FFF).all()


def test_bfloat16_is_rounded_to_the_nearest_even(conversions: dict[str, kernel_host.HostKernel]) -> None:
    every = (np.arange(0x7F80, dtype=np.uint32) << 16).view(np.float32)
    floats = boundaries(every)
    got = converted(conversions["to_bfloat16"], floats)
    numbers = np.isfinite(floats)
    # The nearest of the two neighbours, by distance in float64; the even one on a tie.
    bits = floats[numbers].view(np.uint32) >> 16
    low, high = ((b.astype(np.uint32) << 16).view(np.float32).astype(np.float64) for b in (bits, bits + 1))
    high[np.isinf(high)] = np.copysign(2.0**128, high[np.isinf(high)])
    down, up = abs(floats[numbers] - low), abs(high - floats[numbers])
    expected = np.where((down < up) | ((down == up) & (bits % 2 == 0)), bits, bits + 1)
    assert (got[numbers] == expected).all()
    assert (got[np.isnan(floats)] == 0x7FFF).all()
    assert set(got[np.isinf(floats)]) == {0x7F80, 0xFF80}
