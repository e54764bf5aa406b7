"""torch as an engine, on the CPU; what a GPU adds is tested in tests/gpu/test_torch.py."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from sightline.bindings import torch as binding
from sightline.bindings.engine import Precision
from sightline.bindings.torch import TorchEngine, open_cpu, open_cuda
from sightline.bundle import LOGITS, PROBABILITIES, Activation
from sightline.errors import EngineError, OutOfMemoryError, PrecisionError
from sightline.exporter.program import PROGRAM, save_program
from tests.runtime import tiny
from tests.zoo import FAMILIES

SIDE = 96
BATCH = 3
SHAPES = {"pixels": (BATCH, *tiny.INPUT.shape)}


def noise(*shape: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


@dataclass(frozen=True)
class Saved:
    module: nn.Module
    path: Path


@pytest.fixture(
    scope="module", params=["resnet18", "mobilenet_v3_small", "densenet121", "efficientnet_b0", "convnext_tiny"]
)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Saved]:
    """One at a time."""
    module = next(each for each in FAMILIES if each.name == request.param).build()
    folder = tmp_path_factory.mktemp(request.param)
    save_program(module, folder, example_shape=(3, SIDE, SIDE), activation="softmax", image="x")
    yield Saved(module, folder / PROGRAM)
    (folder / PROGRAM).unlink()


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny network's."""
    folder = tmp_path_factory.mktemp("tiny")
    save_program(tiny.Tiny(), folder, example_shape=tiny.INPUT.shape, activation="softmax", image="pixels")
    return folder / PROGRAM


def expected(module: nn.Module, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    with torch.inference_mode():
        probabilities: npt.NDArray[np.float32] = module.eval()(torch.from_numpy(images)).softmax(1).numpy()
    return probabilities


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("bf16", 0.05)])
def test_it_computes_what_the_module_computes(family: Saved, precision: Precision, tolerance: float) -> None:
    images = noise(BATCH, 3, SIDE, SIDE)
    wanted = expected(family.module, images)
    with open_cpu(family.path, {"x": images.shape}, precision=precision) as engine:
        engine.buffers["x"][:] = images
        engine.run()
        found = engine.buffers[PROBABILITIES]
        assert np.abs(found - wanted).max() <= tolerance
        assert found.dtype == engine.buffers[LOGITS].dtype == np.float32
        np.testing.assert_allclose(found.sum(1), 1, atol=1e-6)  # a softmax in bfloat16 is off by 1e-3
        if precision == "bf16":
            assert np.abs(found - wanted).max() > 1e-6, "computed in float32"
            weights = [weight for weight in engine._network.buffers() if weight.is_floating_point()]
            assert {weight.dtype for weight in weights} == {torch.bfloat16}


def test_norms_behind_convolutions_are_folded(family: Saved) -> None:
    with open_cpu(family.path, {"x": (1, 3, SIDE, SIDE)}) as engine:
        norms = engine._network.graph.find_nodes(op="call_function", target=torch.ops.aten.batch_norm.default)
        # In a DenseNet most norms stand before their convolution.
        assert all(norm.args[0].target is not torch.ops.aten.conv2d.default for norm in norms)
        assert len(norms) == (62 if "densenet" in str(family.path) else 0)


