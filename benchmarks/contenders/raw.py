"""The raw engines: nothing but the network, as fast as its engine runs it."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from .contender import Case, UnavailableError

BATCH_SIZES = (1, 8, 16)
_LEAST_PASSES = 4

Run = Callable[[], object]


def open_raw(engine: str, case: Case, batch: int) -> Run:
    """One pass of a batch of noise, as a function.

    Raises:
        UnavailableError: the engine is not installed, or this machine does not have the precision.
    """
    images = np.random.default_rng(case.seed).normal(size=(batch, *case.image.shape)).astype(np.float32)
    return ENGINES[engine](case, images)


def stretch(passes: dict[int, Run], seconds: float) -> dict[int, float]:
    """Seconds per image at every batch size: the mean over a stretch of passes, without the first ones.

    The mean, because the time of an explanation holds the machine's hiccups too; stretches of seconds, because
    alternating single passes would cool the caches of the raw engine and flatter every ratio.
    """
    means = {}
    for size, run in passes.items():
        times: list[float] = []
        until = time.perf_counter() + seconds
        while time.perf_counter() < until or len(times) < _LEAST_PASSES:
            began = time.perf_counter()
            run()
            times.append(time.perf_counter() - began)
        means[size] = float(np.mean(times[1 + len(times) // 5 :])) / size
    return means


def _torch(case: Case, images: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> Run:
    import torch

    from .subject import load

    module, batch = load(case), torch.from_numpy(images)

    def run() -> object:
        with torch.no_grad():
            return module(batch)

    return run


def _onnxruntime(case: Case, images: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = case.threads
    session = onnxruntime.InferenceSession(str(case.onnx), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda: session.run(None, {name: images})


def _openvino(precision: str) -> Callable[[Case, np.ndarray[tuple[int, ...], np.dtype[np.float32]]], Run]:
    def opener(case: Case, images: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> Run:
        import openvino

        core = openvino.Core()
        if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise UnavailableError("this CPU has no bfloat16 for OpenVINO")
        model = core.read_model(case.onnx)
        # Shared out as Sightline's batches are: equal parts of four rows or more, no more than there are threads.
        rows = len(images)
        parts = max(n for n in range(1, max(1, min(case.threads, rows // 4)) + 1) if rows % n == 0)
        shares = np.split(images, parts)
        model.reshape(list(shares[0].shape))
        options = {
            "INFERENCE_PRECISION_HINT": precision.replace("fp32", "f32"),
            "INFERENCE_NUM_THREADS": case.threads,
            "PERFORMANCE_HINT": "LATENCY" if parts == 1 else "THROUGHPUT",
            "NUM_STREAMS": str(parts),
        }
        compiled = core.compile_model(model, "CPU", options)
        requests = [compiled.create_infer_request() for _ in shares]

        def run() -> None:
            for request, share in zip(requests, shares, strict=True):
                request.start_async([share], share_inputs=True)
            for request in requests:
                request.wait()

        return run

    return opener


ENGINES = {
    "torch": _torch,
    "onnxruntime": _onnxruntime,
    "openvino fp32": _openvino("fp32"),
    "openvino bf16": _openvino("bf16"),
}
PACKAGES = {"torch": "torch", "onnxruntime": "onnxruntime", "openvino fp32": "openvino", "openvino bf16": "openvino"}
