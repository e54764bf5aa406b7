"""The TensorRT binding, against fakes of TensorRT 10 and 11, PyCUDA and CuPy that hold their rules."""

from __future__ import annotations

import gc
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from sightline import demo
from sightline.errors import EngineError, MissingPackageError, OutOfMemoryError, PrecisionError
from tests.fakes import cuda, cupy, pycuda, tensorrt

ROOT = Path(__file__).parents[2]
CLASSIFIER, ATTRIBUTION = demo.BUNDLE / "classifier.onnx", demo.BUNDLE / "attribution.onnx"
BATCH = {"x": (4, 3, 224, 224)}
Open = Callable[..., Any]


def install(monkeypatch: pytest.MonkeyPatch, version: str = "10.16.1.11") -> None:
    cuda.State.reset()
    tensorrt.use(version)
    for name, module in {**pycuda.modules(), "cupy": cupy, "tensorrt": tensorrt}.items():
        monkeypatch.setitem(sys.modules, name, module)


@pytest.fixture(params=["10.16.1.11", "11.4.0.1"])
def fakes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    install(monkeypatch, request.param)
    yield
    for name in [name for name in sys.modules if name.startswith("sightline.bindings.tensorrt")]:
        del sys.modules[name]  # they hold the fakes
    assert not pycuda.State.stack(), "a context was left on the stack of this thread: PyCUDA aborts when it ends"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the binding keeps what it builds, when it is given the folder above."""
    return tmp_path / "tensorrt"


@pytest.fixture
def open_(fakes: None, folder: Path) -> Open:
    binding = import_module("sightline.bindings.tensorrt")
    return lambda path, shapes, **options: binding.open(path, shapes, **{"cache": folder.parent, **options})


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """x (N×3) -> y = x·W (N×2) and z = y + 1, its weights in a file of their own."""
    return save(
        tmp_path / "product.onnx",
        [helper.make_node("MatMul", ["x", "w"], ["y"], "product"), helper.make_node("Add", ["y", "one"], ["z"], "sum")],
        {"x": (TensorProto.FLOAT, ["N", 3])},
        {"y": (TensorProto.FLOAT, ["N", 2]), "z": (TensorProto.FLOAT, ["N", 2])},
        {"w": np.array([[1, 2], [3, 4], [5, 6]], np.float32), "one": np.ones(2, np.float32)},
    )


def save(path: Path, nodes: Any, inputs: Any, outputs: Any, weights: Any, external: bool = True) -> Path:
    ins, outs = ([helper.make_tensor_value_info(n, *v) for n, v in part.items()] for part in (inputs, outputs))
    initializers = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    opset = [helper.make_opsetid("", 21)]
    model = helper.make_model(
        helper.make_graph(nodes, "g", ins, outs, initializers), opset_imports=opset, ir_version=10
    )
    onnx.save(model, path, save_as_external_data=external, location="weights.bin", size_threshold=0)
    return path


def plans(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.plan"))


def reference(path: Path, feed: dict[str, Any]) -> dict[str, Any]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, feed), strict=True))


# What it computes


def test_passes_agree_with_onnx_runtime(open_: Open) -> None:
    with open_(CLASSIFIER, BATCH) as engine:
        assert (engine.name, engine.device, engine.precision) == ("tensorrt", "cuda", "fp32")
        assert set(engine.buffers) == {"x", "logits", "probabilities"}
        x = engine.buffers["x"]
        assert isinstance(x, cupy.ndarray)
        assert not x.get().any(), "the memory is cleared before the first pass reads it"
        assert np.isfinite(engine.buffers["logits"].get()).all()
        for seed in range(3):
            image = np.random.default_rng(seed).normal(size=BATCH["x"]).astype(np.float32)
            x.set(image, stream=engine.stream)
            engine.run()
            for name, value in reference(CLASSIFIER, {"x": image}).items():
                np.testing.assert_allclose(engine.buffers[name].get(stream=engine.stream), value, rtol=1e-5, atol=1e-6)


def test_the_attribution_pass_agrees_with_onnx_runtime(open_: Open) -> None:
    image = np.random.default_rng(0).normal(size=(1, 3, 224, 224)).astype(np.float32)
    feed = {
        "x": image,
        "target": np.array([3]),
        "seed": np.zeros((1, 5), np.float32),
        "rivals": np.array([1], np.float32),
    }
    with open_(ATTRIBUTION, {}) as engine:
        assert engine.buffers["target"].dtype == np.int64
        for name, value in feed.items():
            engine.buffers[name].set(value, stream=engine.stream)
        engine.run()
        wanted = reference(ATTRIBUTION, feed)
        assert set(engine.buffers) == set(feed) | set(wanted)
        for name, value in wanted.items():
            np.testing.assert_allclose(engine.buffers[name].get(), value, rtol=1e-4, atol=1e-6)


def test_only_the_outputs_asked_for_are_computed(open_: Open) -> None:
    with open_(CLASSIFIER, BATCH, outputs=["probabilities"]) as engine:
        assert set(engine.buffers) == {"x", "probabilities"}


@pytest.mark.parametrize(
    ("kind", "precision", "dtype"), [("FLOAT16", "fp16", np.float16), ("BFLOAT16", "bf16", np.uint16)]
)
def test_types_of_the_graph_are_those_of_the_buffers(
    open_: Open, tmp_path: Path, kind: str, precision: str, dtype: Any
) -> None:
    to = TensorProto.DataType.Value(kind)
    path = save(
        tmp_path / "cast.onnx",
        [helper.make_node("Cast", ["x"], ["y"], to=to), helper.make_node("Identity", ["n"], ["m"])],
        {"x": (TensorProto.FLOAT, ["N", 2]), "n": (TensorProto.INT32, [1])},
        {"y": (to, ["N", 2]), "m": (TensorProto.INT32, [1])},
        {},
        external=False,
    )
    with open_(path, {"x": (2, 2)}, precision=precision) as engine:
        assert (engine.buffers["y"].dtype, engine.buffers["m"].dtype) == (dtype, np.int32)
        values = np.array([[1, -2], [0.3, 1e4]], np.float32)
        engine.buffers["x"].set(values)
        engine.run()
        found = engine.buffers["y"].get()
        exact = found.view(ml_dtypes.bfloat16) if kind == "BFLOAT16" else found
        np.testing.assert_allclose(exact.astype(np.float32), values, rtol=1e-2)


# What it asks of TensorRT


@pytest.mark.parametrize(("precision", "allowed"), [("fp32", False), ("tf32", True)])
def test_tensorfloat_32_is_a_switch_of_the_builder(open_: Open, graph: Path, precision: str, allowed: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_(graph, {"x": (2, 3)}, precision=precision).close()
    config = tensorrt.State.last_config
    assert config is not None
    assert (tensorrt.BuilderFlag.TF32 in config.flags) == allowed
    assert config.pools[tensorrt.MemoryPoolType.WORKSPACE] == 2 << 30, "a quarter of the fake GPU"
    assert [profile.shapes for profile in config.profiles] == [{"x": ((2, 3),) * 3}]


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8"])
def test_a_float32_file_is_not_called_anything_else(open_: Open, graph: Path, precision: str) -> None:
    with pytest.raises(PrecisionError, match=rf"product\.onnx is computed in {precision}.*variant for {precision}"):
        open_(graph, {"x": (2, 3)}, precision=precision)


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_a_gpu_without_the_precision_says_so(open_: Open, graph: Path, precision: str) -> None:
    cuda.State.compute_capability = "75"
    with pytest.raises(PrecisionError, match=rf"{precision} needs compute capability 8\.0; Fake GPU has 7\.5.*fp16"):
        open_(graph, {"x": (2, 3)}, precision=precision)


def test_an_unknown_precision_lists_the_known(open_: Open, graph: Path) -> None:
    with pytest.raises(EngineError, match=r"'fp4'.*fp32, tf32, fp16, bf16, int8"):
        open_(graph, {"x": (2, 3)}, precision="fp4")


@pytest.mark.parametrize(
    ("shapes", "outputs", "said"),
    [
        ({}, None, r"'x' .* \[-1, 3\]"),
        ({"x": (2, 3, 1)}, None, r"\[2, 3, 1\]"),
        ({"x": (2, 4)}, None, r"\[2, 4\]"),
        ({"x": (0, 3)}, None, r"\[0, 3\]"),
        ({"x": (2, 3), "z": (1,)}, None, "has no z"),
        ({"x": (2, 3)}, ["probabilities"], "has no probabilities"),
    ],
)
def test_what_does_not_fit_the_graph_is_an_error(
    open_: Open, graph: Path, shapes: Any, outputs: Any, said: str
) -> None:
    with pytest.raises(EngineError, match=said):
        open_(graph, shapes, outputs=outputs)


@pytest.mark.parametrize("damage", ["truncated", "no weights", "absent", "text"])
def test_a_damaged_graph_is_an_error_that_names_it(open_: Open, graph: Path, damage: str) -> None:
    if damage == "truncated":
        graph.write_bytes(graph.read_bytes()[:50])
    elif damage == "text":
        graph.write_text("hello")
    else:
        (graph if damage == "absent" else graph.with_name("weights.bin")).unlink()
    with pytest.raises(EngineError, match=r"(product\.onnx|weights\.bin).*xport the bundle again"):
        open_(graph, {"x": (1, 3)})


def test_an_operator_that_tensorrt_lacks_is_named_with_its_node(open_: Open, graph: Path) -> None:
    tensorrt.State.unsupported = {"MatMul", "Add"}
    with pytest.raises(EngineError, match=r"'product' \(MatMul\): no importer .*; node 'sum' \(Add\).*another engine"):
        open_(graph, {"x": (1, 3)})
    assert not pycuda.State.alive


def test_a_failed_build_gives_the_reason_of_tensorrt(open_: Open, graph: Path, folder: Path) -> None:
    tensorrt.State.build_error = "Error Code 10: Could not find any implementation for node product."
    with pytest.raises(EngineError, match=r"cannot build .*product\.onnx: Error Code 10: .*another engine|onnxruntime"):
        open_(graph, {"x": (1, 3)})
    assert not plans(folder)
    tensorrt.State.build_error = "Error Code 2: OutOfMemory (no further information)"
    with pytest.raises(OutOfMemoryError, match="smaller batch_size"):
        open_(graph, {"x": (1, 3)})


@pytest.mark.parametrize(("host", "said"), [({"x"}, "'x'.*decides over shapes"), ({"z"}, "'z'.*decides over shapes")])
def test_a_tensor_that_must_lie_on_the_host_is_an_error(open_: Open, graph: Path, host: set[str], said: str) -> None:
    tensorrt.State.host_tensors = host
    with pytest.raises(EngineError, match=said):
        open_(graph, {"x": (1, 3)})
    assert not pycuda.State.alive


# Passes, memory and lifetimes


def test_a_thousand_passes_allocate_nothing(open_: Open, graph: Path) -> None:
    with open_(graph, {"x": (2, 3)}) as engine:
        before = pycuda.State.allocations, cuda.State.used
        addresses = {name: buffer.data.ptr for name, buffer in engine.buffers.items()}
        for step in range(1000):
            engine.buffers["x"].fill(step)
            engine.run()
        assert engine.buffers["y"].get()[1].tolist() == [999 * 9, 999 * 12]
        assert (pycuda.State.allocations, cuda.State.used) == before
        assert addresses == {name: buffer.data.ptr for name, buffer in engine.buffers.items()}


def test_passes_replay_one_graph_on_the_stream_of_the_engine(
    open_: Open, graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin, captured = cuda.Stream.begin_capture, []

    def begun(stream: Any, mode: int | None = None) -> None:
        captured.append(stream.ptr)
        begin(stream, mode)

    monkeypatch.setattr(cuda.Stream, "begin_capture", begun)
    with open_(graph, {"x": (2, 3)}) as engine:
        tensorrt.State.pass_error = "a graph needs no enqueue"
        assert engine.stream.ptr not in captured  # which would take CUDA's default stream from everybody
        engine.run()
        engine.stream.begin_capture()  # a pass goes to this stream and no other
        engine.buffers["x"].fill(1)  # on the null stream: at once
        engine.run()
        assert not engine.buffers["y"].get(stream=cuda.Stream.null).any()
        engine.stream.end_capture().launch(engine.stream)
        assert engine.buffers["y"].get().any()


def test_a_pass_that_cannot_be_captured_is_enqueued_each_time(
    open_: Open, graph: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tensorrt.State.capturable = False
    with open_(graph, {"x": (1, 3)}) as engine:
        assert "without a CUDA graph" in caplog.text
        assert "not permitted" in caplog.text
        engine.buffers["x"].fill(1)
        engine.run()
        assert engine.buffers["y"].get().tolist() == [[9, 12]]
        tensorrt.State.pass_error = "Error Code 1: Cuda Runtime (an illegal memory access was encountered)"
        with pytest.raises(EngineError, match=r"failed in a pass of .*illegal memory access"):
            engine.run()
        tensorrt.State.pass_error = "Error Code 1: Cuda Runtime (out of memory)"
        with pytest.raises(OutOfMemoryError, match="batch_size"):
            engine.run()


def test_a_capture_that_breaks_is_no_reason_to_stop(
    open_: Open, graph: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def end_capture(stream: Any) -> Any:
        del cuda.Stream._captures[stream.ptr]
        raise cuda.CUDARuntimeError("cudaErrorStreamCaptureInvalidated")

    monkeypatch.setattr(cuda.Stream, "end_capture", end_capture)
    with open_(graph, {"x": (1, 3)}) as engine:
        assert "cudaErrorStreamCaptureInvalidated" in caplog.text
        engine.buffers["x"].fill(1)
        engine.run()
        assert engine.buffers["y"].get().tolist() == [[9, 12]]


@pytest.mark.parametrize(
    ("status", "kind"),
    [("cudaErrorMemoryAllocation: out of memory", OutOfMemoryError), ("cudaErrorLaunch", EngineError)],
)
def test_a_graph_that_does_not_launch_is_an_error(
    open_: Open, graph: Path, monkeypatch: pytest.MonkeyPatch, status: str, kind: type[EngineError]
) -> None:
    def launch(graph: Any, stream: Any) -> None:
        raise cuda.CUDARuntimeError(status)

    with open_(graph, {"x": (1, 3)}) as engine:
        monkeypatch.setattr(cuda.Graph, "launch", launch)
        with pytest.raises(EngineError, match=status) as error:
            engine.run()
        assert type(error.value) is kind


def test_closing_frees_everything_in_order(open_: Open, graph: Path) -> None:
    gc.disable()  # at once, not when a cycle is found
    try:
        engine = open_(graph, {"x": (2, 3)})
        held = engine.buffers["x"]  # someone's view does not keep the memory
        pycuda.State.events.clear()
        engine.close()
        assert pycuda.State.events == ["context", *["buffer"] * 3, "engine", "runtime", "stream"]
        engine.close()
        assert len(pycuda.State.events) == 7
        assert not pycuda.State.alive
    finally:
        gc.enable()
    del held
    with pytest.raises(EngineError, match="closed"):
        engine.run()


def test_a_graph_is_freed_before_the_context_that_it_uses(open_: Open, graph: Path) -> None:
    engine = open_(graph, {"x": (2, 3)})
    replayed = engine._graph
    engine.close()
    with pytest.raises(cuda.CUDARuntimeError, match="freed"):
        replayed.launch()


def test_another_thread_may_open_use_and_close_it(open_: Open, graph: Path) -> None:
    engine = open_(graph, {"x": (1, 3)})
    found: list[Any] = []

    def work() -> None:
        with open_(graph, {"x": (2, 3)}) as own:
            own.run()
        engine.buffers["x"].fill(1)
        engine.run()
        found.append(engine.buffers["y"].get().tolist())
        engine.close()
        found.append(list(pycuda.State.stack()))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert found == [[[9, 12]], []]
    assert not pycuda.State.alive


@pytest.mark.parametrize("room", [0, 900])
def test_no_room_for_the_buffers_is_out_of_memory(open_: Open, graph: Path, room: int) -> None:
    used = cuda.State.used
    open_(graph, {"x": (64, 3)}).close()
    cuda.State.memory = used + room  # the second value has room for the first buffer only
    with pytest.raises(OutOfMemoryError, match=r"Fake GPU has no room .* x \[64, 3\].*smaller batch_size") as error:
        open_(graph, {"x": (64, 3)})
    assert not pycuda.State.alive, "even while the error, and with it the half-opened engine, is kept"
    assert cuda.State.used == used
    del error


def test_no_room_for_the_activations_is_out_of_memory(open_: Open, graph: Path) -> None:
    tensorrt.State.context_memory = False
    with pytest.raises(OutOfMemoryError, match=r"execution context .*OutOfMemory .*smaller batch_size"):
        open_(graph, {"x": (1, 3)})
    assert not pycuda.State.alive


def test_no_gpu_is_an_error_that_says_where_to_look(open_: Open, graph: Path) -> None:
    cuda.State.devices = 0
    with pytest.raises(EngineError, match=r"finds no GPU .*nvidia-smi"):
        open_(graph, {"x": (1, 3)})


@pytest.mark.parametrize("part", ["Builder", "Runtime"])
def test_a_tensorrt_that_does_not_start_is_an_error(
    open_: Open, graph: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    def start(logger: Any) -> None:
        logger.log(tensorrt.ILogger.Severity.ERROR, "CUDA initialization failure with error: 35")
        raise TypeError("pybind11::init(): factory function returned nullptr")

    monkeypatch.setattr(tensorrt, part, start)
    with pytest.raises(EngineError, match=r"cannot start: CUDA initialization failure with error: 35.*driver"):
        open_(graph, {"x": (1, 3)})


def test_a_context_of_its_own_is_refused(open_: Open, graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycuda.autoinit", pycuda)
    with pytest.raises(EngineError, match="autoprimaryctx"):
        open_(graph, {"x": (1, 3)})


@pytest.mark.parametrize("package", ["cupy", "pycuda"])
def test_a_missing_package_is_named_with_how_to_get_it(
    open_: Open, graph: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    def missing(name: str, *rest: Any) -> Any:
        if name.split(".")[0] == package:
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)
        return real(name, *rest)

    real = __import__
    monkeypatch.setattr("builtins.__import__", missing)
    with pytest.raises(MissingPackageError, match=rf"{package}.*sightline\[tensorrt\]"):
        open_(graph, {"x": (1, 3)})


def test_threads_are_said_to_have_no_effect(open_: Open, graph: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "sightline")
    open_(graph, {"x": (1, 3)}, threads=4).close()
    assert "threads=4 has no effect" in caplog.text


# The cache


def test_what_is_built_is_kept(open_: Open, graph: Path, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "sightline")
    open_(graph, {"x": (1, 3)}).close()
    assert tensorrt.State.builds == 1
    (plan,) = plans(folder)
    assert plan.name.startswith(f"product-Fake_GPU-sm90-trt{tensorrt.__version__}-fp32-")
    open_(graph, {"x": (1, 3)}).close()
    assert tensorrt.State.builds == 1
    assert not caplog.text
    header = json.loads(plan.read_bytes().split(b"\n")[0].split(b" ", 1)[1])
    assert (header["gpu"], header["precision"], header["shapes"]) == ("Fake GPU", "fp32", {"x": [1, 3]})


def test_the_users_cache_folder_is_the_default(
    open_: Open, graph: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIGHTLINE_CACHE", str(folder / "mine"))
    open_(graph, {"x": (1, 3)}, cache=None).close()
    assert plans(folder / "mine" / "tensorrt")


def _another_shape(graph: Path, options: dict[str, Any]) -> None:
    options["shapes"] = {"x": (2, 3)}


def _another_output(graph: Path, options: dict[str, Any]) -> None:
    options["outputs"] = ["y"]


def _another_precision(graph: Path, options: dict[str, Any]) -> None:
    options["precision"] = "tf32"


def _another_gpu(graph: Path, options: dict[str, Any]) -> None:
    pycuda.State.name = "Fake GPU II"


def _another_version(graph: Path, options: dict[str, Any]) -> None:
    tensorrt.__version__ = "10.99.0.1"


def _other_weights(graph: Path, options: dict[str, Any]) -> None:
    weights = graph.with_name("weights.bin")
    weights.write_bytes(np.float32(2).tobytes() + weights.read_bytes()[4:])


def _another_graph(graph: Path, options: dict[str, Any]) -> None:
    model = onnx.load(graph, load_external_data=False)
    model.doc_string = "changed"
    onnx.save(model, graph)


CHANGES = [
    _another_shape,
    _another_output,
    _another_precision,
    _another_gpu,
    _another_version,
    _other_weights,
    _another_graph,
]


@pytest.mark.parametrize("change", CHANGES)
def test_anything_else_is_built_for_itself(open_: Open, graph: Path, folder: Path, change: Any) -> None:
    options: dict[str, Any] = {"shapes": {"x": (1, 3)}}
    open_(graph, **options).close()
    import_module("sightline.bindings.tensorrt_device")._gpu.cache_clear()  # a process has one GPU
    change(graph, options)
    open_(graph, **options).close()
    assert tensorrt.State.builds == 2
    assert len(plans(folder)) == 2


@pytest.mark.parametrize("change", [_another_gpu, _another_version, _other_weights])
def test_a_foreign_plan_is_not_loaded_but_built_again(
    open_: Open, graph: Path, folder: Path, change: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Under the right name, e.g. copied from another machine by someone who knew better."""
    open_(graph, {"x": (1, 3)}).close()
    foreign = plans(folder)[0].read_bytes()
    import_module("sightline.bindings.tensorrt_device")._gpu.cache_clear()
    change(graph, {})
    open_(graph, {"x": (1, 3)}).close()
    (mine,) = (plan for plan in plans(folder) if plan.read_bytes() != foreign)
    mine.write_bytes(foreign)
    loads = len(tensorrt.State.loads)
    open_(graph, {"x": (1, 3)}).close()
    assert (tensorrt.State.builds, len(tensorrt.State.loads)) == (3, loads + 1)
    assert caplog.text.count("it was built for") == 1


DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda data: b"", "no file of Sightline"),
    "truncated": (lambda data: data[:-10], "truncated"),
    "longer": (lambda data: data + b"!", "truncated"),
    "a bit": (lambda data: data[:-10] + bytes([data[-10] ^ 1]) + data[-9:], "SHA-256"),
    "another file": (lambda data: b"ftrt" + data, "no file of Sightline"),
    "header": (lambda data: data.replace(b'"bytes":', b'"bytes"!', 1), "header is damaged"),
    "no hash": (lambda data: data.replace(b'"sha256"', b'"sha512"', 1), "header is damaged"),
    "header only": (lambda data: data[: data.index(b"\n")], "no file of Sightline"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_plan_is_not_loaded_but_built_again(
    open_: Open, graph: Path, folder: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    open_(graph, {"x": (1, 3)}).close()
    (plan,) = plans(folder)
    whole = plan.read_bytes()
    harm, said = DAMAGES[damage]
    plan.write_bytes(harm(whole))
    open_(graph, {"x": (1, 3)}).close()  # the fake raises if it is handed a damaged plan
    assert tensorrt.State.builds == 2
    assert caplog.text.count(said) == 1
    open_(graph, {"x": (1, 3)}).close()
    assert tensorrt.State.builds == 2


def test_a_plan_that_tensorrt_refuses_is_built_again_once(
    open_: Open, graph: Path, caplog: pytest.LogCaptureFixture
) -> None:
    open_(graph, {"x": (1, 3)}).close()
    tensorrt.State.refuse_loads = 1
    open_(graph, {"x": (1, 3)}).close()
    assert tensorrt.State.builds == 2
    assert "platform mismatch" in caplog.text
    tensorrt.State.refuse_loads = 9
    with pytest.raises(EngineError, match=r"cannot load .*plan.*platform mismatch"):
        open_(graph, {"x": (1, 3)})
    assert tensorrt.State.builds == 3
    tensorrt.State.refusal = "Error Code 2: OutOfMemory (no further information)"
    with pytest.raises(OutOfMemoryError, match="smaller batch_size"):
        open_(graph, {"x": (1, 3)})
    assert tensorrt.State.builds == 3, "no room is no reason to build again"


def test_builds_share_their_timings(open_: Open, graph: Path, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    open_(graph, {"x": (1, 3)}).close()
    open_(graph, {"x": (2, 3)}).close()
    (timings,) = folder.glob("timings-*.cache")
    assert timings.read_bytes().endswith(b":2,2,")
    assert not caplog.text
    timings.write_bytes(timings.read_bytes()[:-1])
    open_(graph, {"x": (3, 3)}).close()
    assert timings.read_bytes().endswith(b":2,")
    assert "truncated" in caplog.text


def test_a_folder_that_cannot_be_written_is_said_before_the_build(open_: Open, graph: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EngineError, match="SIGHTLINE_CACHE"):
        open_(graph, {"x": (1, 3)}, cache=tmp_path / "file")
    assert tensorrt.State.builds == 0


def test_a_plan_is_written_whole_or_not_at_all(
    open_: Open, graph: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: Any, target: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(EngineError, match=r"No space left.*SIGHTLINE_CACHE"):
        open_(graph, {"x": (1, 3)})
    assert {path.suffix for path in folder.iterdir()} == {".lock"}


# Several processes, and Ctrl-C

SCRIPT = """
import sys
from pathlib import Path
from tests.fakes import cupy, pycuda, tensorrt
sys.modules.update({**pycuda.modules(), "cupy": cupy, "tensorrt": tensorrt})
tensorrt.State.build_seconds = float(sys.argv[3])
from sightline.bindings.tensorrt import build
print("ready", flush=True)
plan = build(Path(sys.argv[1]), {"x": (1, 3)}, cache=Path(sys.argv[2]).parent)
print(plan.built, plan.path.name, tensorrt.State.builds)
"""


def _process(graph: Path, folder: Path, seconds: float, script: str = SCRIPT) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, str(graph), str(folder), str(seconds)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def test_of_two_processes_one_builds(graph: Path, folder: Path) -> None:
    processes = [_process(graph, folder, 1.5) for _ in range(2)]
    said = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    lines = sorted(out.splitlines()[-1].split() for out, _ in said)
    assert [line[0] for line in lines] == ["False", "True"]
    assert sum(int(line[2]) for line in lines) == 1
    assert len(plans(folder)) == 1


@pytest.mark.skipif(os.name == "nt", reason="Ctrl-C is no signal that a process can send to another on Windows")
def test_ctrl_c_ends_a_build_and_leaves_no_torn_file(graph: Path, folder: Path) -> None:
    process = _process(graph, folder, 6)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    while not list(folder.glob("*.lock")):
        time.sleep(0.01)
    time.sleep(0.3)
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert error.rstrip().endswith("KeyboardInterrupt"), error
    assert "terminate called" not in error
    assert "Exception caught" not in error
    assert process.returncode == -signal.SIGINT
    assert time.monotonic() - start < 5, "at the next step, not when the build is done"
    assert {path.suffix for path in folder.iterdir()} == {".lock"}
    following = _process(graph, folder, 0)
    out, error = following.communicate(timeout=60)
    assert out.splitlines()[-1].startswith("True"), error


def test_ctrl_c_works_as_before_after_a_build(open_: Open, graph: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    open_(graph, {"x": (1, 3)}).close()
    tensorrt.State.build_error = "no"
    with pytest.raises(EngineError):
        open_(graph, {"x": (2, 3)})
    assert signal.getsignal(signal.SIGINT) is before


def test_an_old_message_is_no_reason(fakes: None) -> None:
    log = import_module("sightline.bindings.tensorrt_log")
    log.LOG.log(tensorrt.ILogger.Severity.ERROR, "Error Code 2: OutOfMemory (no further information)")
    assert isinstance(log.failure("It failed", ""), OutOfMemoryError)
    assert "it gave no reason" in str(log.failure("It failed", "Try again."))


# What TensorRT says, and which files a graph is made of


def test_what_tensorrt_says_goes_to_the_log(open_: Open, graph: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "sightline")
    open_(graph, {"x": (1, 3)}).close()
    said = {record.getMessage(): record.levelno for record in caplog.records if "tensorrt" in record.name}
    assert said["tactic of layer 0"] == logging.DEBUG
    assert said["TensorRT: Building Engine, 2 steps"] == logging.INFO


def _nested(tmp_path: Path) -> Path:
    """Weights in a file of a folder, named in a graph inside of a graph, beside weights in the file itself."""
    inner = helper.make_graph([], "inner", [], [helper.make_tensor_value_info("c", TensorProto.FLOAT, [2])])
    tensor = numpy_helper.from_array(np.ones(2, np.float32), "c")
    for key, value in (("location", "more/inner.bin"), ("offset", "0")):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    inner.initializer.append(tensor)
    node = helper.make_node("If", ["b"], ["y"], then_branch=inner, else_branch=inner)
    path = save(tmp_path / "nested.onnx", [node], {}, {}, {"w": np.ones((300, 300), np.float32)})
    (tmp_path / "weights.bin").rename(tmp_path / "more.bin")
    model = onnx.load(path, load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = "more.bin"
    model.graph.initializer.append(numpy_helper.from_array(np.ones(9, np.float32), "inside"))
    onnx.save(model, path)
    return path


def test_the_files_of_a_graph_are_found_without_onnx(tmp_path: Path) -> None:
    files = import_module("sightline.bindings.tensorrt_weights").files
    assert files(CLASSIFIER) == [CLASSIFIER, demo.BUNDLE / "weights.bin"]
    path = _nested(tmp_path)
    assert files(path) == [path, tmp_path / "more.bin", tmp_path / "more/inner.bin"]


def test_a_graph_with_its_weights_inside_is_one_file(tmp_path: Path) -> None:
    path = tmp_path / "whole.onnx"
    onnx.save(onnx.load(CLASSIFIER), path)
    assert import_module("sightline.bindings.tensorrt_weights").files(path) == [path]


def test_a_moved_bundle_is_not_built_again(open_: Open, graph: Path, tmp_path: Path) -> None:
    open_(graph, {"x": (1, 3)}).close()
    moved = tmp_path / "moved"
    moved.mkdir()
    for file in (graph, graph.with_name("weights.bin")):
        shutil.copy(file, moved)
    open_(moved / graph.name, {"x": (1, 3)}).close()
    assert tensorrt.State.builds == 1
