"""A network as one graph of ATen operators, rewritten for a device and a precision."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, fx

aten = torch.ops.aten


def flatten(network: fx.GraphModule, names: Sequence[str]) -> None:
    """Make an exported graph image -> {name: output}, without checks of what the tracing saw."""
    network.graph.set_codegen(fx.graph.CodeGen())
    for node in list(network.graph.nodes):
        if node.target is aten._assert_tensor_metadata.default or (node.op == "call_module" and not node.users):
            network.graph.erase_node(node)
    output = network.graph.output_node()
    results: Any = output.args[0]
    output.args = (dict(zip(names, results, strict=True)),)


def specialised(network: fx.GraphModule, place: torch.device, dtype: torch.dtype) -> fx.GraphModule:
    """A network on a device and in a precision, its weights copies in channels_last; the outputs keep their type."""
    _fold_norms(network)

    def moved(leaf: Any) -> Any:
        return place if isinstance(leaf, torch.device) else leaf

    def lowered(leaf: Any) -> Any:
        return dtype if leaf is torch.float32 else moved(leaf)

    results = network.graph.output_node().all_input_nodes
    weights: dict[str, Any] = {}
    for node in network.graph.nodes:
        if node.op == "get_attr":
            value = attrgetter(node.target)(network)
            weights[node.target] = _moved(value, place, dtype) if isinstance(value, Tensor) else value
        elif node.op == "call_function":
            change = moved if node in results else lowered
            node.args = fx.node.map_aggregate(node.args, change)
            node.kwargs = fx.node.map_aggregate(node.kwargs, change)
    return fx.GraphModule(weights, network.graph)


def _moved(weight: Tensor, place: torch.device, dtype: torch.dtype) -> Tensor:
    return weight.detach().to(
        device=place,
        dtype=dtype if weight.is_floating_point() else weight.dtype,
        memory_format=torch.channels_last if weight.ndim == 4 else torch.preserve_format,
        copy=True,
    )


def _fold_norms(network: fx.GraphModule) -> None:
    """Put every batch normalisation that only follows a convolution into its weights, computed in float64."""
    graph = network.graph
    for norm in graph.find_nodes(op="call_function", target=aten.batch_norm.default):
        conv, scale, shift, mean, variance, training, _, epsilon, *_ = norm.args
        if conv.target not in (aten.conv2d.default, aten.conv2d.padding) or len(conv.users) > 1 or training:
            continue
        image, kernel, bias, *options = (*conv.args, None)[: max(3, len(conv.args))]
        values: list[Any] = [
            None if node is None else attrgetter(node.target)(network).detach().double()
            for node in (kernel, bias, scale, shift, mean, variance)
        ]
        weight, offset, gamma, beta, centre, spread = values
        factor = (spread + epsilon).rsqrt() * (1 if gamma is None else gamma)
        folded = {
            "weight": weight * factor.reshape(-1, 1, 1, 1),
            "bias": ((0 if offset is None else offset) - centre) * factor + (0 if beta is None else beta),
        }
        with graph.inserting_before(conv):
            nodes = []
            for kind, tensor in folded.items():
                network.register_buffer(f"{norm.name}_{kind}", tensor.float())
                nodes.append(graph.get_attr(f"{norm.name}_{kind}"))
        conv.args = (image, *nodes, *options)
        norm.replace_all_uses_with(conv)
        graph.erase_node(norm)
    graph.eliminate_dead_code()
