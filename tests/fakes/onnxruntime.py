"""ONNX Runtime's GPU providers for machines without a GPU: fakes that hold to the rules, on the memory of the host.

The fake session checks what it is given as the real one would (or should), and computes with the real CPU session, when
its stream comes to it.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest

from sightline.bindings import probe
from tests.fakes import cupy as fake_cupy
from tests.fakes.cuda import ExternalStream, State

RealSession, RealOptions = onnxruntime.InferenceSession, onnxruntime.RunOptions
CUDA, TENSORRT, CPU = "CUDAExecutionProvider", "TensorrtExecutionProvider", "CPUExecutionProvider"
GRAPHS = {CUDA: "enable_cuda_graph", TENSORRT: "trt_cuda_graph_enable"}


@dataclass
class Value:
    """An OrtValue on the device."""

    array: npt.NDArray[Any]

    def shape(self) -> list[int]:
        return list(self.array.shape)


@dataclass
class Place:
    pointer: int
    shape: tuple[int, ...]
    dtype: npt.DTypeLike

    def host(self) -> npt.NDArray[Any]:
        size = prod(self.shape) * np.dtype(self.dtype).itemsize
        raw = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(self.pointer))
        return raw.view(self.dtype).reshape(self.shape)


class Binding:
    def __init__(self, session: Session) -> None:
        self.session = session
        self.inputs: dict[str, Place] = {}
        self.outputs: dict[str, Place | None] = {}
        self.values: list[Value] = []

    def bind_input(
        self, name: str, device_type: str, device_id: int, element_type: Any, shape: Sequence[int], buffer_ptr: int
    ) -> None:
        assert name in self.session.inputs
        self.inputs[name] = self._place(device_type, device_id, element_type, shape, buffer_ptr)

    def bind_output(
        self,
        name: str,
        device_type: str = "cpu",
        device_id: int = 0,
        element_type: Any = None,
        shape: Sequence[int] | None = None,
        buffer_ptr: int | None = None,
    ) -> None:
        assert name in self.session.outputs
        assert (device_type, device_id) == ("cuda", 0), "an output on the CPU is a copy and a wait in every pass"
        self.outputs[name] = None
        if buffer_ptr is not None:
            assert shape is not None
            self.outputs[name] = self._place(device_type, device_id, element_type, shape, buffer_ptr)

    def clear_binding_outputs(self) -> None:
        self.outputs.clear()

    def get_outputs(self) -> list[Value]:
        return self.values

    def _place(self, device_type: str, device_id: int, element: Any, shape: Sequence[int], pointer: int) -> Place:
        assert (device_type, device_id) == ("cuda", 0)
        assert pointer % 256 == 0
        return Place(pointer, tuple(shape), element)


@dataclass
class Machine:
    """What a test chooses, and what it looks at."""

    loads: tuple[str, ...] = (CUDA, TENSORRT)
    captures: bool = True
    """Whether every operator runs on the GPU, without which there is no CUDA graph."""
    capturing: str | None = None
    """What a pass raises while it is captured."""
    opening: str | None = None
    """What the next sessions raise."""
    failure: str | None = None
    """What the next passes raise."""
    on_cpu: tuple[str, ...] = ()
    """The inputs that operators on the CPU read."""
    damaged: set[str] = field(default_factory=set)
    """Cache folders whose engines do not open."""
    sessions: list[Session] = field(default_factory=list)


class Session:
    machine: ClassVar[Machine]

    def __init__(self, path: str, options: Any, *, providers: Sequence[Any], enable_fallback: int = 1) -> None:
        assert enable_fallback == 0, "it would print, and retry on the CPU"
        if self.machine.opening:
            raise RuntimeError(self.machine.opening)
        *wanted, last = providers
        assert last == CPU
        self.options: dict[str, dict[str, str]] = dict(wanted)
        for name, values in self.options.items():
            assert all(isinstance(value, str) for value in values.values()), name
            assert values["user_compute_stream"] not in ("0", "1", "2"), "the default stream means none"
            assert values["device_id"] == "0"
        first = next(iter(self.options))
        for key, value in self.options.get(TENSORRT, {}).items():
            if key.endswith("_enable") and value not in ("True", "true", "False", "false"):
                raise RuntimeError(f"[ERROR] [TensorRT] The value for the key '{key}' should be 'True' or 'False'.")
        self.captures = self.options[first].get(GRAPHS[first]) == "True"
        if self.captures and not self.machine.captures:
            raise RuntimeError("This session cannot use the graph capture feature as requested by the user")
        folder = self.options[first].get("trt_engine_cache_path")
        if folder in self.machine.damaged:
            raise RuntimeError("TensorRT EP could not deserialize engine from cache")
        if folder:
            assert Path(folder).is_dir()
            (Path(folder) / "graph.engine").write_bytes(b"built")
        self.providers = [name for name in (*self.options, CPU) if name in (*self.machine.loads, CPU)]
        self.real = RealSession(path, options, providers=[CPU])
        self.inputs = {node.name: node for node in self.real.get_inputs()}
        self.outputs = {node.name: node for node in self.real.get_outputs()}
        self.stream = ExternalStream(int(self.options[first]["user_compute_stream"]))
        self.graph: list[Place] | None = None
        self.passes = self.waits = 0
        self.machine.sessions.append(self)

    def get_providers(self) -> list[str]:
        return self.providers

    def get_inputs(self) -> list[Any]:
        return list(self.inputs.values())

    def get_input_memory_infos(self) -> list[Any]:
        return [SimpleNamespace(name="Cpu" if name in self.machine.on_cpu else "Cuda") for name in self.inputs]

    def get_outputs(self) -> list[Any]:
        return list(self.outputs.values())

    def io_binding(self) -> Binding:
        return Binding(self)

    def run_with_iobinding(self, binding: Binding, options: Any = None) -> None:
        if self.machine.failure:
            raise RuntimeError(self.machine.failure)
        assert set(binding.inputs) == set(self.inputs)
        assert binding.outputs
        places = [*binding.inputs.values(), *(place for place in binding.outputs.values() if place)]
        if self.captures and entry(options, "gpu_graph_id") != "-1":
            if self.machine.capturing and self.graph is None:
                raise RuntimeError(self.machine.capturing)
            assert len(places) == len(binding.inputs) + len(binding.outputs), "captured while ONNX Runtime allocates"
            self.graph = self.graph or places
            assert places == self.graph, "the graph was captured with other addresses"
        self.passes += 1
        self.stream.enqueue(lambda: self._compute(binding))
        if self.captures and next(iter(self.options)) == TENSORRT:
            self.stream.synchronize()  # its replay waits, whatever the options say
        if entry(options, "disable_synchronize_execution_providers") != "1":
            self.waits += 1

    def _compute(self, binding: Binding) -> None:
        feed = {name: place.host().copy() for name, place in binding.inputs.items()}
        results = self.real.run(list(binding.outputs), feed)
        binding.values = [Value(np.asarray(result)) for result in results]
        for place, result in zip(binding.outputs.values(), results, strict=True):
            if place is not None:
                assert place.shape == np.shape(result)
                assert np.dtype(place.dtype) == np.asarray(result).dtype
                place.host()[...] = result


def _opened(path: str, options: Any, *, providers: Sequence[Any], **others: Any) -> Any:
    """A session on the CPU is what it always is."""
    session = RealSession if list(providers) == [CPU] else Session
    return session(path, options, providers=providers, **others)


def entry(options: Any, key: str) -> str | None:
    try:
        return None if options is None else str(options.get_run_config_entry(key))
    except RuntimeError:
        return None


def install(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A GPU with both providers, of a generation that has TF32, until the test ends."""
    State.reset()
    fake_cupy.install(monkeypatch)
    for name in ("sightline.bindings.onnxruntime_cuda", "sightline.bindings.onnxruntime_tensorrt"):
        monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.setitem(sys.modules, name, None)  # so that what is imported now goes when the test ends
        del sys.modules[name]
    monkeypatch.setattr(probe, "_loads", lambda library: True)
    monkeypatch.setitem(sys.modules, "tensorrt", ModuleType("tensorrt"))
    monkeypatch.delenv(probe.TF32_OVERRIDE, raising=False)
    Session.machine = Machine()
    monkeypatch.setattr(onnxruntime, "InferenceSession", _opened)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [TENSORRT, CUDA, CPU])
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: print("Failed to load libcufft.so"), raising=False)
    return Session.machine
