"""torch as an engine on a GPU: one captured graph, replayed.

The engines are made of modules: a program is read only by a torch as new as the one that wrote it, and machines with a
GPU have the torch that they have.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from sightline.bindings.engine import Precision
from sightline.bindings.torch import DTYPES, TorchEngine
from sightline.bundle import LOGITS, PROBABILITIES
from sightline.errors import EngineError, OutOfMemoryError
from tests.runtime import tiny

if not torch.cuda.is_available():
    pytest.skip("needs a GPU that torch can use", allow_module_level=True)
cupy: Any = pytest.importorskip("cupy", reason="needs CuPy")

BATCH = 16
SHAPES = {"pixels": (BATCH, *tiny.INPUT.shape)}
PRECISIONS: tuple[tuple[Precision, float], ...] = (("fp32", 1e-5), ("tf32", 1e-2), ("fp16", 1e-2), ("bf16", 6e-2))


@pytest.fixture(params=PRECISIONS, ids=lambda param: param[0])
def engine(request: pytest.FixtureRequest) -> Iterator[TorchEngine]:
    with TorchEngine.from_module(
        tiny.Tiny(), SHAPES, activation="softmax", device="cuda", precision=request.param[0]
    ) as opened:
        yield opened


def images(seed: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(SHAPES["pixels"]).astype(np.float32)


def on_cpu(seed: int) -> npt.NDArray[np.float32]:
    with torch.inference_mode():
        probabilities: npt.NDArray[np.float32] = tiny.Tiny().eval()(torch.from_numpy(images(seed))).softmax(1).numpy()
    return probabilities


def fill(engine: TorchEngine, values: npt.NDArray[np.float32]) -> None:
    """Write images into the buffer as it holds them, on the engine's stream."""
    buffer: Any = engine.buffers["pixels"]
    stream: Any = engine.stream
    with stream:
        if engine.precision == "bf16":
            bits = torch.from_numpy(values).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
            buffer.set(bits, stream=stream)
        else:
            buffer.set(values.astype(buffer.dtype), stream=stream)


def read(engine: TorchEngine, name: str = PROBABILITIES) -> npt.NDArray[np.float32]:
    buffer: Any = engine.buffers[name]
    stream: Any = engine.stream
    values: npt.NDArray[np.float32] = buffer.get(stream=stream)
    stream.synchronize()
    return values


def test_it_computes_what_the_cpu_computes(engine: TorchEngine) -> None:
    tolerance = dict(PRECISIONS)[engine.precision]
    for seed in range(3):
        fill(engine, images(seed))
        engine.run()
        found = read(engine)
        assert np.abs(found - on_cpu(seed)).max() <= tolerance
        np.testing.assert_allclose(found.sum(1), 1, atol=1e-6)


def test_a_replay_equals_a_plain_pass(engine: TorchEngine) -> None:
    fill(engine, images(5))
    engine.run()
    replayed = {name: read(engine, name) for name in (LOGITS, PROBABILITIES)}
    with engine._settings():
        results = {name: value.float().cpu().numpy() for name, value in engine._forward().items()}
    for name, value in replayed.items():
        # cuDNN may take another algorithm outside the capture.
        np.testing.assert_allclose(value, results[name], rtol=1e-2, atol=2e-2 if name == LOGITS else 1e-3)


def test_types_and_places_of_the_buffers(engine: TorchEngine) -> None:
    kinds = {"fp32": np.float32, "tf32": np.float32, "fp16": np.float16, "bf16": np.uint16}
    buffers: Any = engine.buffers
    assert all(isinstance(buffer, cupy.ndarray) for buffer in buffers.values())
    assert buffers["pixels"].dtype == kinds[engine.precision]
    assert buffers["pixels"].shape == SHAPES["pixels"]
    assert buffers["pixels"].flags.c_contiguous
    assert buffers[PROBABILITIES].dtype == buffers[LOGITS].dtype == np.float32
    places = {name: buffer.data.ptr for name, buffer in buffers.items()}
    assert places["pixels"] == engine._image.data_ptr()
    for seed in range(3):
        fill(engine, images(seed))
        engine.run()
    assert {name: buffer.data.ptr for name, buffer in buffers.items()} == places
    assert engine.buffers is buffers
    assert (engine.name, engine.device) == ("torch-cuda", "cuda")
    weights = [weight for weight in engine._network.buffers() if weight.is_floating_point()]
    assert {weight.dtype for weight in weights} == {DTYPES["cuda"][engine.precision]}


