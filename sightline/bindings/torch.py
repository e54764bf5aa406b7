"""torch as an inference engine: ``torch`` on the CPU, ``torch-cuda`` as one captured CUDA graph.

Both open ``classifier.pt2``, a program that torch.export wrote, or take the torch module itself
(:meth:`TorchEngine.from_module`), which also works where another version of torch wrote the program. Either way the
network becomes one graph of ATen operators: batch normalisations are folded into the convolutions, the weights are
brought to the precision and to channels_last, and types and devices that the network hard-wires are rewritten. The
user's module is never changed.

Settings of torch that are global (TF32, cuDNN's benchmark, autocast, the number of threads) are set while a pass runs
on the CPU, or while it is captured on a GPU, and put back; other threads that run torch meanwhile see them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, cast

import numpy.typing as npt
import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from sightline.bindings.engine import Device, Precision
from sightline.bindings.torch_graph import flatten, specialised
from sightline.bundle import LOGITS, PROBABILITIES, Activation
from sightline.errors import EngineError, MissingPackageError, OutOfMemoryError, PrecisionError, SightlineError

OLDEST = (2, 10)
"""The first torch with ``fp32_precision`` and with ``__cuda_stream__``."""
DTYPES: Mapping[Device, Mapping[str, torch.dtype]] = {
    "cpu": {"fp32": torch.float32, "bf16": torch.bfloat16},
    "cuda": {"fp32": torch.float32, "tf32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16},
}
WARM_UP = 3
"""Passes before the capture, in which cuDNN picks its algorithms and cuBLAS takes its workspace."""
_NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "ALLOC_FAILED")

logger = logging.getLogger(__name__)


class TorchEngine:
    """An :class:`~sightline.bindings.engine.Engine` on torch.

    ``buffers`` hold the image, N×C×H×W, and the outputs, N×K. The outputs are float32, and so is the activation behind
    the logits, whatever the precision. The image is float32 on a CPU, and in the engine's precision on a GPU. The
    buffers share their memory with torch's tensors: nothing is copied but by the first operator, which brings the
    image to channels_last and to the precision.
    """

    def __init__(
        self,
        network: fx.GraphModule,
        image: str,
        shape: Sequence[int],
        *,
        device: Device,
        outputs: Sequence[str] | None = None,
        threads: int | None = None,
        precision: Precision = "fp32",
    ) -> None:
        """Take a network as :func:`open_program` and :meth:`from_module` make it; call those.

        Args:
            network: image -> {name: output}; its graph is changed.
            image: the name of its input.
            shape: (N, C, H, W).
        """
        self.device, self.precision, self.stream = device, precision, None
        self.name = "torch" if device == "cpu" else "torch-cuda"
        self._threads = threads
        self._place = torch.device("cpu") if device == "cpu" else torch.device("cuda", torch.cuda.current_device())
        self._closed = False
        self._graph: torch.cuda.CUDAGraph | None = None
        self._queue: torch.cuda.Stream | None = None
        with _failures(f"could not open a network at {list(shape)} in {precision}"):
            # On a GPU the kernels that fill the buffer write the engine's precision: half the traffic.
            self._dtype = DTYPES[device][precision]
            held = self._dtype if device == "cuda" else torch.float32
            self._image = torch.zeros(*shape, dtype=held, device=self._place)
            self._network = specialised(network, self._place, self._dtype)
            self._outputs: dict[str, Tensor] = {}
            if device == "cuda":
                self._queue = torch.cuda.Stream(self._place)
                self._queue.wait_stream(torch.cuda.current_stream(self._place))
            with self._settings():
                results = self._forward()
                names = list(results) if outputs is None else list(outputs)
                if missing := [name for name in names if name not in results]:
                    raise EngineError(f"the network has no output {', '.join(missing)}: export the bundle again.")
                for name in names:
                    self._outputs[name] = torch.zeros(results[name].shape, dtype=torch.float32, device=self._place)
            del results
            if self._queue is not None:
                self._capture(self._queue)
            self._buffers = MappingProxyType(_arrays({image: self._image, **self._outputs}))
        logger.debug("opened %s on %s %s, %s", list(shape), self.name, torch.__version__, precision)

    @classmethod
    def from_module(
        cls,
        module: nn.Module,
        shapes: Mapping[str, Sequence[int]],
        *,
        activation: Activation,
        device: Device = "cpu",
        outputs: Sequence[str] | None = None,
        threads: int | None = None,
        precision: Precision = "fp32",
    ) -> TorchEngine:
        """An engine for the torch module itself, on a machine that has it.

        Args:
            module: N×C×H×W -> logits, N×K, in float32, on any device; left as it was. Its weights are copied.
            shapes: the image's name, and its shape (N, C, H, W).
            activation: what turns the logits into probabilities.
            device: ``cpu`` or ``cuda`` (torch's current one).
            outputs, threads, precision: as :func:`open_program` takes them.

        Raises:
            PrecisionError: the device does not compute in this precision.
            OutOfMemoryError: the device has no room for a batch of this size.
            EngineError: torch.export cannot express the module, or it fails at these shapes.
        """
        _check(device, precision)
        ((image, shape),) = shapes.items()
        parameter = next(module.parameters(), None)
        place = parameter.device if parameter is not None else torch.device("cpu")
        modes = [(child, child.training) for child in module.modules()]
        classifier = _Classifier(module, activation).eval()
        try:
            with _failures(f"could not express {type(module).__name__} at {list(shape)}"), torch.no_grad():
                network = torch.export.export(classifier, (torch.zeros(*shape, device=place),)).module()
        finally:
            for child, mode in modes:
                child.training = mode
        flatten(network, (LOGITS, PROBABILITIES))
        return cls(network, image, shape, device=device, outputs=outputs, threads=threads, precision=precision)

    @property
    def buffers(self) -> Mapping[str, npt.NDArray[Any]]:
        """The bound arrays, NumPy or CuPy, by name; a bfloat16 image as its bits, in uint16."""
        return self._buffers

    def run(self) -> None:
        """One pass: from the input buffers to the output buffers; on a GPU enqueued on ``stream``.

        Raises:
            OutOfMemoryError: the device has no room for this batch; a smaller one may do.
            EngineError: the pass failed, or the engine is closed.
        """
        if self._closed:
            raise EngineError("this engine is closed: make a new Explainer.")
        with _failures("failed in a pass"):
            if self._graph is not None:
                with torch.cuda.stream(self._queue):
                    self._graph.replay()
                return
            with self._settings():
                self._pass()

    def close(self) -> None:
        """Free the weights and the graph. The buffers must not be used afterwards."""
        if self._closed:
            return
        self._closed = True
        if self._queue is not None:
            self._queue.synchronize()  # what is still running reads the memory that goes now
        self._buffers = MappingProxyType({})
        self._outputs.clear()
        self._graph = None
        for module in self._network.modules():
            module._buffers.clear()  # a graph and its module refer to each other: they go later
        del self._network, self._image
        if self.device == "cuda":
            torch.cuda.empty_cache()  # torch keeps freed memory from CuPy and from other engines

    def __enter__(self) -> TorchEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _forward(self) -> dict[str, Tensor]:
        image = self._image.to(dtype=self._dtype, memory_format=torch.channels_last)
        return cast("dict[str, Tensor]", self._network(image))

    def _pass(self) -> None:
        results = self._forward()
        for name, output in self._outputs.items():
            output.copy_(results[name])

    def _capture(self, queue: torch.cuda.Stream) -> None:
        import cupy

        graph = torch.cuda.CUDAGraph()
        with self._settings():
            for _ in range(WARM_UP):
                self._pass()
            # Other threads may go on using CUDA meanwhile.
            with torch.cuda.graph(graph, stream=queue, capture_error_mode="thread_local"):
                self._pass()
        queue.synchronize()
        self._graph, self.stream = graph, cupy.cuda.Stream.from_external(queue)

    @contextmanager
    def _settings(self) -> Iterator[None]:
        """Torch as this engine needs it, and as it was afterwards."""
        backends = torch.backends
        wanted = "tf32" if self.precision == "tf32" else "ieee"
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            stack.enter_context(torch.autocast(self.device, enabled=False))
            if self._queue is not None:
                stack.enter_context(torch.cuda.stream(self._queue))
                stack.enter_context(_setting(backends.cudnn, "benchmark", True))
                operators: tuple[Any, ...] = (backends.cuda.matmul, backends.cudnn.conv)  # type: ignore[attr-defined]
            else:
                operators = (backends.mkldnn.matmul, backends.mkldnn.conv)  # type: ignore[attr-defined]
                if self._threads and self._threads != (threads := torch.get_num_threads()):
                    torch.set_num_threads(self._threads)
                    stack.callback(torch.set_num_threads, threads)
            for operator in operators:
                stack.enter_context(_setting(operator, "fp32_precision", wanted))
            yield


class _Classifier(nn.Module):
    """A module that returns logits, with its activation: image -> (logits, probabilities), float32."""

    def __init__(self, network: nn.Module, activation: Activation) -> None:
        super().__init__()
        self.network = network
        self.activation = activation

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.network(image).flatten(1).to(torch.float32)
        if self.activation == "softmax":
            return logits, logits.softmax(1)
        return logits, logits.sigmoid() if self.activation == "sigmoid" else logits.clone()


def open_program(
    path: Path,
    shapes: Mapping[str, Sequence[int]],
    *,
    device: Device,
    outputs: Sequence[str] | None = None,
    threads: int | None = None,
    precision: Precision = "fp32",
    cache: Path | None = None,
) -> TorchEngine:
    """Open ``classifier.pt2``.

    Args:
        path: the program.
        shapes: the image's name, and its shape (N, C, H, W).
        device: ``cpu``, or ``cuda`` for torch's current GPU.
        outputs: the outputs to bind, all of them by default.
        threads: how many CPU threads one pass may use, by default torch's own setting; a pass on a GPU uses none.
        precision: ``fp32`` or ``bf16``; on a GPU also ``tf32`` or ``fp16``.
        cache: not used: nothing is compiled.

    Raises:
        MissingPackageError: ``cuda`` without CuPy.
        PrecisionError: the device does not compute in this precision.
        OutOfMemoryError: the device has no room for a batch of this size.
        EngineError: no GPU, torch cannot load the program, or the shapes do not fit it.
    """
    _check(device, precision)
    try:
        program = torch.export.load(path)
        (image,) = program.graph_signature.user_inputs
        names = pytree.tree_unflatten(range(program.call_spec.out_spec.num_leaves), program.call_spec.out_spec)
    except Exception as error:  # whatever reading a strange archive raises
        raise EngineError(
            f"torch {torch.__version__} cannot load {path}: {error}. Upgrade torch to the version that wrote it, "
            "export the bundle again with this one, or use TorchEngine.from_module with the torch module itself."
        ) from error
    (node,) = (node for node in program.graph.nodes if node.name == image)
    fixed = [size if isinstance(size, int) else None for size in node.meta["val"].shape]
    if list(shapes) != [image]:
        raise EngineError(
            f"{path} has the input {image!r}, not {', '.join(map(repr, shapes))}: export the bundle again."
        )
    shape = list(shapes[image])
    if len(shape) != len(fixed) or any(size not in (None, given) for size, given in zip(fixed, shape, strict=True)):
        raise EngineError(f"{image!r} in {path} has shape {fixed}, not {shape}: export the bundle again.")
    network = program.module()
    flatten(network, list(names))
    return TorchEngine(network, str(image), shape, device=device, outputs=outputs, threads=threads, precision=precision)


open_cpu = partial(open_program, device="cpu")
open_cuda = partial(open_program, device="cuda")


def _check(device: Device, precision: str) -> None:
    """Whether this torch computes in this precision on this device."""
    if not torch.__version__ >= OLDEST:  # type: ignore[operator]  # a TorchVersion compares with tuples
        raise EngineError(f"torch {torch.__version__} is too old for an engine: pip install -U 'torch>=2.10'.")
    if precision not in DTYPES[device]:
        raise PrecisionError(f"torch has no {precision} on {device}: choose {' or '.join(DTYPES[device])}.")
    if device == "cpu":
        return
    if not torch.cuda.is_available():
        raise EngineError(
            f"torch {torch.__version__} finds no GPU: install a driver and a build of torch with CUDA, or choose the "
            "engine 'torch'."
        )
    if find_spec("cupy") is None:
        raise MissingPackageError("cupy", purpose="the engine 'torch-cuda'", extra="gpu")
    if precision in ("tf32", "bf16") and torch.cuda.get_device_capability() < (8, 0):
        raise PrecisionError(f"{torch.cuda.get_device_name()} has no {precision}: choose fp32 or fp16.")


def _arrays(tensors: Mapping[str, Tensor]) -> dict[str, npt.NDArray[Any]]:
    """NumPy or CuPy arrays over the memory of tensors."""
    arrays: dict[str, npt.NDArray[Any]] = {}
    for name, tensor in tensors.items():
        if tensor.device.type == "cpu":
            arrays[name] = tensor.numpy()
            continue
        import cupy

        # CuPy has no bfloat16; torch's uint16 is not in every version's array interface, int16 is.
        bits = tensor.dtype is torch.bfloat16
        arrays[name] = cupy.asarray(tensor.view(torch.int16)).view(cupy.uint16) if bits else cupy.asarray(tensor)
    return arrays


@contextmanager
def _setting(owner: Any, name: str, value: Any) -> Iterator[None]:
    """A global setting of torch, changed only where it differs ("none" computes as "ieee" does), and put back."""
    before = getattr(owner, name)
    if before == value or (before, value) == ("none", "ieee"):
        yield
        return
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextmanager
def _failures(what: str) -> Iterator[None]:
    """Errors of torch and of CuPy as Sightline's."""
    try:
        yield
    except SightlineError:
        raise
    except Exception as error:  # torch.export's, CuPy's and torch's own share no base class
        said = f"torch {torch.__version__} {what}: {error}. "
        if isinstance(error, torch.OutOfMemoryError | MemoryError) or any(sign in str(error) for sign in _NO_MEMORY):
            raise OutOfMemoryError(f"{said}A smaller batch_size needs less memory.") from error
        raise EngineError(f"{said}Choose fp32, or another engine.") from error
