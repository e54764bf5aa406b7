"""ONNX Runtime's GPU providers without a GPU, on the fakes of tests/fakes/onnxruntime.py."""

from __future__ import annotations

import ctypes
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sightline import demo
from sightline.bindings import Engine, open_engine
from sightline.errors import EngineError, OutOfMemoryError, PrecisionError
from tests.bindings import product
from tests.bindings.product import WEIGHTS
from tests.fakes import cuda
from tests.fakes import cupy as fake_cupy
from tests.fakes import onnxruntime as fake_onnxruntime
from tests.fakes.cuda import State, Stream
from tests.fakes.onnxruntime import CUDA, TENSORRT, Machine, RealOptions, Session, entry

ENGINES = ("onnxruntime-cuda", "onnxruntime-tensorrt")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return fake_onnxruntime.install(monkeypatch)


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    return product.write(tmp_path / "bundle")


@pytest.mark.parametrize("name", ENGINES)
def test_a_pass_reads_and_writes_the_same_buffers(
    name: str, graph: Path, machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_engine(graph, name, shapes={"x": (4, 3)}, precision="tf32") as engine:
        assert (engine.name, engine.device, engine.precision) == (name, "cuda", "tf32")
        x, y, total = (engine.buffers[name] for name in ("x", "y", "total"))
        for seed in range(3):
            values = np.random.default_rng(seed).normal(size=(4, 3)).astype(np.float32)
            x.set(values)  # type: ignore[attr-defined]
            engine.run()
            expected: Any = values @ WEIGHTS
            np.testing.assert_allclose(y.get(), expected, rtol=1e-6)  # type: ignore[attr-defined]
            assert float(total) == pytest.approx(float(expected.sum()), rel=1e-5)
        for array in engine.buffers.values():
            assert isinstance(array, fake_cupy.ndarray)
            array.data.mem.check()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", ENGINES)
def test_a_pass_is_enqueued_on_our_stream_and_nobody_waits(name: str, graph: Path, machine: Machine) -> None:
    engine = open_engine(graph, name, shapes={"x": (4, 3)}, precision="tf32")
    (session,) = machine.sessions
    for options in session.options.values():
        assert options["user_compute_stream"] == str(engine.stream.ptr)
    assert session.graph is not None, "the CUDA graph is captured before the first pass that counts"
    passes, waits, synchronized = session.passes, session.waits, engine.stream.synchronized
    assert synchronized >= 1
    for _ in range(3):
        engine.run()
    assert (session.passes - passes, session.waits - waits) == (3, 0)
    assert engine.stream.synchronized == synchronized
    engine.close()
    assert engine.stream.synchronized > synchronized, "closed under a pass that is under way"


def test_no_pass_is_made_to_learn_shapes_that_the_graph_tells(machine: Machine) -> None:
    shapes = {"x": (3, 3, 224, 224)}
    with open_engine(demo.BUNDLE / "classifier.onnx", "onnxruntime-cuda", shapes=shapes) as engine:
        assert engine.buffers["probabilities"].shape == (3, 5)
        assert machine.sessions[0].passes == 1


def test_engines_share_the_stream_they_are_opened_under(graph: Path, machine: Machine) -> None:
    with Stream(non_blocking=True) as stream:
        first, second = (open_engine(graph, ENGINES[0], shapes={"x": (n, 3)}) for n in (1, 2))
    assert first.stream == second.stream == stream
    own = open_engine(graph, ENGINES[0], shapes={"x": (1, 3)}).stream
    assert own.ptr not in (0, stream.ptr)


@pytest.mark.parametrize(("precision", "tf32"), [("fp32", "0"), ("tf32", "1"), ("fp16", "0")])
def test_options_of_the_cuda_provider(precision: Any, tf32: str, graph: Path, machine: Machine) -> None:
    open_engine(graph, "onnxruntime-cuda", shapes={"x": (4, 3)}, precision=precision)
    options = machine.sessions[0].options
    assert list(options) == [CUDA]
    assert options[CUDA]["use_tf32"] == tf32
    assert options[CUDA]["arena_extend_strategy"] == "kSameAsRequested"
    assert options[CUDA]["cudnn_conv_algo_search"] == "EXHAUSTIVE"


@pytest.mark.parametrize(
    ("precision", "fp16", "int8"), [("tf32", False, False), ("fp16", True, False), ("int8", False, True)]
)
def test_options_of_the_tensorrt_provider(
    precision: Any, fp16: bool, int8: bool, graph: Path, machine: Machine
) -> None:
    open_engine(graph, "onnxruntime-tensorrt", shapes={"x": (4, 3)}, precision=precision)
    options = machine.sessions[0].options
    assert list(options) == [TENSORRT, CUDA], "CUDA takes what TensorRT lacks"
    assert (options[TENSORRT]["trt_fp16_enable"], options[TENSORRT]["trt_int8_enable"]) == (str(fp16), str(int8))
    assert {options[TENSORRT][f"trt_profile_{bound}_shapes"] for bound in ("min", "opt", "max")} == {"x:4x3"}
    assert "trt_engine_cache_enable" not in options[TENSORRT], "no cache folder was given"


def test_float32_on_tensorrt_needs_tf32_off(graph: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PrecisionError, match=r"TF32.*NVIDIA_TF32_OVERRIDE=0"):
        open_engine(graph, "onnxruntime-tensorrt", shapes={"x": (1, 3)})
    monkeypatch.setattr(State, "compute_capability", "75")
    open_engine(graph, "onnxruntime-tensorrt", shapes={"x": (1, 3)})
    monkeypatch.setattr(State, "compute_capability", "90")
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    open_engine(graph, "onnxruntime-tensorrt", shapes={"x": (1, 3)})


@pytest.mark.parametrize("name", ENGINES)
def test_a_network_that_cannot_be_captured_runs_without_a_graph(
    name: str, graph: Path, machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "sightline")
    machine.captures = False
    with open_engine(graph, name, shapes={"x": (4, 3)}, precision="tf32") as engine:
        engine.buffers["x"].fill(1)
        engine.run()
        np.testing.assert_allclose(engine.buffers["y"].get()[0], [9, 12])  # type: ignore[attr-defined]
    assert "no CUDA graph" in caplog.text
    assert "graph capture feature" in caplog.text


@pytest.mark.parametrize("name", ENGINES)
def test_a_capture_that_fails_in_the_first_pass_is_given_up(
    name: str, graph: Path, machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    """An operator that waits for the GPU: ONNX Runtime finds that out no sooner."""
    caplog.set_level(logging.INFO, "sightline")
    machine.capturing = "CUDA failure 900: operation not permitted when stream is capturing"
    with open_engine(graph, name, shapes={"x": (4, 3)}, precision="tf32") as engine:
        assert [session.captures for session in machine.sessions] == [True, False]
        engine.buffers["x"].fill(1)
        engine.run()
        np.testing.assert_allclose(engine.buffers["y"].get()[0], [9, 12])  # type: ignore[attr-defined]
    assert "no CUDA graph" in caplog.text
    assert "operation not permitted" in caplog.text


def test_nothing_is_captured_while_another_thread_has_an_engine(
    graph: Path, machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "sightline")

    def opened() -> Engine:
        return open_engine(graph, "onnxruntime-cuda", shapes={"x": (4, 3)})

    with ThreadPoolExecutor(1) as other:
        theirs = other.submit(opened).result()
        with opened():
            pass
        assert "another thread has an engine" in caplog.text
        other.submit(theirs.close).result()
        with opened() as ours, opened():  # two of one thread, as an explainer has them
            other.submit(ours.run).result()  # which captures there once more
            with opened():
                pass
    assert [session.captures for session in machine.sessions] == [True, False, True, True, False]


@pytest.mark.parametrize(
    ("name", "loads", "said"),
    [
        ("onnxruntime-cuda", (), "CUDAExecutionProvider and fell back to CPUExecutionProvider: .*cudnn"),
        (
            "onnxruntime-tensorrt",
            (CUDA,),
            "TensorrtExecutionProvider and fell back to CUDAEx.*nvinfer.*tensorrt-cu13<11",
        ),
    ],
)
def test_a_provider_that_did_not_load_is_an_error(
    name: str, loads: tuple[str, ...], said: str, graph: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(library: str) -> None:
        raise OSError(f"{library}: cannot open shared object file")

    machine.loads = loads
    with monkeypatch.context() as patched:
        patched.setattr(ctypes, "CDLL", missing)
        with pytest.raises(EngineError, match=said):
            open_engine(graph, name, shapes={"x": (1, 3)}, precision="tf32")


def test_a_graph_that_does_not_open_is_no_matter_of_capture(graph: Path, machine: Machine) -> None:
    graph.write_bytes(b"torn")
    with pytest.raises(EngineError, match=r"cannot open .*product\.onnx"):
        open_engine(graph, "onnxruntime-cuda", shapes={"x": (1, 3)})


def test_no_room_for_the_buffers(graph: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(State, "memory", State.used + 8)
    with pytest.raises(OutOfMemoryError, match="smaller batch_size"):
        open_engine(graph, "onnxruntime-cuda", shapes={"x": (1, 3)})


@pytest.mark.parametrize(
    "message",
    [
        "CUDA failure 2: out of memory ; GPU=0",
        "Failed to allocate memory for requested buffer of size 1073741824",
        "Available memory of 10 is smaller than requested bytes of 20",
        "CUDNN failure 4000: CUDNN_STATUS_ALLOC_FAILED",
    ],
)
def test_no_room_for_a_pass(message: str, graph: Path, machine: Machine) -> None:
    engine = open_engine(graph, "onnxruntime-cuda", shapes={"x": (1, 3)})
    machine.failure = message
    with pytest.raises(OutOfMemoryError, match="smaller batch_size"):
        engine.run()
    with pytest.raises(OutOfMemoryError):
        open_engine(graph, "onnxruntime-cuda", shapes={"x": (1, 3)})


def test_no_room_for_the_weights(graph: Path, machine: Machine) -> None:
    machine.opening = "Failed to allocate memory for requested buffer of size 1"
    with pytest.raises(OutOfMemoryError, match=r"no room for .*product\.onnx"):
        open_engine(graph, "onnxruntime-cuda", shapes={"x": (1, 3)})


def test_another_failure_of_a_pass(graph: Path, machine: Machine) -> None:
    engine = open_engine(graph, "onnxruntime-cuda", shapes={"x": (1, 3)})
    machine.failure = "CUDA failure 700: an illegal memory access was encountered"
    with pytest.raises(EngineError, match="illegal memory access") as raised:
        engine.run()
    assert not isinstance(raised.value, OutOfMemoryError)


def test_an_input_that_would_be_copied_once_is_refused(graph: Path, machine: Machine) -> None:
    machine.on_cpu = ("x",)
    with pytest.raises(EngineError, match=r"would read x .* on the CPU"):
        open_engine(graph, "onnxruntime-cuda", shapes={"x": (1, 3)})


def test_a_closed_engine_says_so(graph: Path, machine: Machine) -> None:
    engine = open_engine(graph, "onnxruntime-cuda", shapes={"x": (1, 3)})
    engine.close()
    engine.close()
    assert not engine.buffers
    with pytest.raises(EngineError, match="closed"):
        engine.run()


def opened(path: Path, cache: Path, machine: Machine, shape: tuple[int, int] = (1, 3), precision: Any = "tf32") -> Path:
    """The folder that an engine was kept in."""
    open_engine(path, "onnxruntime-tensorrt", shapes={"x": shape}, precision=precision, cache=cache).close()
    options = machine.sessions[-1].options[TENSORRT]
    assert (options["trt_engine_cache_enable"], options["trt_timing_cache_enable"]) == ("True", "True")
    return Path(options["trt_engine_cache_path"])


def test_what_was_built_is_kept_for_its_weights_shapes_and_precision(
    graph: Path, machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    folders = [opened(graph, cache, machine) for _ in range(2)]
    assert folders[0] == folders[1]
    assert (folders[0] / "graph.engine").is_file()
    others = [
        opened(product.write(tmp_path / "retrained", 2 * WEIGHTS), cache, machine),
        opened(graph, cache, machine, shape=(2, 3)),
        opened(graph, cache, machine, precision="fp16"),
    ]
    monkeypatch.setattr(cuda.runtime, "getDeviceProperties", lambda device: {"name": b"A larger GPU"})
    others.append(opened(graph, cache, machine))  # of the same architecture, perhaps
    assert len({folders[0], *others}) == 5


def test_what_a_killed_build_left_is_built_again(graph: Path, machine: Machine, tmp_path: Path) -> None:
    folder = opened(graph, tmp_path, machine)
    (folder / "complete.json").unlink()
    (folder / "torn.engine").write_bytes(b"")
    assert opened(graph, tmp_path, machine) == folder
    assert sorted(path.name for path in folder.iterdir()) == ["complete.json", "graph.engine"]


def test_what_no_longer_opens_is_built_again(
    graph: Path, machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = opened(graph, tmp_path, machine)
    (folder / "graph.engine").write_bytes(b"damaged")
    real = Session.__init__

    def init(self: Session, *arguments: Any, **options: Any) -> None:
        machine.damaged = {str(folder)} if (folder / "graph.engine").is_file() else set()
        real(self, *arguments, **options)

    monkeypatch.setattr(Session, "__init__", init)
    assert opened(graph, tmp_path, machine) == folder
    assert (folder / "graph.engine").read_bytes() == b"built"
    assert "building it again" in caplog.text


def test_no_room_is_no_reason_to_build_again(graph: Path, machine: Machine, tmp_path: Path) -> None:
    folder = opened(graph, tmp_path, machine)
    count = len(machine.sessions)
    machine.failure = "out of memory"
    with pytest.raises(OutOfMemoryError):
        opened(graph, tmp_path, machine)
    assert len(machine.sessions) == count + 1
    assert (folder / "complete.json").is_file()


def test_options_are_those_that_onnx_runtime_takes() -> None:
    """The run options exist under these names in the installed version, whatever its build."""
    options = RealOptions()
    for key, value in (("disable_synchronize_execution_providers", "1"), ("gpu_graph_id", "-1")):
        options.add_run_config_entry(key, value)
        assert options.get_run_config_entry(key) == value
    assert entry(RealOptions(), "gpu_graph_id") is None
