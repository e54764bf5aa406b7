"""How an engine is found and chosen, and what a machine is said to lack."""

from __future__ import annotations

import ctypes
import dataclasses
import importlib
import logging
import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import sightline.bindings as bindings
from sightline.bindings import attribution_engine, available, choose, open_engine, probe, variant
from sightline.bindings.probe import Obstacle
from sightline.bindings.table import ENGINES
from sightline.errors import EngineError, MissingPackageError, PrecisionError
from tests.bindings import product
from tests.fakes import cupy as fake_cupy
from tests.fakes.cuda import State

ROOT = Path(__file__).parents[2]
ALL = ("fp32", "fp16", "int8", "torch")
NO_GPU = Obstacle("no CUDA device")
Has = Callable[..., None]


@pytest.fixture
def has(monkeypatch: pytest.MonkeyPatch) -> Has:
    """``has(*engines, **obstacles)`` makes a machine on which these can be used, and others not, for these reasons."""

    def machine(*usable: str, lacks: Mapping[str, str] | None = None, **obstacles: Obstacle) -> None:
        def entry(name: str) -> Any:
            obstacle = None if name in usable else obstacles.get(name.replace("-", "_"), NO_GPU)
            reasons = lacks or {}
            return dataclasses.replace(ENGINES[name], probe=lambda: obstacle, lacks=reasons.get)

        monkeypatch.setattr(bindings, "ENGINES", {name: entry(name) for name in ENGINES})

    return machine


def test_every_engine_has_an_opener() -> None:
    """Without importing the engine's package, which may be missing here."""
    for name, entry in ENGINES.items():
        spec = find_spec(entry.module)
        assert spec is not None, name
        assert spec.origin is not None
        source = Path(spec.origin).read_text(encoding="utf-8")
        assert f"\ndef {entry.opener}(" in source or f"\n{entry.opener} = " in source, name
        assert set(entry.attribution) < set(ENGINES)


@pytest.mark.parametrize(
    ("engine", "precision", "expected"),
    [
        ("onnxruntime-cpu", "int8", "int8"),
        ("onnxruntime-cuda", "tf32", "fp32"),
        ("onnxruntime-tensorrt", "fp16", "fp16"),
        ("tensorrt", "int8", "int8"),
        ("openvino", "bf16", "fp32"),
        ("openvino-gpu", "fp16", "fp32"),
        ("torch", "bf16", "torch"),
        ("torch-cuda", "fp16", "torch"),
    ],
)
def test_the_variant_that_is_opened(engine: str, precision: Any, expected: str) -> None:
    assert variant(engine, precision) == expected


@pytest.mark.parametrize(
    ("engine", "precision", "said"),
    [
        ("onnxruntime-cpu", "fp16", "fp32, int8"),
        ("openvino", "tf32", "fp32, bf16, int8"),
        ("openvino-gpu", "bf16", "fp32, fp16, int8"),
        ("torch", "int8", "fp32, bf16"),
        ("tensorrt", "bf16", "fp32, tf32, fp16, int8"),
    ],
)
def test_a_precision_that_an_engine_has_not(engine: str, precision: Any, said: str) -> None:
    with pytest.raises(PrecisionError, match=f"{engine} does not compute in '{precision}'.*{said}"):
        variant(engine, precision)


@pytest.mark.parametrize("call", [variant, lambda name, precision: choose(name, variants=ALL, precision=precision)])
def test_an_unknown_engine_is_an_error_that_lists_the_known(call: Callable[[str, str], str]) -> None:
    with pytest.raises(EngineError, match=r"'warp'.*auto, tensorrt, .*onnxruntime-cpu, torch"):
        call("warp", "fp32")
    with pytest.raises(EngineError, match="'warp'"):
        attribution_engine("warp")


