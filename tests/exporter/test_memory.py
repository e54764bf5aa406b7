"""The memory facts, on graphs small enough to count by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from onnx import NodeProto, TensorProto, helper, numpy_helper

from sightline import demo, load
from sightline.exporter.memory import peak, weights

node = helper.make_node
PIXELS = 4 * 2 * 8 * 8  # bytes of a float32 tensor of 1×2×8×8


def graph(nodes: list[NodeProto], outputs: list[str], name: str = "w") -> ir.Model:
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 8, 8])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None) for output in outputs],
        [
            numpy_helper.from_array(np.ones((2, 2, 1, 1), np.float32), name),
            numpy_helper.from_array(np.array([1, 128], np.int64), "flat"),
        ],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)])
    return ir.from_proto(onnx.shape_inference.infer_shapes(model))


def test_a_chain_holds_input_output_and_two_neighbours() -> None:
    chain = [node("Relu", [a], [b]) for a, b in ("xa", "ab", "bc", "cd", "dy")]
    assert peak(graph(chain, ["y"]).graph) == 4 * PIXELS


def test_a_shortcut_stays_until_it_is_added() -> None:
    branch = [node("Relu", [a], [b]) for a, b in ("xs", "sa", "ab", "bc")]
    added = [*branch, node("Add", ["s", "c"], ["d"]), node("Relu", ["d"], ["y"])]
    # x, y, the shortcut s, and two neighbours
    assert peak(graph(added, ["y"]).graph) == 5 * PIXELS


def test_views_take_no_memory_of_their_own() -> None:
    nodes = [
        node("Relu", ["x"], ["a"]),
        node("Identity", ["a"], ["i"]),
        node("Reshape", ["i", "flat"], ["r"]),
        node("Flatten", ["r"], ["f"]),
        node("Relu", ["f"], ["y"]),
    ]
    assert peak(graph(nodes, ["y"]).graph) == 3 * PIXELS


def test_a_view_keeps_what_it_views_alive() -> None:
    nodes = [
        node("Relu", ["x"], ["a"]),
        node("Identity", ["a"], ["i"]),
        *(node("Relu", [a], [b]) for a, b in ("ab", "bc")),
        node("Add", ["c", "i"], ["y"]),
    ]
    assert peak(graph(nodes, ["y"]).graph) == 5 * PIXELS


def test_every_output_stays() -> None:
    nodes = [node("Relu", [a], [b]) for a, b in ("xa", "ay", "yz")]
    assert peak(graph(nodes, ["y", "z"]).graph) == 4 * PIXELS


def test_shared_weights_count_once() -> None:
    conv = [node("Conv", ["x", "w"], ["y"])]
    other = [node("Conv", ["x", "v"], ["y"])]
    assert weights([graph(conv, ["y"]), graph(conv, ["y"])]) == 16 + 16
    assert weights([graph(conv, ["y"]), graph(other, ["y"], "v")]) == 16 + 16 + 16


def test_the_demo_tells_its_memory() -> None:
    bundle = load(demo.BUNDLE)
    known = bundle.manifest.memory
    stored = sum(file.stat().st_size for file in Path(bundle.path).glob("weights.bin"))
    assert stored <= known.weights <= stored * 1.01
    # The image, and the stem's convolution (16×112×112) before and after its ReLU.
    maps = 4 * 16 * 112 * 112
    assert 2 * maps < known.classifier - 4 * 3 * 224 * 224 < 2 * maps + 100
    assert known.attribution > known.classifier
