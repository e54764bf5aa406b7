"""OpenVINO on the CPU, against ONNX Runtime."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import sightline
from sightline import demo
from sightline.bindings import open_engine, openvino_package, probe
from sightline.bindings.engine import FACTOR, Precision, Product
from sightline.errors import EngineError, OutOfMemoryError, PrecisionError
from sightline.exporter import add_precision
from tests.bindings import product
from tests.bindings.product import WEIGHTS

if not probe.installed("openvino"):
    pytest.skip("openvino is not installed", allow_module_level=True)
openvino: Any = openvino_package.load()
from sightline.bindings.openvino import open_cpu, open_gpu  # noqa: E402  (it needs the package)

ROOT = Path(__file__).parents[2]
CLASSIFIER, ATTRIBUTION = demo.BUNDLE / "classifier.onnx", demo.BUNDLE / "attribution.onnx"
HAS_BF16 = "BF16" in openvino_package.core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    return product.write(tmp_path)


def outputs(
    path: Path, engine: str, inputs: Mapping[str, npt.NDArray[Any]], **options: Any
) -> dict[str, npt.NDArray[Any]]:
    """What an engine answers; every second pass is made with other inputs, so that nothing stale is compared."""
    shapes = {"x": inputs["x"].shape}
    with open_engine(path, engine, shapes=shapes, **options) as opened:
        for scale in (0, 1):
            for name, value in inputs.items():
                opened.buffers[name][...] = scale * value
            opened.run()
        return {name: value.copy() for name, value in opened.buffers.items()}


def images(count: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(count).normal(size=(count, 3, 224, 224)).astype(np.float32)


def test_a_pass_reads_and_writes_the_same_buffers(graph: Path) -> None:
    with open_engine(graph, "openvino", shapes={"x": (4, 3)}) as engine:
        assert (engine.name, engine.device, engine.precision, engine.stream) == ("openvino", "cpu", "fp32", None)
        x, y, total = (engine.buffers[name] for name in ("x", "y", "total"))
        for seed in range(3):
            x[:] = np.random.default_rng(seed).normal(size=(4, 3))
            engine.run()
            np.testing.assert_allclose(y, x @ WEIGHTS, rtol=1e-5)
            np.testing.assert_allclose(total, (x @ WEIGHTS).sum(), rtol=1e-4)


@pytest.mark.parametrize("target", [-1, 3])
@pytest.mark.parametrize("rivals", [0.0, 1.0])
def test_the_attribution_pass_agrees_with_onnx_runtime(target: int, rivals: float) -> None:
    inputs = {
        "x": images(1),
        "target": np.array([target]),
        "seed": np.zeros((1, 5), np.float32),
        "rivals": np.array([rivals], np.float32),
    }
    found, expected = (outputs(ATTRIBUTION, engine, inputs) for engine in ("openvino", "onnxruntime-cpu"))
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert found[name].shape == value.shape
        assert found[name].dtype == value.dtype
        assert np.linalg.norm(found[name] - value) <= 1e-4 * np.linalg.norm(value), name
        assert np.linalg.norm(value) > 0 or name in ("rivals", "seed"), name


def test_the_classifier_agrees_with_onnx_runtime() -> None:
    inputs = {"x": images(5)}
    found, expected = (outputs(CLASSIFIER, engine, inputs) for engine in ("openvino", "onnxruntime-cpu"))
    np.testing.assert_allclose(found["probabilities"], expected["probabilities"], atol=1e-5)
    assert expected["probabilities"].std() > 0.01


@pytest.mark.skipif(not HAS_BF16, reason="this CPU has no bfloat16")
def test_bfloat16_is_close_and_is_not_float32() -> None:
    inputs = {"x": images(5)}
    found = outputs(CLASSIFIER, "openvino", inputs, precision="bf16")["probabilities"]
    expected = outputs(CLASSIFIER, "onnxruntime-cpu", inputs)["probabilities"]
    error = np.abs(found - expected).max()
    assert 1e-6 < error < 0.05  # 8 bits of mantissa; 1e-7 would be float32


def test_float32_is_float32_where_openvino_would_take_bfloat16(graph: Path) -> None:
    with open_engine(graph, "openvino", shapes={"x": (1, 3)}) as engine:
        engine.buffers["x"][:] = [1 + 2**-12, 0, 0]  # more bits than bfloat16 holds
        engine.run()
        assert engine.buffers["y"][0, 0] == np.float32(1 + 2**-12)


def test_a_quantized_graph(tmp_path: Path) -> None:
    from onnx import TensorProto, helper

    scales = [helper.make_tensor(name, TensorProto.FLOAT, [], [0.5]) for name in ("s", "t")]
    zero = helper.make_tensor("z", TensorProto.INT8, [], [0])
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3]) for name in "xy")
    graph = helper.make_graph(nodes, "steps", [x], [y], [*scales, zero])
    path = tmp_path / "int8.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    path.write_bytes(model.SerializeToString())
    with open_engine(path, "openvino", shapes={"x": (1, 3)}, precision="int8") as engine:
        engine.buffers["x"][:] = [0.6, 1.4, 100]
        engine.run()
        np.testing.assert_array_equal(engine.buffers["y"], [[0.5, 1.5, 63.5]])


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_an_input_multiplied_within_the_pass_gives_the_same(tmp_path: Path, precision: Precision) -> None:
    if precision == "bf16" and not HAS_BF16:
        pytest.skip("this CPU has no bfloat16")
    path, pictures = CLASSIFIER, images(3)
    if precision == "int8":
        copied = Path(shutil.copytree(demo.BUNDLE, tmp_path / "bundle"))
        path = add_precision(copied, "int8", images=list(pictures)).graph("int8")
    factors = np.random.default_rng(1).uniform(size=(3, 1, 224, 224)).astype(np.float32)
    expected = outputs(path, "openvino", {"x": pictures * factors}, precision=precision)
    product = Product("x", factors.shape)
    found = outputs(path, "openvino", {"x": pictures, FACTOR: factors}, precision=precision, product=product)
    assert expected["probabilities"].std() > 0.01
    # Where the CPU lacks VNNI, OpenVINO's int8 differs from one opening of the very same graph to the next.
    tolerance = 0.02 if precision == "int8" else 0.0
    for name in ("logits", "probabilities"):
        np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("rows", "threads", "parts"), [(8, 2, 2), (8, 4, 2), (9, 2, 1), (12, 3, 3), (15, 3, 3), (7, 2, 1)]
)
def test_a_batch_is_shared_out(rows: int, threads: int, parts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every row is what it is alone, in the same buffers, pass after pass."""
    monkeypatch.setattr(openvino, "Core", Core)
    inputs, factors = images(rows), np.random.default_rng(2).uniform(size=(rows, 1, 224, 224)).astype(np.float32)
    expected = outputs(CLASSIFIER, "openvino", {"x": (inputs * factors)[::-1]}, threads=1)
    product = Product("x", factors.shape)
    with open_engine(
        CLASSIFIER, "openvino", shapes={"x": inputs.shape}, threads=threads, product=product, outputs=["logits"]
    ) as engine:
        assert SEEN[1]["NUM_STREAMS"] == str(parts)
        assert {name: len(buffer) for name, buffer in engine.buffers.items()} == {
            "x": rows,
            FACTOR: rows,
            "logits": rows,
        }
        for turned in (slice(None), slice(None, None, -1)):
            engine.buffers["x"][...], engine.buffers[FACTOR][...] = inputs[turned], factors[turned]
            engine.run()
        np.testing.assert_allclose(engine.buffers["logits"], expected["logits"], atol=1e-4)


