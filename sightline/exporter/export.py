"""From a network to a bundle."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from sightline import bundle
from sightline.errors import ExportError, UnsupportedOperatorError
from sightline.exporter import check
from sightline.exporter.attribution import attribution_graph
from sightline.exporter.blocks import block_names, channels_first, find_blocks, named_blocks
from sightline.exporter.memory import memory
from sightline.exporter.network import Network, prepare
from sightline.exporter.source import read_onnx, run_torch, trace_torch
from sightline.exporter.stages import save_stages
from sightline.exporter.storage import save_graphs

if TYPE_CHECKING:
    import torch

Shape3 = tuple[int, int, int]

logger = logging.getLogger(__name__)


def export(
    model: torch.nn.Module | str | Path,
    path: str | Path,
    *,
    example: npt.ArrayLike | torch.Tensor | None = None,
    input_shape: Shape3 | None = None,
    blocks: Sequence[str] | None = None,
    mean: Sequence[float] | float | None = None,
    std: Sequence[float] | float | None = None,
    range: float = 1.0,
    colour: bundle.Colour | None = None,
    labels: Sequence[str] | None = None,
    activation: bundle.Activation | None = None,
    output: str | None = None,
    torch_program: bool = False,
    overwrite: bool = False,
) -> bundle.Bundle:
    """Turn a CNN classifier into a bundle that any engine can explain.

    Args:
        model: a torch module, or the path of an ONNX file (opset 11 or newer).
        path: the folder to write, by convention ``name.sightline``.
        example: a preprocessed image, C×H×W or 1×C×H×W float32; gives the input's size, and the self-check is made on
            it. A torch module needs it or ``input_shape``.
        input_shape: (C, H, W), where neither the file nor an example says it.
        blocks: names of the feature maps to sample, torch modules or ONNX tensors; found in the graph by default.
        mean, std: normalisation per channel: the network gets (v/255·``range`` − mean)/std. Default: none.
        range: the value of a white pixel before the normalisation, 1 or 255.
        colour: order of the channels; RGB by default, GRAY for one channel, NONE for other numbers of channels.
        labels: names of the classes, in order.
        activation: what turns logits into probabilities; recognised at the end of the graph by default, and softmax
            (sigmoid for a single class) where the graph ends in logits. ``none``: the output is a probability already.
        output: which output holds the classes, where the network has several: the name of an ONNX output, or the key,
            attribute or position of a tensor that the torch module returns (by default ``logits``, where there is one).
        torch_program: add the torch module itself, as an exported program, for the engines ``torch`` and
            ``torch-cuda``.
        overwrite: replace a bundle of that name.

    Returns:
        The bundle, opened. Its ``manifest.checks`` hold the figures of the self-check.

    Raises:
        ExportError: the network cannot be exported; its subclasses say why (no block found, an operator without a
            differentiation rule, a failed self-check).
        BundleError: the bundle cannot be written.
    """
    if torch_program and isinstance(model, (str, Path)):
        raise ExportError("an ONNX file holds no torch program: pass the torch module, or leave torch_program out.")
    image = _example(example)
    size = input_shape or (_size(image) if image is not None else None)
    if image is not None and size is not None and tuple(size) != _size(image):
        raise ExportError(f"input_shape is {size}, but the example is C×H×W = {_size(image)}: give one of them.")
    reference, network = _read(model, size, activation, output)
    facts = _image_input(network, mean, std, range, colour)
    names = _labels(labels, network)
    chosen, found = _blocks(network, blocks)
    images = _check_images(network, image)
    if activation is None and network.ending is None:
        _require_logits(reference, network, images)

    def save(folder: Path) -> bundle.Manifest:
        attribution = attribution_graph(network, chosen)
        needed = memory(network.single, attribution)
        graphs = {
            bundle.CLASSIFIER: network.model.clone(),
            bundle.ATTRIBUTION: attribution,
            check.PROBE: check.probe_graph(network, chosen),
        }
        save_graphs(folder, graphs, _metadata(facts, found, names))
        figures = check.check(folder, network, len(found), reference, images)
        (folder / check.PROBE).unlink()
        logger.info("self-check: %s", check.describe(figures, found))
        stages, distances = _stages(folder, facts, found, images)
        manifest = replace(_manifest(network, facts, found, names, figures | distances, needed), stages=stages)
        if torch_program and not isinstance(model, (str, Path)):
            manifest = replace(manifest, variants={"torch": _torch_program(model, network, folder, output)})
        return manifest

    return bundle.write(path, save, overwrite=overwrite)


def inspect_onnx(
    path: str | Path,
    input_shape: Shape3 | None = None,
    blocks: Sequence[str] | None = None,
    activation: bundle.Activation | None = None,
    output: str | None = None,
) -> bundle.Manifest:
    """What a bundle made from an ONNX file would hold, without making it.

    Raises:
        ExportError: as :func:`export`.
    """
    network = prepare(read_onnx(Path(path)), input_shape, activation, output)
    chosen, found = _blocks(network, blocks)
    try:
        attribution = attribution_graph(network, chosen)
    except UnsupportedOperatorError:  # its way out is to choose among the very blocks that are asked for here
        attribution = network.single
    needed = memory(network.single, attribution)
    manifest = _manifest(network, _image_input(network, None, None, 1.0, None), found, None, {}, needed)
    return replace(manifest, versions={})  # nothing has been made yet


def _read(
    model: torch.nn.Module | str | Path, size: Shape3 | None, activation: bundle.Activation | None, output: str | None
) -> tuple[check.Reference, Network]:
    """The original network as a function, and the prepared one."""
    if isinstance(model, (str, Path)):
        file = Path(model)
        network = prepare(read_onnx(file), size, activation, output)
        return _original(file, output), network
    if not (hasattr(model, "parameters") and hasattr(model, "forward")):
        raise ExportError(
            f"a {type(model).__name__} cannot be exported: pass a torch module or the path of an ONNX file."
        )
    if size is None:
        raise ExportError("a torch module does not say its input's size: pass example=… or input_shape=(C, H, W).")
    network = prepare(trace_torch(model, np.zeros((1, *size), np.float32), output), size, activation)
    return lambda images: run_torch(model, images, output), network


def _original(file: Path, output: str | None) -> check.Reference:
    """An ONNX file as it is, for one image at a time.

    Raises:
        ExportError: ONNX Runtime does not open it.
    """
    try:
        original = check.session(file)
    except Exception as error:  # onnxruntime's own errors share no base class
        raise ExportError(f"ONNX Runtime, by which exports are checked, cannot open {file}: {error}") from error
    (image,) = original.get_inputs()
    batch = image.shape[0] if isinstance(image.shape[0], int) else 1
    dtype = np.float16 if image.type == "tensor(float16)" else np.float32
    # A graph's own name for what became "logits" or "probabilities".
    result = output or original.get_outputs()[0].name

    def run(images: check.Floats) -> check.Floats:
        (found,) = original.run([result], {image.name: np.repeat(images, batch, axis=0).astype(dtype)})
        return np.asarray(found, np.float32).reshape(batch, -1)[:1]

    return run


def _stages(
    folder: Path, facts: bundle.ImageInput, blocks: Sequence[bundle.Block], images: npt.NDArray[np.float32]
) -> tuple[tuple[bundle.Stage, ...], dict[str, float]]:
    """The stages, and how far each is from the whole gradient; none where the blocks allow for none."""
    try:
        return save_stages(folder, facts, blocks, images[:1])
    except ExportError as error:
        logger.warning("the bundle holds no stages, so that nothing can be decomposed: %s", error)
        for file in folder.glob("stage.*.onnx"):
            file.unlink()
        return (), {}


def _torch_program(model: torch.nn.Module, network: Network, folder: Path, output: str | None) -> dict[str, Any]:
    """Write the module as a program of torch; how, and how far it is from the module."""
    from sightline.exporter.program import save_program

    error = save_program(
        model,
        folder,
        example_shape=(network.channels, network.height, network.width),
        activation=network.activation,
        ending=network.ending,
        image=network.image,
        output=output,
    )
    return {"error": error, "versions": {"torch": version("torch")}}


def _example(example: Any) -> npt.NDArray[np.float32] | None:
    """1×C×H×W."""
    if example is None:
        return None
    if hasattr(example, "detach"):
        example = example.detach().cpu()
    image = np.asarray(example)
    if image.ndim == 3:
        image = image[None]
    if image.ndim != 4 or not np.issubdtype(image.dtype, np.floating):
        raise ExportError(
            f"the example has shape {image.shape} and type {image.dtype}: pass a preprocessed float image, C×H×W."
        )
    if not np.isfinite(image).all():
        raise ExportError("the example holds NaN or infinity: pass a preprocessed image.")
    return image[:1].astype(np.float32)


def _size(image: npt.NDArray[np.float32]) -> Shape3:
    _, channels, height, width = image.shape
    return channels, height, width


def _check_images(network: Network, image: npt.NDArray[np.float32] | None) -> npt.NDArray[np.float32]:
    """The example and two images of noise: the batch must be free, and rows must not mix."""
    random = np.random.default_rng(0)
    noise = random.standard_normal((3, network.channels, network.height, network.width)).astype(np.float32)
    if image is not None:
        noise[:1] = image
    return noise if network.layout == "NCHW" else np.ascontiguousarray(noise.transpose(0, 2, 3, 1))


def _require_logits(reference: check.Reference, network: Network, images: npt.NDArray[np.float32]) -> None:
    """What is taken for logits must not be probabilities already: a second softmax would flatten them."""
    rows = np.concatenate([reference(images[index : index + 1]).reshape(1, -1) for index in range(len(images))])
    if network.activation == "softmax" and (rows >= 0).all() and np.allclose(rows.sum(axis=1), 1, rtol=0, atol=1e-3):
        raise ExportError(
            "the network's outputs are probabilities already (of every image looked at they lie in [0, 1] and sum to "
            "1), but it does not end in a Softmax that could be taken off: to explain them as they are, pass "
            "activation='none' (--activation none); or let it return its logits."
        )


def _image_input(
    network: Network,
    mean: Sequence[float] | float | None,
    std: Sequence[float] | float | None,
    range: float,
    colour: bundle.Colour | None,
) -> bundle.ImageInput:
    if colour is None:
        colour = {1: "GRAY", 3: "RGB"}.get(network.channels, "NONE")  # type: ignore[assignment]
    needed = {"RGB": 3, "BGR": 3, "GRAY": 1, "NONE": network.channels}.get(str(colour))
    if needed is None or colour is None:
        raise ExportError(f"colour {colour!r} is unknown: choose RGB, BGR, GRAY or NONE.")
    if needed != network.channels:
        raise ExportError(f"colour {colour} has {needed} channels, but the network takes {network.channels}.")
    if not range > 0:
        raise ExportError(f"range is {range}: the value of a white pixel is positive, usually 1 or 255.")
    means, stds = (_per_channel(*given, network.channels) for given in (("mean", mean, 0.0), ("std", std, 1.0)))
    if not all(value > 0 for value in stds):
        raise ExportError(f"std is {stds}: every entry must be positive.")
    return bundle.ImageInput(
        name=network.image,
        channels=network.channels,
        height=network.height,
        width=network.width,
        layout=network.layout,
        colour=colour,
        range=float(range),
        mean=means,
        std=stds,
    )


def _per_channel(name: str, given: Sequence[float] | float | None, default: float, channels: int) -> tuple[float, ...]:
    values = [default] if given is None else np.asarray(given, np.float64).reshape(-1).tolist()
    if len(values) not in (1, channels) or not np.isfinite(values).all():
        raise ExportError(f"{name} is {values}: give one number, or one for each of the {channels} channels.")
    return tuple(values * (channels if len(values) == 1 else 1))


def _labels(labels: Sequence[str] | None, network: Network) -> tuple[str, ...] | None:
    if labels is None:
        return None
    names = tuple(str(label) for label in labels)
    if len(names) != network.classes:
        raise ExportError(f"there are {len(names)} labels for {network.classes} classes: give one for each, in order.")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ExportError(f"labels must differ from one another; given more than once: {', '.join(twice)}.")
    return names


def _blocks(network: Network, names: Sequence[str] | None) -> tuple[list[ir.Value], tuple[bundle.Block, ...]]:
    graph = network.single.graph
    (image,) = graph.inputs
    if names is None:
        values = find_blocks(graph, image, graph.outputs[0], network.layout)
        titles = block_names(graph, values)
    else:
        values, titles = named_blocks(graph, names)
    values = channels_first((graph, network.model.graph), image, network.layout, values)
    blocks = []
    for index, (value, title) in enumerate(zip(values, titles, strict=True)):
        _, channels, height, width = (int(size) for size in value.shape or () if isinstance(size, int))
        blocks.append(bundle.Block(title, index, channels, height, width))
    return values, tuple(blocks)


def _metadata(facts: bundle.ImageInput, blocks: Sequence[bundle.Block], labels: Sequence[str] | None) -> dict[str, str]:
    """What an ONNX file says of itself when it is used outside its bundle."""
    return {
        "sightline.schema": str(bundle.SCHEMA),
        "sightline.input": json.dumps(asdict(facts)),
        "sightline.blocks": json.dumps([block.name for block in blocks]),
        "sightline.labels": json.dumps(labels),
    }


def _manifest(
    network: Network,
    facts: bundle.ImageInput,
    blocks: tuple[bundle.Block, ...],
    labels: tuple[str, ...] | None,
    figures: dict[str, float],
    needed: bundle.Memory,
) -> bundle.Manifest:
    versions = {}
    for package in ("sightline", "onnx", "onnx-ir", "onnxscript", "onnxruntime", "torch"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return bundle.Manifest(
        input=facts,
        classes=network.classes,
        activation=network.activation,
        activation_found=network.ending is not None,
        blocks=blocks,
        opset=network.model.graph.opset_imports[""],
        memory=needed,
        labels=labels,
        checks=figures,
        versions=versions,
    )
