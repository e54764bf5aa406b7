"""The kernels alone, as bytes moved per second, beside what the device copies per second."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from sightline.bench.report import Report, Spread, doubts
from sightline.bindings.engine import Device, Precision
from sightline.bundle import Bundle
from sightline.kernels import Kernels, kernels_for

_COPY_BYTES = 1 << 28
"""Beyond any cache."""
CALLS = 20
"""In one CUDA graph."""


def kernel(
    bundle: Bundle,
    device: Device,
    precision: Precision,
    batch_size: int,
    *,
    warmup: int = 3,
    iterations: int = 20,
    seed: int = 0,
) -> Report:
    """Time every kernel on maps of this bundle's own sizes.

    A kernel's bytes are those that it must move: each input read once, each output written once.
    """
    stream = _stream(device)
    kernels = kernels_for(device, stream)
    timer = _Timer(stream, warmup, iterations)
    random = np.random.default_rng(seed)
    spec, size = bundle.input, (bundle.input.height, bundle.input.width)
    shape = spec.shape if spec.layout == "NCHW" else (*size, spec.channels)
    dtype = {"fp16": np.float16, "bf16": np.uint16}.get(precision if device == "cuda" else "fp32", np.float32)
    image = kernels.to_device(random.normal(size=shape).astype(np.float32))
    out = kernels.to_device(np.zeros((batch_size, *shape), dtype))
    affine = kernels.to_device(random.uniform(size=(batch_size, 2)).astype(np.float32))
    source = kernels.to_device(np.ones(_COPY_BYTES // 4, np.float32))
    target = kernels.to_device(np.zeros(_COPY_BYTES // 4, np.float32))
    copies = timer(_copy(kernels, target, source))
    bandwidth = Spread(tuple(2 * _COPY_BYTES / seconds / 1e9 for seconds in copies), "GB/s")
    spreads = {"copy": bandwidth}
    for block in bundle.blocks:
        maps = kernels.to_device(random.uniform(size=(batch_size, block.height, block.width)).astype(np.float32))
        weights = kernels.to_device(random.uniform(size=batch_size))
        moved = out.nbytes + image.nbytes + maps.nbytes
        name = f"{block.height}x{block.width}"
        calls: dict[str, tuple[Callable[[], Any], int]] = {
            "mask_into": (partial(kernels.mask_into, out, image, maps, affine, spec.layout), moved),
            "extrema": (partial(kernels.extrema, maps, size), maps.nbytes),
            "aggregate": (partial(kernels.aggregate, maps, weights), maps.nbytes),
        }
        for call, (function, nbytes) in calls.items():
            spreads[f"{call} {name}"] = Spread(tuple(nbytes / seconds / 1e9 for seconds in timer(function)), "GB/s")
    shares = {
        f"{name} of copy": spread.median / bandwidth.median
        for name, spread in spreads.items()
        if name.startswith("mask_into")
    }
    setting = {"device": device, "precision": precision, "batch_size": batch_size}
    return Report("kernel", setting, {**spreads, **shares}, tuple(doubts(spreads)))


def _copy(kernels: Kernels, target: Any, source: Any) -> Callable[[], Any]:
    if isinstance(target, np.ndarray):
        return lambda: np.copyto(target, source)
    return lambda: target.data.copy_from_device_async(source.data, source.nbytes)


def _stream(device: Device) -> Any:
    if device == "cpu":
        return None
    import cupy

    return cupy.cuda.Stream(non_blocking=True)


class _Timer:
    """Seconds of a call; on a GPU by its own clock, of a CUDA graph of calls: launched alone, a kernel of microseconds
    would be waiting for Python.
    """

    def __init__(self, stream: Any, warmup: int, iterations: int) -> None:
        self._stream, self._warmup, self._iterations = stream, warmup, iterations

    def __call__(self, function: Callable[[], Any]) -> list[float]:
        for _ in range(self._warmup):
            function()
        if self._stream is None:
            return [self._host(function) for _ in range(self._iterations)]
        with self._stream:
            self._stream.begin_capture()
            for _ in range(CALLS):
                function()
            graph = self._stream.end_capture()
        return [self._device(graph) for _ in range(self._iterations)]

    def _host(self, function: Callable[[], Any]) -> float:
        began = time.perf_counter()
        function()
        return time.perf_counter() - began

    def _device(self, graph: Any) -> float:
        import cupy

        with self._stream:
            began, ended = cupy.cuda.Event(), cupy.cuda.Event()
            began.record()
            graph.launch(self._stream)
            ended.record()
            ended.synchronize()
        return float(cupy.cuda.get_elapsed_time(began, ended)) / 1000 / CALLS