def test_a_batch_whose_rows_meet_is_not_shared_out(graph: Path) -> None:
    """Its graph has an output for all rows together."""
    with open_engine(graph, "openvino", shapes={"x": (8, 3)}, threads=2) as engine:
        engine.buffers["x"][:] = 1
        engine.run()
        np.testing.assert_allclose(engine.buffers["total"], 8 * WEIGHTS.sum())


def test_a_side_as_long_as_the_batch_is_none(tmp_path: Path) -> None:
    """x (N×3) -> eight products with the sum of all rows: eight rows in, eight numbers out."""
    nodes = [
        helper.make_node("ReduceSum", ["x", "axes"], ["sum"], keepdims=0),
        helper.make_node("MatMul", ["w", "sum"], ["y"]),
    ]
    weights = np.arange(24, dtype=np.float32).reshape(8, 3)
    constants = [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(np.array([0]), "axes")]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [8])]
    graph = helper.make_graph(nodes, "sums", inputs, outputs, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), tmp_path / "a.onnx")
    with open_engine(tmp_path / "a.onnx", "openvino", shapes={"x": (8, 3)}, threads=2) as engine:
        engine.buffers["x"][...] = np.arange(24).reshape(8, 3)
        engine.run()
        np.testing.assert_allclose(engine.buffers["y"], weights @ np.arange(24).reshape(8, 3).sum(axis=0))


