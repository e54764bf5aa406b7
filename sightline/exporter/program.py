"""The classifier as a ``torch.export``-ed program, for machines whose inference engine is torch itself."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sightline import bundle
from sightline.errors import ExportError, SelfCheckError
from sightline.exporter.check import CLASSIFIER_TOLERANCE, TINY
from sightline.exporter.source import classifying, run_torch

if TYPE_CHECKING:
    import torch
    from torch import fx

PROGRAM = "classifier.pt2"
FINAL_ACTIVATIONS = {"softmax": "Softmax", "log_softmax": "LogSoftmax", "sigmoid": "Sigmoid"}
"""What ATen calls the activations that a graph may end in, and what ONNX calls them."""
_PASSING = {"alias", "clone", "contiguous", "dropout", "flatten", "reshape", "squeeze", "to", "unsqueeze", "view"}
_KEPT_METADATA = {"val", "tensor_meta"}
"""Of a node's metadata: shapes and types. The rest are stack traces, with local paths and source lines, and names."""

logger = logging.getLogger(__name__)


def save_program(
    module: torch.nn.Module,
    folder: Path,
    *,
    example_shape: tuple[int, int, int],
    activation: bundle.Activation,
    ending: str | None = None,
    image: str = "image",
    output: str | None = None,
) -> float:
    """Write ``classifier.pt2`` and check it: image (N×C×H×W) -> {logits: N×K, probabilities: N×K}, N dynamic, float32.

    The same classifier as ``classifier.onnx``: where the module ends in an activation, the logits are what goes into
    it. The file holds no stack traces, no local paths and no example image.

    Args:
        module: in float32; left in the mode it was in.
        folder: where to write.
        example_shape: (C, H, W).
        activation: what turns logits into probabilities.
        ending: the activation that the ONNX graph of the same module was found to end in (``Network.ending``).
        image: the name of the input, a Python identifier.
        output: which of the module's tensors holds the classes, as for :func:`~sightline.exporter.source.classifying`.

    Returns:
        The largest difference from the module's output on images of noise, relative to its largest output.

    Raises:
        ExportError: torch.export cannot express the module, or its graph ends in another activation than ``ending``.
        SelfCheckError: the program, as written, does not reproduce the module.
    """
    import torch

    parameter = next(module.parameters(), None)
    device = parameter.device if parameter is not None else torch.device("cpu")
    # A batch of two: torch takes a dimension of one for a constant.
    batch = torch.zeros(2, *example_shape, device=device)
    try:
        with classifying(module, output):
            classifier = _export(module, batch).module()
            found = _end(classifier, activation, image)
            if found != ending:
                raise ExportError(
                    f"torch.export finds {type(module).__name__} to end in {found or 'logits'}, but its ONNX graph "
                    f"ends in {ending or 'logits'}: return the logits from the module, and pass activation=…, or "
                    "export it without a torch program."
                )
            program = _export(classifier, batch)
            if device.type != "cpu":
                from torch.export.passes import move_to_device_pass

                program = move_to_device_pass(program, "cpu")
    except ExportError:
        raise
    except Exception as error:  # torch.export's own errors share no base class
        raise ExportError(
            f"torch.export could not export {type(module).__name__}: {error}\nIf it branches on its input, remove "
            "that; or export it without a torch program."
        ) from error
    _anonymise(program)
    torch.export.save(program, folder / PROGRAM)
    difference = _error(module, folder / PROGRAM, example_shape, found, output)
    if not difference <= CLASSIFIER_TOLERANCE:
        raise SelfCheckError(
            f"{PROGRAM} differs from {type(module).__name__} by {difference:.1e} (tolerance "
            f"{CLASSIFIER_TOLERANCE:.0e}): export it without a torch program, and please report this network as a bug "
            "of Sightline."
        )
    logger.info("self-check: %s %.1e", PROGRAM, difference)
    return difference


def _export(module: torch.nn.Module, batch: torch.Tensor) -> torch.export.ExportedProgram:
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(module, (batch,), dynamic_shapes=({0: torch.export.Dim("N")},))


def _end(classifier: fx.GraphModule, activation: bundle.Activation, image: str) -> str | None:
    """End an exported graph in logits and probabilities, in place; the activation that was taken off, as ONNX says."""
    import torch
    from torch import fx

    graph, aten = classifier.graph, torch.ops.aten
    graph.set_codegen(fx.graph.CodeGen())
    for node in list(graph.nodes):
        # Checks of what the tracing saw (types, devices, sizes): the next export makes its own.
        if node.op == "call_module" or node.target is aten._assert_tensor_metadata.default:
            graph.erase_node(node)
    (placeholder,) = graph.find_nodes(op="placeholder")
    placeholder.target = placeholder.name = image
    output = graph.output_node()
    results: Any = output.args[0]
    (result,) = results
    found, logits = (None, result) if activation == "none" else _final_activation(result)
    with graph.inserting_before(output):
        one = logits.meta["val"].ndim == 1  # one logit, squeezed
        logits = graph.call_function(aten.unsqueeze.default if one else aten.flatten.using_ints, (logits, 1))
        # In a program that is cast to a lower precision, the activation stays in float32.
        logits = graph.call_function(aten.to.dtype, (logits, torch.float32))
        if activation == "softmax":
            probabilities = graph.call_function(aten.softmax.int, (logits, 1))
        else:
            operator = aten.sigmoid.default if activation == "sigmoid" else aten.clone.default
            probabilities = graph.call_function(operator, (logits,))
    output.args = ({bundle.LOGITS: logits, bundle.PROBABILITIES: probabilities},)
    graph.eliminate_dead_code()
    graph.lint()
    classifier.recompile()
    return found


def _final_activation(result: fx.Node) -> tuple[str | None, fx.Node]:
    """The activation that a graph ends in, and the logits before it."""
    node: Any = result
    while node.op == "call_function":
        operator = node.target.__name__.split(".")[0]
        if operator in FINAL_ACTIVATIONS:
            return FINAL_ACTIVATIONS[operator], node.args[0]
        if operator not in _PASSING:
            break
        node = node.args[0]
    return None, result


def _anonymise(program: torch.export.ExportedProgram) -> None:
    """Drop what says where, from what and with which image a program was made."""
    for graph_module in program.graph_module.modules():
        for node in getattr(graph_module, "graph", program.graph).nodes:
            node.meta = {key: value for key, value in node.meta.items() if key in _KEPT_METADATA}
    program._example_inputs = None


def _error(
    module: torch.nn.Module, path: Path, shape: tuple[int, int, int], ending: str | None, output: str | None
) -> float:
    import torch

    images: npt.NDArray[np.float32] = np.random.default_rng(0).standard_normal((3, *shape)).astype(np.float32)
    expected = run_torch(module, images, output).reshape(len(images), -1)
    if ending == "LogSoftmax":
        expected = np.exp(expected)
    with torch.inference_mode():
        outputs = torch.export.load(path).module()(torch.from_numpy(images))
    found = outputs[bundle.PROBABILITIES if ending else bundle.LOGITS].numpy()
    if found.shape != expected.shape or not np.isfinite(found).all():
        return float("inf")
    return float(np.abs(found - expected).max() / max(np.abs(expected).max(), TINY))
