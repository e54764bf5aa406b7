"""Weights that several nodes use, made safe for every engine."""

from __future__ import annotations

from sightline.exporter.single.writer import Writer


def unshare(w: Writer) -> None:
    """Negate the square weights that a transposed convolution shares with a convolution, and its input with them.

    OpenVINO's CPU plugin keeps packed weights by their address and shape, and gives the second of the two those packed
    for the first: its result is wrong without a word (2026.4; see sightline/bindings/openvino.py). The negated weights
    are a constant of their own, made when an engine loads the file, and the product is the same to the last bit. What
    only copies them would not do: engines see through it (a Gather of all rows was tried).
    """
    forward = {node.inputs[1] for node in w.graph if node.op_type == "Conv"}
    for node in list(w.graph):
        if node.op_type != "ConvTranspose":
            continue
        gradient, weights = node.inputs[:2]
        if gradient is None or weights is None or weights not in forward or weights.const_value is None:
            continue
        rows, per_group = weights.const_value.numpy().shape[:2]
        if rows == per_group * node.attributes.get_int("group", 1) and len(node.inputs) == 2:
            node.replace_input_with(0, w("Neg", w.term(gradient)).value)
            node.replace_input_with(1, w("Neg", w.term(weights)).value)