def test_a_part_that_fails_leaves_none_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []

    class Part:
        def __init__(self, name: str) -> None:
            self.name = name

        def start_async(self) -> None:
            events.append(f"start {self.name}")
            if self.name == "c":
                raise RuntimeError("busy")

        def wait(self) -> None:
            events.append(f"wait {self.name}")
            if self.name == "a":
                raise RuntimeError("bad allocation")

    with open_engine(CLASSIFIER, "openvino", shapes={"x": (8, 3, 224, 224)}, threads=2) as engine:
        engine._requests = [Part("a"), Part("b")]  # type: ignore[attr-defined]
        with pytest.raises(OutOfMemoryError, match="bad allocation"):
            engine.run()
        engine._requests = [Part("b"), Part("c")]  # type: ignore[attr-defined]
        with pytest.raises(EngineError, match="busy"):
            engine.run()
    assert events == ["start a", "start b", "wait a", "wait b", "start b", "start c", "wait b"]


def test_the_factor_is_zero_until_it_is_written(graph: Path) -> None:
    with open_engine(graph, "openvino", shapes={"x": (2, 3)}, product=Product("x", (2, 1))) as engine:
        engine.buffers["x"][:] = 7
        engine.run()
        assert not engine.buffers["y"].any()
        engine.buffers[FACTOR][:] = [[1], [0.5]]
        engine.run()
        np.testing.assert_allclose(engine.buffers["y"], 7 * np.array([[1], [0.5]]) * WEIGHTS.sum(axis=0))


def test_an_input_to_multiply_that_is_not_there_is_named(graph: Path) -> None:
    with pytest.raises(EngineError, match="has no pixels"):
        open_cpu(graph, {"x": (2, 3)}, product=Product("pixels", (2, 1)))


def test_an_engine_that_does_not_multiply_says_so_by_its_buffers(graph: Path) -> None:
    with open_engine(graph, "onnxruntime-cpu", shapes={"x": (2, 3)}, product=Product("x", (2, 1))) as engine:
        assert set(engine.buffers) == {"x", "y", "total"}


def test_only_the_outputs_asked_for_are_computed(graph: Path) -> None:
    with open_engine(graph, "openvino", shapes={"x": (2, 3)}, outputs=["y"], threads=1) as engine:
        assert set(engine.buffers) == {"x", "y"}
        engine.buffers["x"][:] = 1
        engine.run()
        np.testing.assert_allclose(engine.buffers["y"], [[9, 12], [9, 12]])


@pytest.mark.parametrize(
    ("shapes", "wanted", "said"),
    [
        ({}, None, r"'x' in .* does not fix"),
        ({"x": (2, 3, 1)}, None, "cannot open"),
        ({"x": (2, 4)}, None, "cannot open"),
        ({"x": (2, 3), "z": (1,)}, None, "has no z"),
        ({"x": (2, 3)}, ["probabilities"], "has no probabilities"),
    ],
)
def test_what_does_not_fit_the_graph_is_an_error(
    graph: Path, shapes: dict[str, tuple[int, ...]], wanted: list[str] | None, said: str
) -> None:
    with pytest.raises(EngineError, match=said):
        open_engine(graph, "openvino", shapes=shapes, outputs=wanted)


def test_damage_is_an_error_that_names_the_graph(graph: Path) -> None:
    graph.write_bytes(graph.read_bytes()[:50])
    with pytest.raises(EngineError, match=r"cannot open .*product\.onnx"):
        open_engine(graph, "openvino", shapes={"x": (1, 3)})
    graph.unlink()
    with pytest.raises(EngineError, match=r"cannot open .*product\.onnx"):
        open_engine(graph, "openvino", shapes={"x": (1, 3)})


