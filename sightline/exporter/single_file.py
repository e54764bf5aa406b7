"""One ordinary ONNX file that explains: image -> logits, probabilities, explained, saliency, passes.

docs/single-file.md tells what stands in it.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes

from sightline import bundle
from sightline.bundle import Bundle
from sightline.errors import ExportError, MethodError
from sightline.exporter.check import session
from sightline.exporter.single.cam import CAMS
from sightline.exporter.single.graph import MAX_PASSES, MU, Recipe, explaining_model
from sightline.exporter.storage import share
from sightline.numeric import real, whole, whole_or_none

CONTRACT = "1"
"""Of the names, types and meanings of inputs, outputs and metadata."""
METHODS = ("sise", "ada-sise", *CAMS)
BATCH_SIZE = 16
LARGEST = 2**31 - 2**24
"""Bytes of weights in one file: protobuf ends at 2 GiB, and the graph itself needs room."""

logger = logging.getLogger(__name__)


def export_single_file(
    source: Bundle | str | Path,
    path: str | Path,
    *,
    method: str = "sise",
    mu: float = 0.0,
    max_passes: int | None = None,
    batch_size: int = BATCH_SIZE,
    inputs: Sequence[str] | None = None,
    uint8: bool = False,
    float64: bool = True,
    external_data: bool = False,
    overwrite: bool = False,
) -> Path:
    """Write a method for one network as a single ONNX graph that any engine runs, in any language.

    Args:
        source: a bundle, or its folder.
        path: the file to write, by convention ``name.onnx``.
        method: ``sise``, ``ada-sise``, ``grad-cam`` or ``layer-cam``, the latter two at the last block.
        mu: SISE's μ in [0, 1).
        max_passes: score at most so many masks, those with the largest α/β over all blocks; all by default. The others
            are left out: the runtime's ``predict=False``.
        batch_size: masked images per pass.
        inputs: which of ``target``, ``mu`` and ``max_passes`` are inputs of the graph; the others are constants. By
            default the class, and μ where the method has it. Each is a tensor of one entry, and has to be fed: optional
            inputs cannot be given in JavaScript and OpenVINO. A target below 0 is the predicted class, a mu below 0
            and a max_passes below 1 mean the values given here.
        uint8: the image is H×W×3 pixels (RGB; H×W×1 where the network takes grey), normalised inside; by default it is
            the preprocessed batch of one.
        float64: compute sums and thresholds in float64, as the runtime does. If False the graph holds no float64 at
            all, for engines without it (WebGPU).
        external_data: write the weights beside the file, once, as ``<path>.data``; inside it they stand twice.
        overwrite: replace a file of that name.

    Returns:
        The path.

    Raises:
        BundleError: there is no bundle.
        MethodError: there is no such method, it has no such parameter, or the parameter is out of range.
        ExportError: the place is taken or cannot be written, or the file is too large for one file (2 GiB).
    """
    opened = source if isinstance(source, Bundle) else bundle.load(source)
    recipe = _recipe(opened, method, mu, max_passes, batch_size, inputs, uint8, float64)
    target = Path(path)
    for taken in (target, *([_beside(target)] if external_data else [])):
        if taken.exists() and (not overwrite or taken.is_dir()):
            raise ExportError(f"{taken} exists already: pass overwrite=True (--force), or choose another name.")
    model = explaining_model(opened, recipe)
    passes.ClearMetadataAndDocStringPass()(model)
    model.producer_name, model.producer_version = "sightline", version("sightline")
    model.metadata_props.clear()
    model.metadata_props.update(_metadata(opened, recipe))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            _write(model, temporary / target.name, external_data)
            for file in sorted(temporary.iterdir(), key=lambda file: file.name == target.name):  # the weights first
                os.replace(file, target.parent / file.name)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise ExportError(f"{target} could not be written: {error.strerror or error}.") from error
    return target


def _recipe(
    source: Bundle,
    method: str,
    mu: float,
    max_passes: int | None,
    batch_size: int,
    inputs: Sequence[str] | None,
    uint8: bool,
    float64: bool,
) -> Recipe:
    if method not in METHODS:
        raise MethodError(f"a single file cannot hold the method {method!r}: choose {', '.join(METHODS)}.")
    if not 0 <= real(mu) < 1:
        raise MethodError(f"mu={mu!r} is out of range: choose 0 <= mu < 1, for example 0.3.")
    if mu and method != "sise":
        raise MethodError(f"mu belongs to sise, not to {method}: leave it out.")
    max_passes = whole_or_none("max_passes", max_passes, MethodError)
    batch_size = whole("batch_size", batch_size, MethodError)
    if max_passes is not None and method in CAMS:
        raise MethodError(f"{method} makes no masked passes: leave max_passes out.")
    allowed = [bundle.TARGET]
    if method == "sise":
        allowed.append(MU)
    if method not in CAMS:
        allowed.append(MAX_PASSES)
    chosen = tuple(allowed[: 2 if method == "sise" else 1] if inputs is None else dict.fromkeys(inputs))
    if unknown := [name for name in chosen if name not in allowed]:
        raise MethodError(f"{', '.join(unknown)} cannot be an input of {method}: choose among {', '.join(allowed)}.")
    if uint8 and source.input.colour == "NONE":
        raise ExportError(
            f"this network takes {source.input.channels} channels that are no picture's: leave uint8 out, and feed "
            "preprocessed arrays."
        )
    return Recipe(method, float(mu), max_passes, batch_size, chosen, uint8, float64)


def _metadata(source: Bundle, recipe: Recipe) -> dict[str, str]:
    parameters: dict[str, object] = {"mu": recipe.mu} if recipe.method == "sise" else {}
    if recipe.masked:
        # Beyond the limit the graph leaves masks out, as the runtime does without predictions.
        parameters |= {"predict": False, "max_passes": recipe.max_passes}
    return {
        "sightline.single_file": CONTRACT,
        "sightline.version": version("sightline"),
        "sightline.bundle": source.hash,
        "sightline.input": json.dumps(asdict(source.input)),
        "sightline.pixels": "uint8" if recipe.uint8 else "float32",
        "sightline.precision": "float64" if recipe.float64 else "float32",
        "sightline.labels": json.dumps(source.labels),
        "sightline.method": json.dumps(
            {"name": recipe.method, "parameters": parameters, "batch_size": recipe.batch_size}
        ),
        "sightline.activation": source.manifest.activation,
    }


def _beside(path: Path) -> Path:
    """Where the weights of a file go that does not hold them itself."""
    return path.with_name(f"{path.name}.data")


def _write(model: ir.Model, path: Path, external_data: bool) -> None:
    """Write the model and check it: the standard's own checker, and that ONNX Runtime opens it."""
    initializers = [value for graph in (model.graph, *model.graph.subgraphs()) for value in graph.initializers.values()]
    if external_data:
        share(initializers, path.parent, _beside(path).name)
    elif (size := sum(value.const_value.nbytes for value in initializers if value.const_value)) > LARGEST:
        raise ExportError(
            f"the weights, twice in one file, take {size / 2**30:.1f} GiB, and an ONNX file holds less than 2: pass "
            "external_data=True (--external-data)."
        )
    ir.save(model, path)
    try:
        onnx.checker.check_model(path, full_check=True)
        session(path)
    except Exception as error:  # the checker's and the runtime's errors share no base class
        raise ExportError(
            f"the graph of {path.name} is not valid ({error}): please report this network as a bug of Sightline."
        ) from error


def described(path: Path) -> str:
    """What a file takes and gives, one line each, as the command line shows it."""
    graph = onnx.load_model(path, load_external_data=False).graph
    lines = [f"{path} ({path.stat().st_size / 2**20:.1f} MiB)"]
    for title, values in (("takes", graph.input), ("gives", graph.output)):
        for value in values:
            tensor = value.type.tensor_type
            shape = "×".join(str(size.dim_value) for size in tensor.shape.dim)
            lines.append(f"  {title} {value.name}: {onnx.TensorProto.DataType.Name(tensor.elem_type).lower()} {shape}")
    return "\n".join(lines)
