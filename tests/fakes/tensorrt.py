"""A ``tensorrt`` 10 or 11 for machines without a GPU: its Python API, its rules, and ONNX Runtime for the arithmetic.

What TensorRT answers with None or False is answered so here, with the reason in the logger; what would crash it or run
wrong raises :class:`Misuse`. A pass reads and writes the host memory at the addresses it was given, through the stream
of the fake ``cupy``, so that a captured graph replays it. Objects keep alive what they need, as pybind11's do.
"""

from __future__ import annotations

import enum
import json
import os
import signal
import threading
import time
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from tests.fakes import cuda, pycuda

__version__ = "10.16.1.11"

Shape = Sequence[int]


class Misuse(BaseException):
    """What TensorRT would not survive, or what this project forbids itself. Nothing may catch it."""


class State:
    """What a test may set or look at."""

    builds: ClassVar[int] = 0
    build_seconds: ClassVar[float] = 0.0
    last_config: ClassVar[BuilderConfig | None] = None
    unsupported: ClassVar[set[str]] = {"MaxUnpool", "Col2Im"}
    build_error: ClassVar[str] = ""
    loads: ClassVar[list[int]] = []
    """The size of every plan that was handed to a runtime."""
    refuse_loads: ClassVar[int] = 0
    refusal: ClassVar[str] = "platform mismatch"
    context_memory: ClassVar[bool] = True
    pass_error: ClassVar[str] = ""
    capturable: ClassVar[bool] = True
    host_tensors: ClassVar[set[str]] = set()
    logger: ClassVar[ILogger | None] = None


class DataType(enum.Enum):
    FLOAT, HALF, INT8, INT32, BOOL, UINT8, FP8, BF16, INT64 = range(9)


class TensorFormat(enum.IntEnum):
    LINEAR, CHW2, HWC8 = range(3)


class TensorIOMode(enum.Enum):
    NONE, INPUT, OUTPUT = range(3)


class TensorLocation(enum.Enum):
    DEVICE, HOST = range(2)


class MemoryPoolType(enum.Enum):
    WORKSPACE, DLA_MANAGED_SRAM = range(2)


BuilderFlag: Any
NetworkDefinitionCreationFlag: Any
_TYPES: dict[int, tuple[DataType, Any]] = {
    TensorProto.FLOAT: (DataType.FLOAT, np.float32),
    TensorProto.FLOAT16: (DataType.HALF, np.float16),
    TensorProto.BFLOAT16: (DataType.BF16, np.uint16),
    TensorProto.INT64: (DataType.INT64, np.int64),
    TensorProto.INT32: (DataType.INT32, np.int32),
    TensorProto.INT8: (DataType.INT8, np.int8),
    TensorProto.UINT8: (DataType.UINT8, np.uint8),
    TensorProto.BOOL: (DataType.BOOL, np.bool_),
}


def _enum(names: str) -> Any:
    return enum.IntEnum("Flag", names, start=0)


def use(version: str) -> None:
    """Become this version, and forget what was."""
    global __version__, BuilderFlag, NetworkDefinitionCreationFlag
    __version__ = version
    if version.startswith("10."):
        BuilderFlag = _enum("FP16 BF16 INT8 DEBUG REFIT TF32 DIRECT_IO")
        NetworkDefinitionCreationFlag = _enum("EXPLICIT_BATCH STRONGLY_TYPED")
    else:
        BuilderFlag = _enum("DEBUG REFIT TF32")
        NetworkDefinitionCreationFlag = _enum("STRONGLY_TYPED PREFER_AOT_PYTHON_PLUGINS")
    State.builds, State.build_seconds, State.last_config, State.build_error = 0, 0.0, None, ""
    State.refuse_loads, State.refusal, State.context_memory = 0, "platform mismatch", True
    State.pass_error, State.capturable, State.logger = "", True, None
    State.unsupported, State.host_tensors = {"MaxUnpool", "Col2Im"}, set()
    State.loads.clear()