def test_a_pass_is_enqueued_and_the_call_returns(engine: TorchEngine) -> None:
    """Behind a long wait on the stream: run() returns before it is over, and the pass sees what was written before."""
    stream: Any = engine.stream
    fill(engine, images(1))
    engine.run()
    stream.synchronize()
    buffer: Any = engine.buffers["pixels"]
    host = images(2)
    if engine.precision == "bf16":
        values = cupy.asarray((host.view(np.uint32) >> 16).astype(np.uint16))  # cut off, not rounded
    else:
        values = cupy.asarray(host.astype(buffer.dtype))
    cupy.cuda.get_current_stream().synchronize()
    with torch.cuda.stream(engine._queue):
        torch.cuda._sleep(2_000_000_000)  # about a second
    with stream:
        buffer[...] = values  # a copy: nothing is compiled, which would take longer than the wait
    engine.run()
    assert not stream.done, "the call waited for the pass"
    assert np.abs(read(engine) - on_cpu(2)).max() <= 2 * dict(PRECISIONS)[engine.precision]


def test_global_settings_stay() -> None:
    backends = torch.backends

    def state() -> tuple[object, ...]:
        return (
            backends.cuda.matmul.fp32_precision,
            backends.cudnn.conv.fp32_precision,  # type: ignore[attr-defined]
            backends.cuda.matmul.allow_tf32,
            backends.cudnn.allow_tf32,
            backends.cudnn.benchmark,
            torch.get_float32_matmul_precision(),
            torch.cuda.current_stream(),
            torch.is_inference_mode_enabled(),
        )

    before = state()
    for precision, _ in PRECISIONS:
        with TorchEngine.from_module(
            tiny.Tiny(), SHAPES, activation="softmax", device="cuda", precision=precision
        ) as engine:
            assert state() == before
            engine.run()
        assert state() == before


def test_float32_is_float32_where_the_user_allows_tf32() -> None:
    module = torch.nn.Sequential(torch.nn.Conv2d(64, 512, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    values = torch.randn(8, 64, 32, 32)
    found: dict[str, Tensor] = {}
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        for precision in ("fp32", "tf32"):
            with TorchEngine.from_module(
                module,
                {"image": values.shape},
                activation="none",
                device="cuda",
                precision=precision,
            ) as engine:
                fill(engine, values.numpy())
                engine.run()
                found[precision] = torch.from_numpy(read(engine, LOGITS))
    finally:
        torch.set_float32_matmul_precision(before)
    with torch.inference_mode():
        exact = module.double()(values.double())
    errors = {name: float((value - exact).abs().max()) for name, value in found.items()}
    assert errors["fp32"] < 1e-5
    assert errors["tf32"] > 2 * errors["fp32"], "TF32 was not used"


def test_no_memory_and_a_smaller_batch_afterwards() -> None:
    largest = torch.cuda.get_device_properties(0).total_memory
    too_many = largest // (4 * 3 * tiny.HEIGHT * tiny.WIDTH) + 1
    with pytest.raises(OutOfMemoryError, match="smaller batch_size"):
        TorchEngine.from_module(
            tiny.Tiny().cuda(), {"pixels": (too_many, *tiny.INPUT.shape)}, activation="softmax", device="cuda"
        )
    with TorchEngine.from_module(tiny.Tiny(), SHAPES, activation="softmax", device="cuda") as engine:
        fill(engine, images(0))
        engine.run()
        assert np.abs(read(engine) - on_cpu(0)).max() <= 1e-5


def test_a_closed_engine_gives_its_memory_back() -> None:
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    shapes = {"pixels": (1 << 17, *tiny.INPUT.shape)}  # 755 MB
    engine = TorchEngine.from_module(tiny.Tiny(), shapes, activation="softmax", device="cuda")
    engine.run()
    assert torch.cuda.memory_allocated() > before + (700 << 20)
    engine.close()
    engine.close()
    assert torch.cuda.memory_allocated() <= before + (64 << 20), "more than what cuBLAS keeps for a stream"
    with pytest.raises(EngineError, match="closed"):
        engine.run()