@pytest.mark.parametrize(
    ("usable", "variants", "precision", "expected"),
    [
        (tuple(ENGINES), ALL, "fp32", "tensorrt"),
        (tuple(ENGINES)[1:], ALL, "fp32", "onnxruntime-tensorrt"),
        (tuple(ENGINES)[2:], ALL, "fp32", "onnxruntime-cuda"),
        (tuple(ENGINES)[3:], ALL, "fp32", "torch-cuda"),
        (tuple(ENGINES)[3:], ("fp32",), "fp32", "openvino-gpu"),
        (("openvino", "onnxruntime-cpu", "torch"), ALL, "fp32", "openvino"),
        (("onnxruntime-cpu", "torch"), ALL, "fp32", "onnxruntime-cpu"),
        (("onnxruntime-cpu", "torch"), ALL, "bf16", "torch"),
        (tuple(ENGINES), ALL, "bf16", "torch-cuda"),
        (tuple(ENGINES), ("fp32", "int8"), "bf16", "openvino"),
        (tuple(ENGINES), ("fp32",), "fp16", "openvino-gpu"),
        (("onnxruntime-cuda", "openvino"), ("fp32", "fp16"), "fp16", "onnxruntime-cuda"),
    ],
)
def test_auto_takes_the_fastest_that_can(
    has: Has,
    usable: tuple[str, ...],
    variants: tuple[str, ...],
    precision: Any,
    expected: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "sightline")
    has(*usable)
    assert choose("auto", variants=variants, precision=precision) == expected
    messages = caplog.messages
    assert f"engine auto: {expected}, the fastest one usable in {precision}" in messages[-1]
    passed = [message.split()[2] for message in messages[:-1]]
    assert passed == list(ENGINES)[: list(ENGINES).index(expected)]
    assert all("passed over: " in message for message in messages[:-1])


def test_auto_passes_over_what_this_machine_lacks(has: Has, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "sightline")
    has("openvino", "torch", lacks={"fp16": "no fp16 unit"})
    assert choose("auto", variants=ALL, precision="bf16") == "openvino"
    has("openvino", "torch", lacks={"bf16": "an old CPU has no BF16"})
    with pytest.raises(EngineError, match="an old CPU has no BF16"):
        choose("auto", variants=ALL, precision="bf16")
    assert "openvino passed over: openvino cannot compute in 'bf16' here: an old CPU has no BF16" in caplog.text


def test_a_precision_that_no_engine_has_for_this_network(has: Has) -> None:
    has(*ENGINES)
    with pytest.raises(PrecisionError, match="no engine runs this network in 'int8'") as raised:
        choose("auto", variants=("fp32",), precision="int8")
    assert "onnxruntime-cpu needs the int8 variant" in str(raised.value)


def test_a_machine_without_any_engine(has: Has) -> None:
    has(onnxruntime_cpu=Obstacle("onnxruntime is not installed", "pip install onnxruntime", "onnxruntime"))
    with pytest.raises(MissingPackageError, match=r"explaining needs .*pip install onnxruntime"):
        choose("auto", variants=ALL, precision="fp32")
    has(onnxruntime_cpu=Obstacle("onnxruntime does not load", "install it again"))
    with pytest.raises(
        EngineError, match="onnxruntime-cpu cannot be used: onnxruntime does not load: install it again"
    ):
        choose("auto", variants=ALL, precision="fp32")


def test_a_named_engine_is_taken_or_refused(has: Has) -> None:
    missing = Obstacle("openvino is not installed", "pip install 'sightline[openvino]'", "openvino", "openvino")
    has("onnxruntime-cpu", openvino=missing)
    assert choose("onnxruntime-cpu", variants=ALL, precision="fp32") == "onnxruntime-cpu"
    with pytest.raises(MissingPackageError, match=r"'openvino' needs .*pip install 'sightline\[openvino\]'"):
        choose("openvino", variants=ALL, precision="fp32")
    with pytest.raises(EngineError, match="onnxruntime-cuda cannot be used: no CUDA device"):
        choose("onnxruntime-cuda", variants=ALL, precision="fp32")
    with pytest.raises(PrecisionError, match=r"onnxruntime-cpu needs the int8 variant .* there is only: fp16, fp32"):
        choose("onnxruntime-cpu", variants=("fp32", "fp16"), precision="int8")
    with pytest.raises(PrecisionError, match="does not compute in 'bf16'"):
        choose("onnxruntime-cpu", variants=ALL, precision="bf16")
    has("openvino", lacks={"bf16": "an old CPU has no BF16"})
    with pytest.raises(PrecisionError, match="openvino cannot compute in 'bf16' here: an old CPU"):
        choose("openvino", variants=ALL, precision="bf16")