class ILogger:
    class Severity(enum.IntEnum):
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    def __init__(self) -> None:
        self.initialized = True

    def log(self, severity: Any, message: str) -> None:
        raise NotImplementedError


def _say(severity: str, message: str) -> None:
    assert State.logger is not None
    logger = State.logger
    _called_back(lambda: logger.log(ILogger.Severity[severity], message), fatal=True)


class _WithLogger:
    def __init__(self, logger: ILogger) -> None:
        if not getattr(logger, "initialized", False):
            raise Misuse("a logger without ILogger.__init__")
        if State.logger is not None and State.logger is not logger:
            raise Misuse("a second logger: TensorRT keeps the first one")
        State.logger = logger
        if not cuda.State.devices:
            raise TypeError("pybind11::init(): factory function returned nullptr")


class IProgressMonitor:
    def __init__(self) -> None:
        self.initialized = True


_pending: list[int] = []
_handler: list[Any] = []


@contextmanager
def _native() -> Iterator[None]:
    """C++ with the interpreter's lock released: Python handles Ctrl-C at the next callback, or at the return."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _handler.append(signal.signal(signal.SIGINT, lambda number, frame: _pending.append(number)))
    try:
        yield
    finally:
        handler = _handler.pop()
        signal.signal(signal.SIGINT, handler)
        if _pending:
            _pending.clear()
            handler(signal.SIGINT, None)


def _called_back(function: Callable[[], Any], *, fatal: bool = False) -> Any:
    """An exception ends the process, or, in a progress monitor, is printed and means "cancel"."""
    try:
        if _pending:
            _pending.clear()
            _handler[-1](signal.SIGINT, None)
        return function()
    except Misuse:
        raise
    except BaseException as error:
        if fatal:
            os.write(2, f"terminate called: {error!r} left a callback\n".encode())
            os._exit(134)
        os.write(2, f"[ERROR] Exception caught: {error!r}\n".encode())
        return False


class Tensor:
    def __init__(self, value: onnx.ValueInfoProto) -> None:
        self.name, kind = value.name, value.type.tensor_type
        self.dtype = _TYPES[kind.elem_type][0]
        self.shape = tuple(d.dim_value if d.HasField("dim_value") else -1 for d in kind.shape.dim)
        self.allowed_formats = 0


class Layer:
    def __init__(self, outputs: list[Tensor]) -> None:
        self._outputs, self.num_outputs = outputs, len(outputs)

    def get_output(self, index: int) -> Tensor:
        return self._outputs[index]


class Network:
    def __init__(self) -> None:
        self.model: onnx.ModelProto | None = None
        self.inputs: list[Tensor] = []
        self.outputs: list[Tensor] = []
        self.layers: list[Layer] = []

    num_inputs = property(lambda self: len(self.inputs))
    num_outputs = property(lambda self: len(self.outputs))
    num_layers = property(lambda self: len(self.layers))

    def get_input(self, index: int) -> Tensor:
        return self.inputs[index]

    def get_output(self, index: int) -> Tensor:
        return self.outputs[index]

    def get_layer(self, index: int) -> Layer:
        return self.layers[index]

    def unmark_output(self, tensor: Tensor) -> None:
        self.outputs.remove(tensor)


class ParserError:
    def __init__(self, index: int, node: onnx.NodeProto | None, reason: str) -> None:
        self._index, self._node, self._reason = index, node, reason

    def node(self) -> int:
        return self._index

    def node_name(self) -> str:
        return self._node.name if self._node else ""

    def node_operator(self) -> str:
        return self._node.op_type if self._node else ""

    def desc(self) -> str:
        return self._reason


class OnnxParser:
    def __init__(self, network: Network, logger: ILogger) -> None:
        self._network, self._errors = network, list[ParserError]()
        _WithLogger(logger)

    num_errors = property(lambda self: len(self._errors))

    def get_error(self, index: int) -> ParserError:
        return self._errors[index]

    def parse_from_file(self, model: str) -> bool:
        if not isinstance(model, str):
            raise TypeError("parse_from_file(): incompatible function arguments")
        try:
            loaded = onnx.load(model)
        except Exception as error:
            self._errors.append(ParserError(-1, None, f"Failed to read {model}: {error}"))
            return False
        for index, node in enumerate(loaded.graph.node):
            if node.op_type in State.unsupported:
                self._errors.append(ParserError(index, node, f"no importer registered for op: {node.op_type}"))
        if self._errors:
            _say("ERROR", f"In node {self._errors[0].node()}: UNSUPPORTED_NODE")
            return False
        graph = onnx.shape_inference.infer_shapes(loaded).graph
        network, known = self._network, {v.name: v for v in (*graph.value_info, *graph.input, *graph.output)}
        network.model = loaded
        network.inputs = [Tensor(value) for value in graph.input]
        network.outputs = [Tensor(value) for value in graph.output]
        network.layers = [Layer([Tensor(known[name]) for name in node.output if name in known]) for node in graph.node]
        return True


class OptimizationProfile:
    def __init__(self) -> None:
        self.shapes: dict[str, tuple[Shape, Shape, Shape]] = {}

    def set_shape(self, input: str, min: Shape, opt: Shape, max: Shape) -> None:
        self.shapes[input] = (tuple(min), tuple(opt), tuple(max))


class TimingCache:
    def __init__(self, content: bytes) -> None:
        self.content = content

    def serialize(self) -> HostMemory:
        return HostMemory(self.content)


class HostMemory(bytearray):
    """A buffer that TensorRT owns."""


class BuilderConfig:
    def __init__(self) -> None:
        self.flags = {BuilderFlag.TF32}
        self.pools: dict[MemoryPoolType, int] = {}
        self.profiles: list[OptimizationProfile] = []
        self.builder_optimization_level = 3
        self.progress_monitor: Any = None
        self._timings = TimingCache(b"")

    def set_flag(self, flag: Any) -> None:
        self.flags.add(BuilderFlag(flag))

    def clear_flag(self, flag: Any) -> None:
        self.flags.discard(BuilderFlag(flag))

    def set_memory_pool_limit(self, pool: MemoryPoolType, pool_size: int) -> None:
        self.pools[pool] = pool_size

    def add_optimization_profile(self, profile: OptimizationProfile) -> int:
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> TimingCache | None:
        content = bytes(serialized_timing_cache)
        if content and not content.startswith(b"timings"):
            _say("ERROR", "Timing cache: corrupt")
            return None
        return TimingCache(content or f"timings {__version__} {pycuda.State.name}:".encode())

    def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> bool:
        fits = cache.content.startswith(f"timings {__version__} {pycuda.State.name}:".encode())
        if fits or ignore_mismatch:
            self._timings = cache
        return fits or ignore_mismatch

    def get_timing_cache(self) -> TimingCache:
        return self._timings


class Builder(_WithLogger):
    def create_network(self, flags: int = 0) -> Network:
        strongly = 1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED
        if __version__.startswith("10.") and not flags & strongly:
            raise Misuse("a weakly typed network")
        if not __version__.startswith("10.") and flags & strongly:
            warnings.warn("STRONGLY_TYPED is deprecated", DeprecationWarning, stacklevel=2)
        return Network()

    def create_builder_config(self) -> BuilderConfig:
        return BuilderConfig()

    def create_optimization_profile(self) -> OptimizationProfile:
        return OptimizationProfile()

    def build_serialized_network(self, network: Network, config: BuilderConfig) -> HostMemory | None:
        if network.model is None:
            raise Misuse("a build before the parser read a graph")
        shapes = config.profiles[0].shapes if config.profiles else {}
        for tensor in network.inputs:
            if -1 in tensor.shape and tensor.name not in shapes:
                _say("ERROR", f"Network has dynamic or shape inputs, but no profile for {tensor.name}")
                return None
        if any(t.allowed_formats != 1 << TensorFormat.LINEAR for t in (*network.inputs, *network.outputs)):
            raise Misuse("an input or output that may come out vectorised")
        if not getattr(config.progress_monitor, "initialized", False):
            raise Misuse("no progress monitor, or one without IProgressMonitor.__init__")
        State.last_config = config
        with _native():
            if not self._measured(network, config):
                return None
        State.builds += 1
        config._timings.content += f"{len(network.layers)},".encode()
        return HostMemory(_plan(network, shapes))

    def _measured(self, network: Network, config: BuilderConfig) -> bool:
        monitor, steps = config.progress_monitor, max(1, len(network.layers))
        _called_back(lambda: monitor.phase_start("Building Engine", None, steps))
        for step in range(steps):
            time.sleep(State.build_seconds / steps)
            _say("INFO", f"tactic of layer {step}")
            if not _called_back(partial(monitor.step_complete, "Building Engine", step)):
                _say("ERROR", "build was cancelled by the progress monitor")
                return False
        _called_back(lambda: monitor.phase_finish("Building Engine"))
        if State.build_error:
            _say("ERROR", State.build_error)
        return not State.build_error


def _plan(network: Network, shapes: dict[str, Any]) -> bytes:
    """What this fake runs later: the graph with the outputs that are left, as one file, and who may load it."""
    model = onnx.ModelProto()
    assert network.model is not None
    model.CopyFrom(network.model)
    kept = [value for value in network.model.graph.output if value.name in {t.name for t in network.outputs}]
    facts = {
        "version": __version__,
        "gpu": pycuda.State.name,
        "shapes": shapes,
        "io": [[t.name, t.dtype.name, t.shape, "INPUT"] for t in network.inputs]
        + [[t.name, t.dtype.name, t.shape, "OUTPUT"] for t in network.outputs],
    }
    del model.graph.output[:]
    for value in kept:  # NumPy has no bfloat16 that ONNX Runtime knows
        if value.type.tensor_type.elem_type == TensorProto.BFLOAT16:
            model.graph.node.append(helper.make_node("Cast", [value.name], [f"{value.name}.f"], to=TensorProto.FLOAT))
            value = helper.make_tensor_value_info(f"{value.name}.f", TensorProto.FLOAT, None)
        model.graph.output.append(value)
    body: bytes = json.dumps(facts).encode() + b"\n" + model.SerializeToString()
    return b"%08x" % zlib.crc32(body) + body


class Runtime(_WithLogger):
    def __del__(self) -> None:
        pycuda.State.events.append("runtime")

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> Engine | None:
        plan = bytes(serialized_engine)
        State.loads.append(len(plan))
        if plan[:8] != b"%08x" % zlib.crc32(plan[8:]):
            raise Misuse("a damaged plan was handed to TensorRT")
        facts = json.loads(plan[8 : plan.index(b"\n")])
        if (facts["version"], facts["gpu"]) != (__version__, pycuda.State.name):
            raise Misuse(f"a plan of {facts['version']} on {facts['gpu']} was handed to TensorRT")
        if State.refuse_loads:
            State.refuse_loads -= 1
            _say("ERROR", State.refusal)
            return None
        return Engine(self, facts, plan[plan.index(b"\n") + 1 :])


class Engine:
    def __init__(self, runtime: Runtime, facts: dict[str, Any], model: bytes) -> None:
        self._runtime, self._facts, self._model = runtime, facts, model
        self.io: dict[str, tuple[DataType, tuple[int, ...], TensorIOMode]] = {
            entry[0]: (DataType[entry[1]], tuple(entry[2]), TensorIOMode[entry[3]]) for entry in facts["io"]
        }
        self.num_io_tensors = len(self.io)

    def __del__(self) -> None:
        pycuda.State.events.append("engine")

    def get_tensor_name(self, index: int) -> str:
        return list(self.io)[index]

    def get_tensor_dtype(self, name: str) -> DataType:
        return self.io[name][0]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.io[name][1]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return self.io[name][2]

    def get_tensor_format(self, name: str) -> TensorFormat:
        return TensorFormat.LINEAR

    def get_tensor_location(self, name: str) -> TensorLocation:
        return TensorLocation.HOST if name in State.host_tensors else TensorLocation.DEVICE

    def create_execution_context(self) -> ExecutionContext | None:
        if not State.context_memory:
            _say("ERROR", "[executionContext.cpp] Error Code 1: Cuda Runtime (out of memory)")
            _say("ERROR", "[executionContext.cpp] Error Code 2: OutOfMemory (no further information)")
            return None
        return ExecutionContext(self)


class ExecutionContext:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._inputs = [name for name, entry in engine.io.items() if entry[2] is TensorIOMode.INPUT]
        self._shapes = {name: engine.io[name][1] for name in self._inputs}
        self._addresses: dict[str, int] = {}
        self._ready = False
        options = onnxruntime.SessionOptions()
        options.log_severity_level, options.intra_op_num_threads = 3, 1
        self._session = onnxruntime.InferenceSession(engine._model, options, providers=["CPUExecutionProvider"])

    def __del__(self) -> None:
        pycuda.State.events.append("context")

    def set_input_shape(self, name: str, shape: Shape) -> bool:
        low, _, high = self._engine._facts["shapes"][name]
        if len(shape) != len(low) or not all(a <= s <= b for a, s, b in zip(low, shape, high, strict=True)):
            _say("ERROR", f"IExecutionContext::setInputShape: {name} {shape} is outside of the profile")
            return False
        self._shapes[name], self._ready = tuple(shape), False
        return True

    def infer_shapes(self) -> list[str]:
        if unknown := [name for name in self._inputs if -1 in self._shapes[name]]:
            return unknown
        zeros = [np.zeros(self._shapes[name], _TYPE[self._engine.io[name][0]]) for name in self._inputs]
        self._shapes |= {name: value.shape for name, value in self._run(zeros).items()}
        return []

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._shapes.get(name, self._engine.io[name][1])

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if not isinstance(memory, int) or memory % 256:
            _say("ERROR", f"setTensorAddress: {name} at {memory!r} is not aligned")
            return False
        self._addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        stream = cuda.ExternalStream(stream_handle)
        if stream_handle == 0:
            raise Misuse("a pass on the default stream")
        if missing := [name for name in self._engine.io if not self._addresses.get(name)]:
            _say("ERROR", f"IExecutionContext::enqueueV3: no address for {missing}")
            return False
        if stream.is_capturing() and not self._ready:
            raise Misuse("a capture right after new shapes: TensorRT needs a pass before")
        if State.pass_error or (stream.is_capturing() and not State.capturable):
            _say("ERROR", State.pass_error or "operation not permitted when stream is capturing")
            return False
        stream.enqueue(self._pass)
        self._ready = True
        return True

    def _pass(self) -> None:
        io = self._engine.io
        memory = {
            name: pycuda.contents(self._addresses[name], self.get_tensor_shape(name), np.dtype(_TYPE[io[name][0]]))
            for name in io
        }
        for name, value in self._run([memory[name] for name in self._inputs]).items():
            memory[name][...] = value

    def _run(self, inputs: list[Any]) -> dict[str, Any]:
        outputs = [name for name in self._engine.io if name not in self._inputs]
        values = self._session.run(None, dict(zip(self._inputs, inputs, strict=True)))
        return {
            name: value.astype(ml_dtypes.bfloat16).view(np.uint16)
            if self._engine.io[name][0] is DataType.BF16
            else value
            for name, value in zip(outputs, values, strict=True)
        }


_TYPE = dict(_TYPES.values())
use(__version__)
