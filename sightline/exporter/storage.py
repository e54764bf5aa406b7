"""Writing graphs that share one weight file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import onnx_ir as ir
import onnx_ir.passes.common as passes

from sightline import bundle

INLINE_BYTES = 1024
"""Smaller tensors stay in the graphs: engines want shapes and axes at hand, and a file of them saves nothing."""


def save_graphs(folder: Path, graphs: Mapping[str, ir.Model], metadata: Mapping[str, str]) -> None:
    """Write graphs into a folder, every large tensor once into ``weights.bin``.

    Args:
        folder: where to write.
        graphs: file name -> model. Names of torch modules, local paths and stack traces are removed from them.
        metadata: what stands in the ``metadata_props`` of every graph.
    """
    for model in graphs.values():
        passes.ClearMetadataAndDocStringPass()(model)
        model.producer_name, model.producer_version = "sightline", ""
        model.metadata_props.clear()
        model.metadata_props.update(metadata)
    share([value for model in graphs.values() for value in model.graph.initializers.values()], folder, bundle.WEIGHTS)
    for name, model in graphs.items():
        ir.save(model, folder / name)


def share(initializers: Iterable[ir.Value], folder: Path, name: str) -> None:
    """Store initializers, those that are not small, in one file beside the graphs; equal ones once."""
    places: dict[tuple[str, tuple[int, ...], str], int] = {}
    tensors: list[ir.TensorProtocol] = []
    stored: list[tuple[ir.Value, int]] = []
    for value in initializers:
        tensor = value.const_value
        if tensor is None or tensor.nbytes < INLINE_BYTES:
            continue
        digest = hashlib.sha256(tensor.tobytes()).hexdigest()
        key = (str(tensor.dtype), tuple(tensor.numpy().shape), digest)
        if key not in places:
            places[key] = len(tensors)
            tensors.append(tensor)
        stored.append((value, places[key]))
    external = ir.external_data.convert_tensors_to_external(tensors, folder, name)
    for value, place in stored:
        value.const_value = external[place]