def test_it_computes_what_onnx_runtime_computes(program: Path, tmp_path: Path) -> None:
    onnx.save(tiny._classifier(tiny.Tiny(), tiny.INPUT), tmp_path / "classifier.onnx")
    images = noise(*SHAPES["pixels"])
    session = onnxruntime.InferenceSession(tmp_path / "classifier.onnx", providers=["CPUExecutionProvider"])
    logits, probabilities = session.run([LOGITS, PROBABILITIES], {"pixels": images})
    opened = open_cpu(program, SHAPES)
    of_module = TorchEngine.from_module(tiny.Tiny(), SHAPES, activation="softmax")
    for engine in (opened, of_module):
        engine.buffers["pixels"][:] = images
        engine.run()
        np.testing.assert_allclose(engine.buffers[LOGITS], logits, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(engine.buffers[PROBABILITIES], probabilities, atol=1e-6)


def test_the_buffers_are_bound_once_and_are_torch_memory(program: Path) -> None:
    with open_cpu(program, SHAPES) as engine:
        places = {name: buffer.ctypes.data for name, buffer in engine.buffers.items()}
        seen = []
        for seed in range(3):
            engine.buffers["pixels"][:] = tiny.image(seed)
            engine.run()
            seen.append(engine.buffers[PROBABILITIES].copy())
        assert {name: buffer.ctypes.data for name, buffer in engine.buffers.items()} == places
        assert engine._image.data_ptr() == places["pixels"]
        assert not np.array_equal(seen[0], seen[1])
        np.testing.assert_allclose(seen[2], expected(tiny.Tiny(), tiny.image(2)[None]).repeat(BATCH, 0), atol=1e-6)


def test_what_it_says_of_itself(program: Path) -> None:
    with open_cpu(program, SHAPES, precision="bf16") as engine:
        assert (engine.name, engine.device, engine.precision, engine.stream) == ("torch", "cpu", "bf16", None)
        assert engine.buffers["pixels"].shape == SHAPES["pixels"]
        assert engine.buffers["pixels"].dtype == np.float32


@pytest.mark.parametrize("size", [1, 2, 7])
def test_any_batch_size(program: Path, size: int) -> None:
    images = noise(size, *tiny.INPUT.shape)
    with open_cpu(program, {"pixels": images.shape}, outputs=[PROBABILITIES]) as engine:
        assert set(engine.buffers) == {"pixels", PROBABILITIES}
        engine.buffers["pixels"][:] = images
        engine.run()
        np.testing.assert_allclose(engine.buffers[PROBABILITIES], expected(tiny.Tiny(), images), atol=1e-6)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "none"])
def test_activations_of_a_module(activation: Activation) -> None:
    with TorchEngine.from_module(tiny.Tiny(), SHAPES, activation=activation) as engine:
        engine.buffers["pixels"][:] = noise(*SHAPES["pixels"])
        engine.run()
        logits = torch.from_numpy(engine.buffers[LOGITS])
        wanted = {"softmax": logits.softmax(1), "sigmoid": logits.sigmoid(), "none": logits}[activation]
        np.testing.assert_allclose(engine.buffers[PROBABILITIES], wanted, atol=1e-6)


