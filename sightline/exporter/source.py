"""Reading a network: a torch module or an ONNX file becomes an ``onnx_ir`` model, nothing about it changed yet."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from sightline.errors import ExportError, MissingPackageError

if TYPE_CHECKING:
    import torch

OPSET = 21
"""What every graph is written in, unless the network needs a newer one: the first with a usable GroupNormalization."""
OLDEST_OPSET = 11

logger = logging.getLogger(__name__)


def read_onnx(path: Path) -> ir.Model:
    """Read an ONNX file; its weights may be external data beside it.

    Raises:
        ExportError: no such file, no ONNX, truncated, or external data missing, too short or outside the folder.
    """
    if not path.is_file():
        raise ExportError(f"there is no file {path}.")
    try:
        proto = onnx.load_model(path, load_external_data=False)
    except Exception as error:  # onnx takes .json and .textproto for its other formats, each with an error of its own
        raise ExportError(f"{path} is no ONNX file, or a truncated one ({error}): copy it again.") from error
    if not proto.graph.node or not proto.opset_import:
        raise ExportError(f"{path} holds no whole graph: it is no ONNX file, or a truncated one. Copy it again.")
    for tensor in _tensors(proto.graph):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            _check_external(tensor, path)
    try:
        # Read whole: what stays inside the graphs of the bundle must not point at files beside the original.
        return ir.external_data.load_to_model(ir.load(path))
    except Exception as error:
        raise ExportError(f"{path} could not be read as an ONNX graph: {error}.") from error


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of a graph and of the graphs inside it."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for inner in (attribute.g, *attribute.graphs):
                yield from _tensors(inner)


def _check_external(tensor: onnx.TensorProto, path: Path) -> None:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    folder = path.parent.resolve()
    file = (folder / location).resolve()
    if not location or Path(location).is_absolute() or not file.is_relative_to(folder):
        raise ExportError(
            f"{path}: tensor {tensor.name!r} stores its data at {location!r}, outside the model's folder. "
            "That is refused: a model must not read other files. Save it again with its data beside it."
        )
    if not file.is_file():
        raise ExportError(f"{path}: the external data {location!r} of tensor {tensor.name!r} is missing. Copy it too.")
    offset, length = int(entries.get("offset", 0)), int(entries.get("length", 0))
    if offset < 0 or length < 0 or offset + length > file.stat().st_size:
        raise ExportError(f"{path}: the external data {location!r} is too short for {tensor.name!r}. Copy it again.")


def trace_torch(module: torch.nn.Module, example: npt.NDArray[np.float32], output: str | None = None) -> ir.Model:
    """Export a torch module with ``torch.onnx`` (dynamo), its batch dynamic, in evaluation mode.

    Args:
        module: left in the mode it was in.
        example: N×C×H×W, float32.
        output: which of the module's tensors holds the classes, as for :func:`classifying`.

    Raises:
        MissingPackageError: torch or onnxscript is not installed.
        ExportError: torch cannot export the module.
    """
    try:
        import onnxscript  # noqa: F401
        import torch
    except ImportError as error:
        raise MissingPackageError(error.name or "torch", purpose="exporting a torch module", extra="torch") from error

    parameter = next(module.parameters(), None)
    if parameter is not None and parameter.dtype != torch.float32:
        raise ExportError(f"the module's parameters are {parameter.dtype}: export it in float32 (module.float()).")
    device = parameter.device if parameter is not None else torch.device("cpu")
    # A batch of two: torch takes a dimension of one for a constant.
    batch = torch.from_numpy(np.repeat(example[:1], 2, axis=0)).to(device)
    run_torch(module, example[:1], output)  # what is wrong with the module itself is said in fewer words here
    try:
        with classifying(module, output), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module,
                (batch,),
                dynamo=True,
                opset_version=OPSET,
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                verbose=False,
            )
    except Exception as error:
        raise ExportError(
            f"torch.onnx could not export {type(module).__name__}: {error}\nIf it branches on its input, remove that; "
            "or export it to ONNX your own way and pass the file."
        ) from error
    if program is None:
        raise ExportError(f"torch.onnx exported nothing for {type(module).__name__}.")
    return program.model


@contextmanager
def classifying(module: torch.nn.Module, output: str | None) -> Iterator[None]:
    """The module in evaluation mode, returning one tensor; then as it was: some of its parts may be frozen.

    Args:
        module: returns a tensor, or several in a tuple, a mapping or an object.
        output: which of several, by key, attribute or position; by default the only one, or ``logits``.
    """

    def one(module: torch.nn.Module, _: Any, returned: Any) -> torch.Tensor:
        return _one(returned, output, type(module).__name__)

    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    hook = module.register_forward_hook(one)
    try:
        yield
    finally:
        hook.remove()
        for part, mode in modes:
            part.training = mode


def _one(returned: Any, name: str | None, module: str) -> torch.Tensor:
    """Of what a module returns, the tensor that holds the classes."""
    import torch

    if isinstance(returned, torch.Tensor) and name is None:
        return returned
    if isinstance(returned, Mapping):
        parts = dict(returned)
    elif isinstance(returned, (tuple, list)):
        parts = dict(zip(getattr(returned, "_fields", range(len(returned))), returned, strict=True))
    else:
        parts = {} if isinstance(returned, torch.Tensor) else getattr(returned, "__dict__", {})
    found = {str(key): value for key, value in parts.items() if isinstance(value, torch.Tensor)}
    chosen = name or ("logits" if "logits" in found else next(iter(found), ""))
    if chosen not in found or (name is None and len(found) > 1 and chosen != "logits"):
        names = f" with {', '.join(map(repr, found))}" if found else ""
        asked = f", and no {name!r}" if name is not None else ""
        raise ExportError(
            f"{module} returns {type(returned).__name__}{names}{asked}: name the tensor that holds the classes "
            "(output=…, --output), or wrap the module in one that returns its logits."
        )
    return found[chosen]


def run_torch(
    module: torch.nn.Module, images: npt.NDArray[np.float32], output: str | None = None
) -> npt.NDArray[np.float32]:
    """The module's output in evaluation mode, for the self-check.

    Args:
        module: left in the mode it was in.
        images: N×C×H×W.
        output: as for :func:`classifying`.

    Raises:
        ExportError: the module fails on them, or does not say which tensor holds the classes.
    """
    import torch

    parameter = next(module.parameters(), None)
    try:
        with classifying(module, output), torch.inference_mode():
            found = module(torch.from_numpy(images).to(parameter.device if parameter is not None else "cpu"))
    except ExportError:
        raise
    except Exception as error:  # of any kind: it is the caller's own code
        shape = "×".join(map(str, images.shape))
        raise ExportError(f"{type(module).__name__} fails on images of {shape}: {error}") from error
    return np.asarray(found.float().cpu().numpy(), dtype=np.float32)