@pytest.mark.parametrize(
    ("engine", "usable", "beside"),
    [
        *((name, (), name) for name in ("onnxruntime-cuda", "onnxruntime-cpu", "openvino", "openvino-gpu")),
        ("tensorrt", ("onnxruntime-cuda", "onnxruntime-cpu"), "onnxruntime-cuda"),
        ("tensorrt", ("openvino", "onnxruntime-cpu"), "onnxruntime-cpu"),
        ("onnxruntime-tensorrt", ("onnxruntime-cuda",), "onnxruntime-cuda"),
        ("torch-cuda", ("onnxruntime-cuda", "onnxruntime-cpu"), "onnxruntime-cuda"),
        ("torch-cuda", ("onnxruntime-cpu",), "onnxruntime-cpu"),
        ("torch", ("openvino", "onnxruntime-cpu"), "openvino"),
        ("torch", ("onnxruntime-cpu",), "onnxruntime-cpu"),
    ],
)
def test_the_engine_of_the_attribution_pass(has: Has, engine: str, usable: tuple[str, ...], beside: str) -> None:
    has(*usable)
    assert attribution_engine(engine) == beside


def test_no_engine_for_the_attribution_pass(has: Has) -> None:
    has("tensorrt", onnxruntime_cpu=Obstacle("onnxruntime is not installed", "pip install onnxruntime", "onnxruntime"))
    with pytest.raises(MissingPackageError, match="pip install onnxruntime"):
        attribution_engine("tensorrt")


def test_what_is_available_says_why_not(has: Has) -> None:
    missing = Obstacle("openvino is not installed", "pip install 'sightline[openvino]'", "openvino", "openvino")
    has("onnxruntime-cpu", "torch", openvino=missing, lacks={"bf16": "no"})
    found = {entry.name: entry for entry in available()}
    assert list(found) == list(ENGINES)
    assert [name for name, entry in found.items() if entry.usable] == ["onnxruntime-cpu", "torch"]
    assert (found["tensorrt"].reason, found["tensorrt"].hint) == ("no CUDA device", None)
    assert (found["openvino"].reason, found["openvino"].hint) == (missing.reason, missing.remedy)
    assert (found["torch"].reason, found["torch"].hint) == ("fp32 (bf16 not on this machine)", None)
    assert found["onnxruntime-cpu"].reason == "fp32, int8"


def test_open_takes_the_variant_that_the_file_is(has: Has, tmp_path: Path) -> None:
    has("torch", "onnxruntime-cpu")
    with open_engine(product.write(tmp_path), shapes={"x": (1, 3)}) as engine:
        assert engine.name == "onnxruntime-cpu"
    with pytest.raises(PrecisionError, match="onnxruntime-cpu needs the fp32 variant"):
        open_engine(tmp_path / "classifier.pt2", "onnxruntime-cpu", shapes={"x": (1, 3)})


def test_listing_engines_is_quick_and_silent() -> None:
    script = """
import sys
from sightline.bindings import available
found = available()
assert not {"torch", "onnx"} & set(sys.modules), "they take seconds"
print(len(found))
"""
    command = [sys.executable, "-W", "error", "-c", script]
    said = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert (said.returncode, said.stdout.strip(), said.stderr) == (0, str(len(ENGINES)), "")