def test_a_closed_engine_says_so(graph: Path) -> None:
    engine = open_engine(graph, "openvino", shapes={"x": (1, 3)})
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.run()


def test_compiled_graphs_are_kept_by_weights_and_precision(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    twice = [product.write(tmp_path / "a"), product.write(tmp_path / "b", 2 * WEIGHTS)]
    for _ in range(2):
        for factor, path in zip((1, 2), twice, strict=True):
            with open_engine(path, "openvino", shapes={"x": (1, 3)}, cache=cache) as engine:
                engine.buffers["x"][:] = 1
                engine.run()
                np.testing.assert_allclose(engine.buffers["y"], [[9 * factor, 12 * factor]])
    kept = list((cache / "openvino").glob("*.blob"))
    assert len(kept) == 2
    for file in kept:
        file.write_bytes(file.read_bytes()[:100])
    with open_engine(twice[0], "openvino", shapes={"x": (1, 3)}, cache=cache) as engine:
        engine.buffers["x"][:] = 1
        engine.run()
        np.testing.assert_allclose(engine.buffers["y"], [[9, 12]])


def test_a_cache_that_cannot_be_written_is_said(graph: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    with open_engine(graph, "openvino", shapes={"x": (1, 3)}, cache=tmp_path / "file") as engine:
        engine.buffers["x"][:] = 1
        engine.run()
        np.testing.assert_allclose(engine.buffers["y"], [[9, 12]])
    assert "cannot be kept" in caplog.text


class Core:
    """OpenVINO on a machine of one's choice: the real one, with other capabilities and other settings taken."""

    capabilities: tuple[str, ...] = ("FP32", "INT8")
    takes: str | None = None

    def __init__(self) -> None:
        self._core = REAL()
        self.available_devices = self._core.available_devices

    def get_property(self, device: str, name: str) -> Any:
        return {"OPTIMIZATION_CAPABILITIES": list(self.capabilities), "FULL_DEVICE_NAME": "an old CPU"}[name]

    def read_model(self, path: str) -> Any:
        return self._core.read_model(path)

    def compile_model(self, model: Any, device: str, settings: Mapping[str, Any]) -> Any:
        SEEN[:] = [device, dict(settings)]
        taken = {**settings, "INFERENCE_PRECISION_HINT": self.takes or settings["INFERENCE_PRECISION_HINT"]}
        return self._core.compile_model(model, "CPU", taken)


REAL = openvino.Core
SEEN: list[Any] = []


def test_a_cpu_without_bfloat16_says_so(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino, "Core", Core)
    with pytest.raises(PrecisionError, match=r"'bf16' here: an old CPU has no BF16 .*it has FP32, INT8"):
        open_engine(graph, "openvino", shapes={"x": (1, 3)}, precision="bf16")
    with pytest.raises(PrecisionError, match="openvino cannot run in bf16: an old CPU has no BF16"):
        open_cpu(graph, {"x": (1, 3)}, precision="bf16")
    open_engine(graph, "openvino", shapes={"x": (1, 3)}).close()


@pytest.mark.skipif(not HAS_BF16, reason="this CPU has no bfloat16")
def test_another_precision_than_the_one_asked_for_is_an_error(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino, "Core", Core)
    monkeypatch.setattr(Core, "takes", "bf16")
    with pytest.raises(PrecisionError, match="took bf16 instead of fp32"):
        open_engine(graph, "openvino", shapes={"x": (1, 3)})


def test_settings(graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino, "Core", Core)
    open_engine(graph, "openvino", shapes={"x": (1, 3)}, precision="int8").close()
    assert SEEN[1] == {"INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": "1", "PERFORMANCE_HINT": "LATENCY"}
    open_engine(graph, "openvino", shapes={"x": (1, 3)}, threads=1, cache=tmp_path / "cache").close()
    assert SEEN[1]["INFERENCE_NUM_THREADS"] == 1
    assert SEEN[1]["CACHE_DIR"] == str(tmp_path / "cache" / "openvino")


def test_a_gpu_of_intel(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    obstacle = probe.openvino_gpu()
    monkeypatch.setattr(openvino, "Core", Core)
    monkeypatch.setattr(Core, "capabilities", ("FP32", "FP16"))
    assert obstacle is None or "Intel GPU" in obstacle.reason
    with open_gpu(graph, {"x": (1, 3)}, threads=2) as engine:
        assert (engine.name, engine.device) == ("openvino-gpu", "cpu")
    assert SEEN == ["GPU", {"INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": "1", "PERFORMANCE_HINT": "LATENCY"}]


@pytest.mark.parametrize(
    "message",
    [
        "bad allocation",
        "[GPU] CL_MEM_OBJECT_ALLOCATION_FAILURE",
        "std::bad_alloc",
        "Failed to allocate 78399799296 bytes of memory",
    ],
)
def test_a_pass_without_room(graph: Path, message: str) -> None:
    def infer() -> None:
        raise RuntimeError(message)

    with open_engine(graph, "openvino", shapes={"x": (1, 3)}) as engine:
        engine._requests = [SimpleNamespace(infer=infer)]  # type: ignore[attr-defined]
        with pytest.raises(OutOfMemoryError, match="smaller batch_size"):
            engine.run()


def test_nothing_is_sent(tmp_path: Path) -> None:
    script = """
import socket, sys
def refused(*arguments):
    print("connected", *arguments)
    raise OSError("no network")
socket.socket.connect = socket.getaddrinfo = refused
import os
os.fork = refused
from pathlib import Path
from sightline.bindings import open_engine
with open_engine(Path(sys.argv[1]), "openvino", shapes={"x": (1, 3)}) as engine:
    engine.run()
assert "openvino_telemetry" not in sys.modules
"""
    path = product.write(tmp_path)
    said = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, cwd=ROOT)
    assert (said.returncode, said.stdout) == (0, ""), said.stderr


@pytest.mark.parametrize("channels", [(16, 16), (16, 8)])
@pytest.mark.parametrize("group", [1, 4])
def test_weights_shared_with_a_transposed_convolution(group: int, channels: tuple[int, int], tmp_path: Path) -> None:
    """As in a strided convolution and its gradient. OpenVINO alone mixes the two up where the weights are square."""
    there, back = channels
    random = np.random.default_rng(0)
    strided: dict[str, Any] = {"strides": [2, 2], "pads": [1, 1, 1, 1], "group": group}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], **strided),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("ConvTranspose", ["b", "w"], ["y"], output_padding=[1, 1], **strided),
    ]
    weights = numpy_helper.from_array(random.normal(size=(there, back // group, 3, 3)).astype(np.float32), "w")
    graph = helper.make_graph(
        nodes,
        "there and back",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, back, 14, 14])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, back, 14, 14])],
        [weights],
    )
    path = tmp_path / "graph.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    inputs = {"x": random.normal(size=(1, back, 14, 14)).astype(np.float32)}
    found, expected = (outputs(path, engine, inputs)["y"] for engine in ("openvino", "onnxruntime-cpu"))
    assert np.linalg.norm(found - expected) <= 1e-5 * np.linalg.norm(expected)


FREED = """
import gc, os, signal, sys, threading
from pathlib import Path
from sightline.bindings import open_engine, probe

def opened():
    return open_engine(Path(sys.argv[1]), "openvino", shapes={sys.argv[2]: (1, *map(int, sys.argv[3].split(",")))})

def free(engines):
    while engines:
        engines.pop(0).close()
    gc.collect()

free([opened(), opened()])  # not in the order of opening
engines = [opened()]
probe.openvino_lacks("CPU", "fp32")
thread = threading.Thread(target=free, args=[engines])
thread.start()
thread.join()
try:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background inherits that it is ignored
    os.kill(os.getpid(), signal.SIGINT)
    threading.Event().wait()
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="has no SIGINT to send")
def test_a_signal_reaches_a_process_whose_engines_were_freed_by_a_thread() -> None:
    bundle = sightline.load(demo.BUNDLE)
    shape = ",".join(map(str, bundle.input.shape))
    words = [sys.executable, "-c", FREED, str(bundle.classifier), bundle.input.name, shape]
    done = subprocess.run(words, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "interrupted\n"), done.stderr
