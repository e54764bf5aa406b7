"""The classifier's graph between its image and its logits, to be written again in another precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes
from onnx import ModelProto, NodeProto, TensorProto, helper

from sightline import bundle

EXTERNAL_BYTES = 3 << 29
"""Larger graphs keep their weights in a file of their own: protobuf ends at 2 GiB."""
BATCH = "N"
"""Name of the dynamic dimension."""
_HEAD = "head.fp32/"


def load(source: bundle.Bundle) -> ModelProto:
    """The classifier with its weights inside and every type known."""
    model = onnx.load(source.classifier)
    return model if model.ByteSize() > EXTERNAL_BYTES else onnx.shape_inference.infer_shapes(model)


def behead(model: ModelProto) -> tuple[ModelProto, str]:
    """The graph cut off before its named outputs and their activation, and the name of what was the logits."""
    graph = model.graph
    producers = {name: node for node in graph.node for name in node.output}
    raw = bundle.LOGITS
    while raw in producers and producers[raw].op_type == "Identity":
        raw = producers[raw].input[0]
    if raw in (bundle.LOGITS, bundle.PROBABILITIES):
        for node in graph.node:
            _rename(node, raw, f"{_HEAD}raw")
        raw = f"{_HEAD}raw"
    logits = helper.make_tensor_value_info(raw, TensorProto.FLOAT, None)
    del graph.output[:]
    graph.output.append(logits)
    return _tidied(model), raw


def append_head(model: ModelProto, raw: str, source: bundle.Bundle) -> ModelProto:
    """The graph, ended in logits and probabilities as the classifier is, in float32."""
    (half,) = (value.type.tensor_type.elem_type == TensorProto.FLOAT16 for value in model.graph.input)
    if half:
        model.graph.node.append(helper.make_node("Cast", [raw], [bundle.LOGITS], f"{_HEAD}cast", to=TensorProto.FLOAT))
    else:
        model.graph.node.append(helper.make_node("Identity", [raw], [bundle.LOGITS], f"{_HEAD}identity"))
    ends: dict[str, tuple[str, dict[str, Any]]] = {
        "softmax": ("Softmax", {"axis": 1}),
        "sigmoid": ("Sigmoid", {}),
        "none": ("Identity", {}),
    }
    operator, attributes = ends[source.manifest.activation]
    model.graph.node.append(
        helper.make_node(operator, [bundle.LOGITS], [bundle.PROBABILITIES], f"{_HEAD}activation", **attributes)
    )
    del model.graph.output[:]
    model.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [BATCH, source.classes])
        for name in (bundle.LOGITS, bundle.PROBABILITIES)
    )
    return _tidied(model)


def save(model: ModelProto, path: Path, source: bundle.Bundle) -> None:
    """Write a graph that says of itself what the classifier says."""
    original = onnx.load(source.classifier, load_external_data=False)
    model.producer_name, model.producer_version, model.doc_string = "sightline", "", ""
    del model.metadata_props[:]
    model.metadata_props.extend(original.metadata_props)
    write(model, path)


def write(model: ModelProto, path: Path) -> None:
    """Write a graph: with its weights inside, or, where they are too large for that, in a file beside it."""
    large = model.ByteSize() > EXTERNAL_BYTES
    onnx.save(model, path, save_as_external_data=large, location=f"{path.name}.bin" if large else None)
    if large:  # saving has moved them out of the model, too
        onnx.load_external_data_for_model(model, str(path.parent))


def _rename(node: NodeProto, old: str, new: str) -> None:
    for names in (node.input, node.output):
        for place, name in enumerate(names):
            if name == old:
                names[place] = new


def _tidied(model: ModelProto) -> ModelProto:
    """The same graph without what its outputs do not need, its nodes in order."""
    tidy = ir.passes.Sequential(passes.RemoveUnusedNodesPass(), passes.TopologicalSortPass())
    return ir.to_proto(tidy(ir.from_proto(model)).model)