# The probes, on machines of one's choice.


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``packages(name=module)`` makes a machine on which these are installed, and nothing else that engines need."""

    def machine(**modules: object) -> None:
        for name in ("cupy", "onnxruntime", "openvino", "tensorrt", "tensorrt_libs", "pycuda", "torch"):
            if name in modules:
                monkeypatch.setitem(sys.modules, name, modules[name])
            else:
                monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.setattr(probe, "find_spec", lambda name: None)

    return machine


def providers(*names: str) -> SimpleNamespace:
    return SimpleNamespace(get_available_providers=lambda: [*names, "CPUExecutionProvider"])


GPU_BUILD = providers("TensorrtExecutionProvider", "CUDAExecutionProvider")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    State.reset()
    return fake_cupy.install(monkeypatch)


def _no_library(name: str) -> None:
    raise OSError(f"{name}: cannot open shared object file")


@pytest.mark.parametrize("engine", list(ENGINES))
def test_nothing_installed(engine: str, packages: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", _no_library)
    packages()
    obstacle = ENGINES[engine].probe()
    assert obstacle is not None
    if ENGINES[engine].device == "cuda" and engine != "torch-cuda":
        assert obstacle == Obstacle("no CUDA device: there is no NVIDIA driver")
    else:
        package = engine.partition("-")[0]
        assert (obstacle.reason, obstacle.package) == (f"{package} is not installed", package)
        assert obstacle.remedy is not None
        assert obstacle.remedy.startswith("pip install ")


def test_a_gpu_without_cupy(packages: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: None)
    packages(onnxruntime=GPU_BUILD)
    assert probe.onnxruntime_cuda() == Obstacle("cupy is not installed", "pip install 'sightline[gpu]'", "cupy", "gpu")


def test_cupy_without_a_gpu(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, packages: Callable[..., None]) -> None:
    packages(cupy=gpu, onnxruntime=GPU_BUILD)
    assert probe.onnxruntime_cuda() is None
    monkeypatch.setattr(State, "devices", 0)
    monkeypatch.setattr(ctypes, "CDLL", _no_library)
    assert probe.onnxruntime_cuda() == Obstacle("no CUDA device: there is no NVIDIA driver")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: None)
    obstacle = probe.onnxruntime_cuda()
    assert obstacle is not None
    assert "cudaErrorNoDevice" in obstacle.reason


def test_the_cpu_build_beside_a_gpu(gpu: ModuleType, packages: Callable[..., None]) -> None:
    packages(cupy=gpu, onnxruntime=providers())
    for found in (probe.onnxruntime_cuda(), probe.onnxruntime_tensorrt()):
        assert found is not None
        assert "this onnxruntime is the CPU build" in found.reason
        assert "pip install onnxruntime-gpu" in str(found.remedy)
    packages(cupy=gpu, onnxruntime=providers("CUDAExecutionProvider"))
    assert probe.onnxruntime_cuda() is None
    found = probe.onnxruntime_tensorrt()
    assert found is not None
    assert "built without the TensorRT provider" in found.reason
    packages(cupy=gpu)
    found = probe.onnxruntime_cuda()
    assert found is not None
    assert found.package == "onnxruntime-gpu"


def test_the_gpu_build_lists_tensorrt_without_having_it(
    gpu: ModuleType, packages: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    packages(cupy=gpu, onnxruntime=GPU_BUILD)
    monkeypatch.setattr(ctypes, "CDLL", _no_library)
    obstacle = probe.onnxruntime_tensorrt()
    assert obstacle is not None
    assert "TensorRT 10" in obstacle.reason
    packages(cupy=gpu, onnxruntime=GPU_BUILD, tensorrt_libs=SimpleNamespace(__path__=[str(tmp_path)]))
    monkeypatch.setattr(sys, "platform", "linux")
    for library in ("libnvinfer.so.11", "libnvinfer.so.10"):
        assert probe.onnxruntime_tensorrt() == obstacle  # TensorRT 11 is not what the provider is built for
        (tmp_path / library).touch()
    assert probe.onnxruntime_tensorrt() is None


def test_native_tensorrt(gpu: ModuleType, packages: Callable[..., None]) -> None:
    packages(cupy=gpu, tensorrt=SimpleNamespace())
    assert probe.tensorrt() == Obstacle(
        "pycuda is not installed", "pip install 'sightline[tensorrt]'", "pycuda", "tensorrt"
    )
    packages(cupy=gpu, tensorrt=SimpleNamespace(), pycuda=SimpleNamespace())
    assert probe.tensorrt() is None


def test_a_cpu_build_of_torch_beside_a_gpu(gpu: ModuleType, packages: Callable[..., None]) -> None:
    for with_cuda in (False, True):
        torch = SimpleNamespace(cuda=SimpleNamespace(is_available=lambda with_cuda=with_cuda: with_cuda))
        packages(cupy=gpu, torch=torch)
        assert probe.torch_cpu() is None
        obstacle = probe.torch_cuda()
        assert obstacle is None if with_cuda else obstacle and obstacle.reason == "this torch is a CPU build"


def test_a_package_that_does_not_load(packages: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise ImportError("libonnxruntime.so: cannot open shared object file")

    packages(onnxruntime=providers(), openvino=SimpleNamespace())
    monkeypatch.setattr(importlib, "import_module", fail)
    for obstacle in (probe.onnxruntime_cpu(), probe.openvino_cpu()):
        assert obstacle is not None
        assert "cannot be imported (libonnxruntime.so" in obstacle.reason


def test_a_gpu_of_intel(packages: Callable[..., None]) -> None:
    for devices, usable in ((["CPU"], False), (["CPU", "GPU"], True), (["CPU", "GPU.0", "GPU.1"], True)):
        packages(openvino=SimpleNamespace(Core=lambda devices=devices: SimpleNamespace(available_devices=devices)))
        assert (probe.openvino_gpu() is None) == usable
        assert probe.openvino_cpu() is None