class Stubborn(nn.Module):
    """Hard-wires types, holds a constant, shares one weight between two convolutions, and reads one beside its norm."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 3, 3, padding="same", bias=False)
        self.norm = nn.BatchNorm2d(3, affine=False)
        self.norm.running_mean = torch.tensor([0.1, -0.2, 0.3])
        self.norm.running_var = torch.tensor([0.5, 1.5, 2.0])
        self.head = nn.Linear(3, 4)
        self.scale = torch.tensor([1.0, 2.0, 3.0, 4.0])

    def forward(self, image: Tensor) -> Tensor:
        maps = self.conv(self.conv(image.to(torch.float32)))
        maps = (self.norm(maps) + maps).relu()
        maps = self.norm(self.conv(maps))
        logits: Tensor = self.head(maps.mean((2, 3)).float()) * self.scale
        return logits + torch.zeros(4, dtype=torch.float32)


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-6), ("bf16", 0.02)])
def test_hard_wired_types_and_shared_weights(precision: Precision, tolerance: float) -> None:
    module = Stubborn().eval()
    images = noise(2, 3, 16, 16)
    with TorchEngine.from_module(module, {"image": images.shape}, activation="softmax", precision=precision) as engine:
        engine.buffers["image"][:] = images
        engine.run()
        np.testing.assert_allclose(engine.buffers[PROBABILITIES], expected(module, images), atol=tolerance)
        np.testing.assert_allclose(engine.buffers[PROBABILITIES].sum(1), 1, atol=1e-6)  # the softmax is in float32


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_module_stays_as_it_was(precision: Precision) -> None:
    module = tiny.Tiny()
    module.train()
    module.late.eval()
    before = {name: (value.data_ptr(), value.stride(), value.clone()) for name, value in module.state_dict().items()}
    with TorchEngine.from_module(module, SHAPES, activation="softmax", precision=precision) as engine:
        engine.run()
        weights = {weight.data_ptr() for weight in engine._network.buffers()}
    assert module.training
    assert module.conv1.training
    assert not module.late.training
    assert all(parameter.requires_grad for parameter in module.parameters())
    for name, value in module.state_dict().items():
        place, strides, values = before[name]
        assert (value.data_ptr(), value.stride()) == (place, strides)
        assert torch.equal(value, values)
        assert place not in weights


def state() -> tuple[object, ...]:
    backends = torch.backends
    return (
        torch.get_num_threads(),
        torch.is_inference_mode_enabled(),
        torch.is_grad_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.get_default_dtype(),
        backends.mkldnn.matmul.fp32_precision,  # type: ignore[attr-defined]
        backends.mkldnn.conv.fp32_precision,  # type: ignore[attr-defined]
        backends.cuda.matmul.fp32_precision,
        backends.cudnn.conv.fp32_precision,  # type: ignore[attr-defined]
        backends.cudnn.benchmark,
    )


def test_global_settings_are_set_for_a_pass_and_put_back(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_float32_matmul_precision("medium")  # the user's: matrix products in bfloat16
    try:
        before = state()
        engine = open_cpu(program, SHAPES, threads=1 if torch.get_num_threads() > 1 else 2)
        assert state() == before
        during: list[tuple[object, ...]] = []
        forward = engine._network.forward

        def watched(image: Tensor) -> object:
            during.append(state())
            return forward(image)

        monkeypatch.setattr(engine._network, "forward", watched)
        with torch.autocast("cpu"):
            engine.run()
        assert state() == before
        assert torch.get_float32_matmul_precision() == "medium"
        threads, inference, gradients, autocast, _, matmul, *_ = during[0]
        assert threads != before[0]
        assert (inference, gradients, autocast, matmul) == (True, False, False, "ieee")

        monkeypatch.setattr(engine, "_network", None)  # a pass that fails
        with pytest.raises(EngineError, match="failed in a pass"):
            engine.run()
        assert state() == before
    finally:
        torch.set_float32_matmul_precision("highest")


def test_it_runs_on_another_thread(program: Path) -> None:
    with open_cpu(program, SHAPES) as engine:
        engine.buffers["pixels"][:] = noise(*SHAPES["pixels"])
        thread = threading.Thread(target=engine.run)
        thread.start()
        thread.join()
        wanted = expected(tiny.Tiny(), noise(*SHAPES["pixels"]))
        np.testing.assert_allclose(engine.buffers[PROBABILITIES], wanted, atol=1e-6)


def test_a_closed_engine(program: Path) -> None:
    gc.disable()  # its weights go at once, not when the collector comes round
    try:
        with open_cpu(program, SHAPES) as engine:
            weights = [weakref.ref(weight) for weight in (engine._image, *engine._network.buffers())]
        assert len(weights) == 7
        assert not any(weight() is not None for weight in weights)
    finally:
        gc.enable()
    with pytest.raises(EngineError, match="closed"):
        engine.run()
    engine.close()


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        ({"image": (1, *tiny.INPUT.shape)}, "'pixels', not 'image'"),
        ({}, "'pixels'"),
        ({"pixels": (1, 3, 8, 8)}, "not \\[1, 3, 8, 8\\]"),
        ({"pixels": (3, 8, 8)}, "not \\[3, 8, 8\\]"),
    ],
)
def test_wrong_shapes(program: Path, shapes: dict[str, tuple[int, ...]], said: str) -> None:
    with pytest.raises(EngineError, match=said):
        open_cpu(program, shapes)


def test_what_cannot_be_opened(program: Path, tmp_path: Path) -> None:
    (tmp_path / PROGRAM).write_bytes(b"no program")
    for path in (tmp_path / PROGRAM, tmp_path / "missing.pt2"):
        with pytest.raises(EngineError, match="from_module"):
            open_cpu(path, SHAPES)
    with pytest.raises(EngineError, match="no output rivals"):
        open_cpu(program, SHAPES, outputs=["rivals"])
    with pytest.raises(PrecisionError, match="choose fp32 or bf16"):
        open_cpu(program, SHAPES, precision="fp16")
    with pytest.raises(PrecisionError, match="int8"):
        open_cuda(program, SHAPES, precision="int8")
    with pytest.raises(EngineError, match="could not express Tiny"):
        TorchEngine.from_module(tiny.Tiny(), {"image": (1, 5)}, activation="softmax")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu(program: Path) -> None:
    with pytest.raises(EngineError, match="no GPU"):
        open_cuda(program, SHAPES)


def test_too_old_a_torch(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binding, "OLDEST", (99, 0))
    with pytest.raises(EngineError, match="too old"):
        open_cpu(program, SHAPES)


def test_no_memory(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OutOfMemoryError, match="smaller batch_size"):
        open_cpu(program, {"pixels": (1 << 50, *tiny.INPUT.shape)})  # more than an address space

    for error in (
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        MemoryError("bad_alloc"),
    ):
        with open_cpu(program, SHAPES) as engine:

            def fail(image: Tensor, error: Exception = error) -> None:
                raise error

            monkeypatch.setattr(engine._network, "forward", fail)
            with pytest.raises(OutOfMemoryError, match="smaller batch_size"):
                engine.run()
