"""Every differentiation rule alone: one-operator models of random shapes and attributes, against central differences.

The oracle is ONNX's own reference evaluator in float64. That ONNX Runtime computes the same operator is checked on the
way, so that a disagreement of the two evaluators is never taken for one of the rule.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from sightline.errors import ExportError, UnsupportedOperatorError
from sightline.exporter.gradient import vector_jacobian
from sightline.exporter.rules import RULES
from tests.exporter import operators
from tests.exporter.operators import Oracle

Array: TypeAlias = npt.NDArray[Any]
Draw: TypeAlias = st.DrawFn

STEP = 1e-5
RELATIVE = 1e-4
FLOATS = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.float64): TensorProto.DOUBLE}
DIRECTIONS = 4
EXAMPLES = 10


@dataclass(frozen=True)
class Case:
    """One node. Inputs at ``wrt`` vary, the others are constants; None is an optional input left out."""

    operator: str
    inputs: Sequence[Array | None]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    wrt: tuple[int, ...] = (0,)
    outputs: int = 1
    output: int = 0
    opset: int = 21
    oracle: Oracle | None = None
    """Computes the node in float64 where ONNX's reference evaluator cannot."""

    def model(self, dtype: npt.DTypeLike) -> onnx.ModelProto:
        """The node as a model whose floats have this type; shapes are inferred and static."""
        names = ["" if value is None else f"x{i}" for i, value in enumerate(self.inputs)]
        arrays = {name: _as(dtype, value) for name, value in zip(names, self.inputs, strict=True) if value is not None}
        results = [f"y{i}" for i in range(self.outputs)]
        graph = helper.make_graph(
            [helper.make_node(self.operator, names, results, name="the_node", **self.attributes)],
            "case",
            [_info(names[i], arrays[names[i]]) for i in self.wrt],
            [helper.make_tensor_value_info(results[self.output], FLOATS[np.dtype(dtype)], None)],
            [onnx.numpy_helper.from_array(arrays[n], n) for n in arrays if n not in {names[i] for i in self.wrt}],
        )
        opsets = [helper.make_opsetid("", self.opset)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        return onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)

    def forward(self) -> Callable[[Mapping[str, Array]], Array]:
        """What the node computes, in float64, as a function of the inputs that vary."""
        if self.oracle is None:
            evaluator = ReferenceEvaluator(self.model(np.float64))
            return lambda feeds: np.asarray(next(iter(evaluator.run(None, dict(feeds)))))
        oracle = self.oracle
        inputs = {f"x{i}": value for i, value in enumerate(self.inputs)}
        return lambda feeds: oracle(*{**inputs, **feeds}.values())

    def feeds(self, dtype: npt.DTypeLike) -> dict[str, Array]:
        return {f"x{i}": _as(dtype, value) for i in self.wrt if (value := self.inputs[i]) is not None}


def _as(dtype: npt.DTypeLike, value: Array) -> Array:
    """Values are drawn in float64; what is anything else must be (indices, conditions, the scales of Resize)."""
    return np.asarray(value.astype(dtype) if value.dtype == np.float64 else value)


def _info(name: str, value: Array) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)


def run(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """All outputs of a model by ONNX Runtime."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def assert_derivative(case: Case, seed: Array, position: int, gradient: Array) -> None:
    """A gradient, seedᵀ·∂y/∂x, against central differences in float64 along random directions.

    An error e of the gradient shows as e·d, of size ‖e‖ for a normal d, wherever it hides.
    """
    forward = case.forward()
    feeds = case.feeds(np.float64)
    name = f"x{position}"
    x = feeds[name]
    assert gradient.shape == x.shape, f"shape {gradient.shape}, not {x.shape}"
    random = np.random.default_rng(1)
    for _ in range(DIRECTIONS):
        direction = random.standard_normal(x.shape)
        ahead, behind = ((forward({**feeds, name: x + step * direction}) * seed).sum() for step in (STEP, -STEP))
        want, got = (ahead - behind) / (2 * STEP), (gradient * direction).sum()
        allowed = RELATIVE * np.linalg.norm(gradient.ravel()) + 1e-5
        what = f"{case.operator} {dict(case.attributes)} by input {position}"
        assert abs(got - want) <= allowed, f"{what}: {got} along a direction, not {want}\n{gradient}"


def assert_close(got: Array, want: Array, what: str, relative: float = RELATIVE) -> None:
    assert got.shape == want.shape, f"{what}: shape {got.shape}, not {want.shape}"
    error = np.linalg.norm((got - want).ravel())
    assert error <= relative * np.linalg.norm(want.ravel()) + 1e-6, f"{what}: {error:.2e} off\n{got}\n{want}"


def check(case: Case) -> None:
    """The rule's gradient of one node against central differences."""
    model = case.model(np.float32)
    feeds = case.feeds(np.float32)
    name = f"y{case.output}"
    y = run(model, feeds)[name]
    assert_close(
        y, case.forward()(case.feeds(np.float64)), f"{case.operator} {dict(case.attributes)} by two evaluators"
    )
    seed = np.random.default_rng(0).standard_normal(y.shape).astype(np.float32)
    # Shape inference leaves out a few operators, which the exporter's own pipeline has expanded or inferred by then.
    del model.graph.output[:]
    model.graph.output.append(_info(name, y))
    differentiated = vector_jacobian(ir.from_proto(model), name, list(feeds))
    result = run(ir.to_proto(differentiated), {**feeds, "seed": seed})
    for position in case.wrt:
        assert_derivative(case, seed.astype(np.float64), position, result[f"gradient.x{position}"])


# -- random values ----------------------------------------------------------------------------------------------------


def generator(draw: Draw) -> np.random.Generator:
    return np.random.default_rng(draw(st.integers(0, 2**16)))


def normal(draw: Draw, shape: Sequence[int]) -> Array:
    return generator(draw).standard_normal(tuple(shape))


def spaced(draw: Draw, shape: Sequence[int]) -> Array:
    """Values in (-2, 2) of which no two are nearly equal, so that every maximum is one."""
    size = int(np.prod(shape))
    values = (np.arange(size) + 0.5) / size * 4 - 2
    return generator(draw).permutation(values).reshape(tuple(shape))


def clear(values: Array, *kinks: float) -> Array:
    """Values moved away from where a function bends."""
    for kink in kinks:
        near = np.abs(values - kink) < 0.01
        values = np.where(near, kink + 0.02, values)
    return values


def shapes(draw: Draw, rank: tuple[int, int] = (1, 4), side: int = 4) -> tuple[int, ...]:
    return tuple(draw(st.lists(st.integers(1, side), min_size=rank[0], max_size=rank[1])))


def broadcastable(draw: Draw, shape: Sequence[int]) -> tuple[int, ...]:
    """A shape that broadcasts to this one: leading axes dropped, some sizes 1."""
    kept = tuple(shape)[draw(st.integers(0, len(shape))) :]
    return tuple(draw(st.sampled_from([1, size])) for size in kept)


# -- cases ------------------------------------------------------------------------------------------------------------

Maker: TypeAlias = Callable[[Draw], Case]
TABLE: list[tuple[str, str, Maker]] = []
"""Operator, variant, and what draws a case."""


def case(operator: str, variant: str = "") -> Callable[[Maker], Maker]:
    def register(maker: Maker) -> Maker:
        TABLE.append((operator, variant, maker))
        return maker

    return register


def pointwise(
    operator: str,
    *kinks: float,
    variant: str = "",
    positive: bool = False,
    scale: float = 2.0,
    opset: int = 21,
    oracle: Oracle | None = None,
    **attributes: Any,
) -> None:
    """A function of one tensor; an attribute that is a tuple is an interval to draw from."""

    def maker(draw: Draw) -> Case:
        x = normal(draw, shapes(draw)) * scale
        x = np.abs(x) + 0.3 if positive else clear(x, *kinks)
        chosen = {
            name: draw(st.sampled_from([value[0], (value[0] + value[1]) / 2, value[1]]))
            if isinstance(value, tuple)
            else value
            for name, value in attributes.items()
        }
        return Case(operator, [x], chosen, opset=opset, oracle=oracle)

    case(operator, variant)(maker)


pointwise("Abs", 0)
pointwise("Celu", 0)
pointwise("Celu", 0, variant="alpha", alpha=(0.5, 2.0))
pointwise("Elu", 0)
pointwise("Elu", 0, variant="alpha", alpha=(0.5, 2.0))
pointwise("Erf", scale=1.0, oracle=operators.erf)
pointwise("Exp", scale=1.0)
pointwise("Gelu", oracle=operators.gelu)
pointwise("Gelu", variant="tanh", approximate="tanh")
pointwise("HardSigmoid", -2.5, 2.5, scale=3.0)
pointwise("HardSigmoid", -3, 3, variant="alpha", scale=3.0, alpha=1 / 6, beta=0.5)
pointwise("HardSwish", -3, 3, scale=3.0)
pointwise("LeakyRelu", 0)
pointwise("LeakyRelu", 0, variant="alpha", alpha=(0.05, 0.9))
pointwise("Log", positive=True)
pointwise("Mish")
pointwise("Neg")
pointwise("Reciprocal", positive=True)
pointwise("Relu", 0)
pointwise("Selu", 0)
pointwise("Selu", 0, variant="alpha", alpha=(0.5, 2.0), gamma=(0.5, 2.0))
pointwise("Sigmoid")
pointwise("Softplus")
pointwise("Softsign", 0)
pointwise("Sqrt", positive=True)
pointwise("Swish", opset=24)
pointwise("Swish", variant="alpha", opset=24, alpha=(0.5, 2.0))
pointwise("Tanh", scale=1.0)
pointwise("ThresholdedRelu", 1)
pointwise("ThresholdedRelu", 0.5, variant="alpha", alpha=0.5)
pointwise("Identity")
pointwise("Dropout")
pointwise("Softmax", variant="last axis", scale=1.0)
pointwise("LogSoftmax", variant="last axis", scale=1.0)


@case("Clip")
def clip(draw: Draw) -> Case:
    low, high = draw(st.sampled_from([(-1.0, 1.0), (0.0, 6.0), (None, 1.0), (0.0, None), (None, None)]))
    bounds = [None if bound is None else np.array(bound) for bound in (low, high)]
    while bounds and bounds[-1] is None:
        bounds.pop()
    kinks = [bound for bound in (low, high) if bound is not None]
    return Case("Clip", [clear(normal(draw, shapes(draw)) * 3, *kinks), *bounds])


@case("PRelu")
def prelu(draw: Draw) -> Case:
    shape = shapes(draw, (2, 4))
    slopes = draw(st.sampled_from([(1,), (shape[1], *[1] * (len(shape) - 2)), shape]))
    return Case("PRelu", [clear(normal(draw, shape), 0), np.abs(normal(draw, slopes))])


@case("Pow")
def power(draw: Draw) -> Case:
    exponent = draw(st.sampled_from([2.0, 3.0, 0.5, -1.0, 1.7, 1.0]))
    x = normal(draw, shapes(draw))
    whole = exponent in (1.0, 2.0, 3.0)
    return Case("Pow", [x if whole else np.abs(x) + 0.3, np.array(exponent).reshape(draw(st.sampled_from([(), (1,)])))])


@case("Pow", "a negative base and an even or odd exponent")
def power_of_negative(draw: Draw) -> Case:
    exponent = draw(st.sampled_from([2.0, 3.0, 4.0, -2.0]))
    return Case("Pow", [-np.abs(normal(draw, shapes(draw))) - 0.5, np.array(exponent)])


def binary(operator: str) -> None:
    def maker(draw: Draw) -> Case:
        shape = shapes(draw, (0, 4))
        left = shape if draw(st.booleans()) else broadcastable(draw, shape)
        right = broadcastable(draw, shape) if left == shape else shape
        a, b = normal(draw, left), normal(draw, right)
        if operator == "Div":
            b = np.sign(b) * (np.abs(b) + 0.5)
        return Case(operator, [a, b], wrt=draw(st.sampled_from([(0,), (1,), (0, 1)])))

    case(operator)(maker)


for _operator in ("Add", "Sub", "Mul", "Div"):
    binary(_operator)


@case("Add", "both sides broadcast")
def add_both(draw: Draw) -> Case:
    return Case("Add", [normal(draw, (2, 1, 3)), normal(draw, (4, 1))], wrt=(0, 1))


def variadic(operator: str, spread: bool) -> None:
    def maker(draw: Draw) -> Case:
        shape = shapes(draw)
        count = draw(st.integers(1, 3))
        sizes = [shape, *(broadcastable(draw, shape) for _ in range(count - 1))]
        # One pool of well-spaced values for all inputs: no two of them tie.
        pool = (spaced if spread else normal)(draw, (sum(int(np.prod(size)) for size in sizes),))
        inputs: list[Array | None] = []
        for size in sizes:
            taken, pool = np.split(pool, [int(np.prod(size))])
            inputs.append(taken.reshape(size))
        return Case(operator, inputs, wrt=tuple(range(count)))

    case(operator)(maker)


variadic("Max", spread=True)
variadic("Min", spread=True)
variadic("Mean", spread=False)
variadic("Sum", spread=False)


@case("Where")
def where(draw: Draw) -> Case:
    shape = shapes(draw)
    condition = generator(draw).random(broadcastable(draw, shape)) < 0.5
    inputs = [condition, normal(draw, shape), normal(draw, broadcastable(draw, shape))]
    return Case("Where", inputs, wrt=draw(st.sampled_from([(1,), (2,), (1, 2)])))


@case("Gemm")
def gemm(draw: Draw) -> Case:
    m, k, n = (draw(st.integers(1, 4)) for _ in range(3))
    flip_a, flip_b = draw(st.booleans()), draw(st.booleans())
    added = draw(st.sampled_from([None, (m, n), (n,), (1, n), (m, 1), ()]))
    inputs = [normal(draw, (k, m) if flip_a else (m, k)), normal(draw, (n, k) if flip_b else (k, n))]
    attributes: dict[str, Any] = {"transA": int(flip_a), "transB": int(flip_b)}
    attributes |= draw(st.sampled_from([{}, {"alpha": 0.5}, {"beta": 0.25}, {"alpha": 1.5, "beta": 2.0}]))
    rest = [] if added is None else [normal(draw, added)]
    return Case("Gemm", [*inputs, *rest], attributes, wrt=draw(st.sampled_from([(0,), tuple(range(2 + len(rest)))])))


@case("MatMul")
def matmul(draw: Draw) -> Case:
    left, right = draw(
        st.sampled_from(
            [
                ((3, 4), (4, 2)),
                ((4,), (4, 2)),
                ((3, 4), (4,)),
                ((4,), (4,)),
                ((2, 3, 4), (4, 2)),
                ((3, 4), (2, 4, 2)),
                ((2, 1, 3, 4), (3, 4, 2)),
                ((4,), (2, 4, 3)),
                ((2, 3, 4), (4,)),
                ((2, 3, 1, 4), (1, 3, 4, 1)),
            ]
        )
    )
    return Case("MatMul", [normal(draw, left), normal(draw, right)], wrt=draw(st.sampled_from([(0,), (1,), (0, 1)])))


# -- windows ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Slides:
    """A sliding window drawn so that it fits: sizes per spatial axis, and the attributes that say so."""

    lengths: tuple[int, ...]
    kernel: tuple[int, ...]
    attributes: dict[str, Any]


def slides(draw: Draw, rank: int, *, pooling: bool = False, dilated: bool = True) -> Slides:
    lengths, kernel, strides, dilations, begins, ends = [], [], [], [], [], []
    side = {1: 10, 2: 7, 3: 5}[rank]
    automatic = draw(st.sampled_from(["NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    for _ in range(rank):
        size = draw(st.integers(1, 3))
        dilation = draw(st.integers(1, 2)) if dilated and automatic in ("NOTSET", "VALID") else 1
        reach = (size - 1) * dilation + 1
        kernel.append(size)
        dilations.append(dilation)
        # ONNX Runtime refuses to fit ("SAME") windows that leave gaps.
        strides.append(draw(st.integers(1, size if automatic.startswith("SAME") else 3)))
        lengths.append(draw(st.integers(max(reach, 3), max(side, reach))))
        # A pool's padding must be smaller than its kernel.
        begins.append(draw(st.integers(0, size - 1 if pooling else 2)))
        ends.append(draw(st.integers(0, size - 1 if pooling else 2)))
    attributes: dict[str, Any] = {"kernel_shape": kernel, "strides": strides}
    if dilated:
        attributes["dilations"] = dilations
    attributes |= {"pads": [*begins, *ends]} if automatic == "NOTSET" else {"auto_pad": automatic}
    return Slides(tuple(lengths), tuple(kernel), attributes)


def windowed(rank: int) -> None:
    @case("Conv", f"{rank}-D")
    def conv(draw: Draw) -> Case:
        window = slides(draw, rank)
        groups = draw(st.sampled_from([1, 1, 2, 3]))
        fan_in, fan_out = draw(st.integers(1, 2)), draw(st.integers(1, 2))
        weights = normal(draw, (groups * fan_out, fan_in, *window.kernel))
        bias = [normal(draw, (groups * fan_out,))] if draw(st.booleans()) else []
        x = normal(draw, (1, groups * fan_in, *window.lengths))
        return Case("Conv", [x, weights, *bias], {**window.attributes, "group": groups})

    @case("ConvTranspose", f"{rank}-D")
    def conv_transpose(draw: Draw) -> Case:
        window = slides(draw, rank)
        attributes = dict(window.attributes)
        strides, dilations = attributes["strides"], attributes["dilations"]
        mode = draw(st.sampled_from(["plain", "output_padding", "output_shape"]))
        lengths = tuple(min(length, 4) for length in window.lengths)
        full = [
            stride * (length - 1) + (size - 1) * dilation + 1
            for stride, length, size, dilation in zip(strides, lengths, window.kernel, dilations, strict=True)
        ]
        pads = attributes.get("pads")
        if pads:
            attributes["pads"] = [min(pad, (full[i % rank] - 1) // 2) for i, pad in enumerate(pads)]
        if mode == "output_padding" and attributes.get("auto_pad", "VALID") == "VALID":
            attributes["output_padding"] = [draw(st.integers(0, stride - 1)) for stride in strides]
        elif mode == "output_shape" and "dilations" in attributes:
            attributes.pop("pads", None)
            attributes["output_shape"] = [max(size - draw(st.integers(0, 2)), 1) for size in full]
            attributes["auto_pad"] = draw(st.sampled_from(["NOTSET", "SAME_UPPER", "SAME_LOWER"]))
        groups = draw(st.sampled_from([1, 1, 2]))
        fan_in, fan_out = draw(st.integers(1, 2)), draw(st.integers(1, 2))
        weights = normal(draw, (groups * fan_in, fan_out, *window.kernel))
        x = normal(draw, (1, groups * fan_in, *lengths))
        attributes["group"] = groups
        oracle = partial(operators.conv_transpose, attributes=attributes)
        return Case("ConvTranspose", [x, weights], attributes, oracle=oracle)

    @case("MaxPool", f"{rank}-D")
    def max_pool(draw: Draw) -> Case:
        window = slides(draw, rank, pooling=True)
        ceil = {"ceil_mode": draw(st.integers(0, 1))} if "pads" in window.attributes else {}
        attributes = {**window.attributes, **ceil}
        oracle = partial(operators.pool, attributes=attributes, average=False)
        return Case("MaxPool", [spaced(draw, (1, 2, *window.lengths))], attributes, oracle=oracle)

    @case("AveragePool", f"{rank}-D")
    def average_pool(draw: Draw) -> Case:
        window = slides(draw, rank, pooling=True)
        ceil = {"ceil_mode": draw(st.integers(0, 1))} if "pads" in window.attributes else {}
        counted = {"count_include_pad": draw(st.integers(0, 1))}
        attributes = {**window.attributes, **ceil, **counted}
        oracle = partial(operators.pool, attributes=attributes, average=True)
        return Case("AveragePool", [normal(draw, (1, 2, *window.lengths))], attributes, oracle=oracle)

    @case("GlobalAveragePool", f"{rank}-D")
    def global_average_pool(draw: Draw) -> Case:
        return Case("GlobalAveragePool", [normal(draw, (1, 3, *shapes(draw, (rank, rank))))])

    @case("GlobalMaxPool", f"{rank}-D")
    def global_max_pool(draw: Draw) -> Case:
        x = spaced(draw, (1, 3, *shapes(draw, (rank, rank))))
        axes = tuple(range(2, rank + 2))
        return Case("GlobalMaxPool", [x], oracle=lambda x: np.asarray(x.max(axis=axes, keepdims=True)))


for _rank in (1, 2, 3):
    windowed(_rank)


# -- normalisations ---------------------------------------------------------------------------------------------------


@case("BatchNormalization")
def batch_normalization(draw: Draw) -> Case:
    shape = (1, *shapes(draw, (1, 4)))
    scale, bias, mean = (normal(draw, shape[1:2]) for _ in range(3))
    variance = np.abs(normal(draw, shape[1:2])) + 0.1
    epsilon = draw(st.sampled_from([{}, {"epsilon": 1e-2}]))
    return Case("BatchNormalization", [normal(draw, shape), scale, bias, mean, variance], epsilon)


def _axis(draw: Draw, rank: int) -> int:
    return draw(st.integers(-rank, rank - 1))


def along_axis(operator: str) -> None:
    @case(operator)
    def maker(draw: Draw) -> Case:
        shape = shapes(draw)
        return Case(operator, [normal(draw, shape)], {"axis": _axis(draw, len(shape))})


along_axis("Softmax")
along_axis("LogSoftmax")


@case("LayerNormalization")
def layer_normalization(draw: Draw) -> Case:
    shape = (*shapes(draw, (1, 3)), draw(st.integers(3, 5)))
    axis = _axis(draw, len(shape))
    normalized = shape[axis % len(shape) :]
    bias = [normal(draw, normalized)] if draw(st.booleans()) else []
    inputs = [normal(draw, shape), normal(draw, normalized), *bias]
    return Case("LayerNormalization", inputs, {"axis": axis, "epsilon": 1e-3})


@case("RMSNormalization")
def rms_normalization(draw: Draw) -> Case:
    shape = (*shapes(draw, (1, 3)), draw(st.integers(3, 5)))
    axis = _axis(draw, len(shape))
    inputs = [normal(draw, shape), normal(draw, shape[axis % len(shape) :])]
    return Case("RMSNormalization", inputs, {"axis": axis, "epsilon": 1e-3}, opset=23)


@case("GroupNormalization")
def group_normalization(draw: Draw) -> Case:
    groups, fan = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    shape = (draw(st.integers(1, 2)), groups * fan, *shapes(draw, (1, 2)), 3)
    inputs = [normal(draw, shape), normal(draw, shape[1:2]), normal(draw, shape[1:2])]
    attributes = {"num_groups": groups, "epsilon": 1e-3}
    oracle = partial(operators.group_normalization, num_groups=groups, epsilon=1e-3)
    return Case("GroupNormalization", inputs, attributes, oracle=oracle)


@case("InstanceNormalization")
def instance_normalization(draw: Draw) -> Case:
    shape = (draw(st.integers(1, 2)), draw(st.integers(1, 3)), *shapes(draw, (1, 2)), 3)
    inputs = [normal(draw, shape), normal(draw, shape[1:2]), normal(draw, shape[1:2])]
    return Case("InstanceNormalization", inputs, {"epsilon": 1e-3})


@case("LRN")
def lrn(draw: Draw) -> Case:
    shape = (1, draw(st.integers(1, 7)), *shapes(draw, (2, 2), 3))
    # ONNX Runtime has no even sizes.
    attributes = {
        "size": draw(st.sampled_from([1, 3, 5])),
        "alpha": 0.5,
        "beta": 0.75,
        "bias": draw(st.sampled_from([1.0, 2.0])),
    }
    return Case("LRN", [normal(draw, shape)], attributes, oracle=partial(operators.lrn, attributes=attributes))


# -- reductions -------------------------------------------------------------------------------------------------------


def reduction(operator: str, values: Callable[[Draw, Sequence[int]], Array]) -> None:
    @case(operator)
    def maker(draw: Draw) -> Case:
        shape = shapes(draw)
        rank = len(shape)
        axes = draw(st.lists(st.integers(0, rank - 1), unique=True, max_size=rank))
        axes = [axis - rank if draw(st.booleans()) else axis for axis in axes]
        keep = {"keepdims": draw(st.integers(0, 1))} if draw(st.booleans()) else {}
        noop = {"noop_with_empty_axes": draw(st.integers(0, 1))} if operator != "ReduceL2" else {}
        explicit = draw(st.booleans())
        given_axes = [np.array(axes, np.int64)] if axes or explicit else []
        return Case(operator, [values(draw, shape), *given_axes], {**keep, **noop})


reduction("ReduceL2", normal)
reduction("ReduceMax", spaced)
reduction("ReduceMean", normal)
reduction("ReduceSum", normal)


# -- structure --------------------------------------------------------------------------------------------------------


@case("Concat")
def concat(draw: Draw) -> Case:
    shape = list(shapes(draw))
    axis, count = _axis(draw, len(shape)), draw(st.integers(1, 3))
    inputs: list[Array | None] = []
    for _ in range(count):
        shape[axis] = draw(st.integers(1, 3))
        inputs.append(normal(draw, shape))
    wrt = draw(st.lists(st.integers(0, count - 1), unique=True, min_size=1).map(lambda chosen: sorted(chosen)))
    return Case("Concat", inputs, {"axis": axis}, wrt=tuple(wrt))


@case("Split")
def split(draw: Draw) -> Case:
    sizes = draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
    shape = list(shapes(draw))
    axis = _axis(draw, len(shape))
    used = draw(st.integers(0, len(sizes) - 1))
    if draw(st.booleans()):
        shape[axis] = sum(sizes)
        inputs, attributes = [normal(draw, shape), np.array(sizes, np.int64)], {"axis": axis}
    else:
        # Equal parts, the last one smaller where they cannot be equal.
        parts = len(sizes)
        shape[axis] = draw(st.sampled_from([parts * 2, parts * 3 - 1]))
        inputs, attributes = [normal(draw, shape)], {"axis": axis, "num_outputs": parts}
    return Case("Split", inputs, attributes, outputs=len(sizes), output=used)


@case("Slice")
def slice_(draw: Draw) -> Case:
    shape = shapes(draw, (1, 4), 6)
    rank = len(shape)
    axes = draw(st.lists(st.integers(0, rank - 1), unique=True, min_size=1, max_size=rank))
    starts, ends, steps = [], [], []
    for axis in axes:
        size = shape[axis]
        step = draw(st.sampled_from([1, 1, 2, 3, -1, -2]))
        start = draw(st.integers(0, size - 1))
        if step > 0:
            stops = [size, 2**31 - 1, start + 1, *([start + 1 - size] if start + 1 < size else [])]
        else:
            stops = [-size - 1, -(2**31), *([start - 1] if start > 0 else [])]
        starts.append(start - size if draw(st.booleans()) else start)
        ends.append(draw(st.sampled_from(stops)))
        steps.append(step)
    signed = [axis - rank if draw(st.booleans()) else axis for axis in axes]
    inputs = [normal(draw, shape), *(np.array(values, np.int64) for values in (starts, ends, signed, steps))]
    return Case("Slice", inputs)


@case("Slice", "without axes and steps")
def slice_bare(draw: Draw) -> Case:
    shape = (draw(st.integers(2, 5)), draw(st.integers(2, 5)), 2)
    starts = np.array([draw(st.integers(0, 1)), 0], np.int64)
    return Case("Slice", [normal(draw, shape), starts, np.array([2, 1], np.int64)])


@case("Pad")
def pad(draw: Draw) -> Case:
    shape = tuple(draw(st.lists(st.integers(3, 5), min_size=1, max_size=3)))
    rank = len(shape)
    mode = draw(st.sampled_from(["constant", "reflect", "edge"]))
    axes = draw(st.one_of(st.none(), st.lists(st.integers(0, rank - 1), unique=True, min_size=1)))
    low = -1 if mode == "constant" else 0
    amounts = [draw(st.integers(low, 2)) for _ in range(2 * (rank if axes is None else len(axes)))]
    inputs: list[Array | None] = [normal(draw, shape), np.array(amounts, np.int64)]
    if mode == "constant" and draw(st.booleans()):
        inputs.append(np.array(1.5))
    if axes is not None:
        inputs += [None] * (3 - len(inputs))
        inputs.append(np.array([axis - rank if draw(st.booleans()) else axis for axis in axes], np.int64))
    attributes = {} if mode == "constant" and draw(st.booleans()) else {"mode": mode}
    return Case("Pad", inputs, attributes, oracle=partial(operators.pad, mode=mode))


@case("Transpose")
def transpose(draw: Draw) -> Case:
    shape = shapes(draw)
    order = draw(st.one_of(st.none(), st.permutations(range(len(shape)))))
    return Case("Transpose", [normal(draw, shape)], {} if order is None else {"perm": list(order)})


@case("Reshape")
def reshape(draw: Draw) -> Case:
    target = draw(
        st.sampled_from([(0, -1), (-1,), (4, 6), (0, 0, -1), (0, 4, 3), (-1, 2), (2, 3, 4, 1), (1, 0, 4, -1)])
    )
    x = normal(draw, (2, 3, 4))
    return Case("Reshape", [x, np.array(target, np.int64)])


@case("Flatten")
def flatten(draw: Draw) -> Case:
    shape = shapes(draw)
    return Case("Flatten", [normal(draw, shape)], {"axis": draw(st.integers(-len(shape), len(shape)))})


@case("Squeeze")
def squeeze(draw: Draw) -> Case:
    axes = draw(st.sampled_from([None, [0], [2], [0, 2], [-1], [-4, -1]]))
    x = normal(draw, (1, 3, 1, 1))
    return Case("Squeeze", [x] if axes is None else [x, np.array(axes, np.int64)])


@case("Unsqueeze")
def unsqueeze(draw: Draw) -> Case:
    axes = draw(st.sampled_from([[0], [1], [-1], [0, 2], [1, -1]]))
    return Case("Unsqueeze", [normal(draw, (2, 3)), np.array(axes, np.int64)])


@case("Expand")
def expand(draw: Draw) -> Case:
    shape = shapes(draw)
    # The given shape may itself have ones, and fewer axes: it broadcasts both ways.
    given_shape = draw(st.sampled_from([shape, shape[1:], tuple(1 for _ in shape)]))
    return Case("Expand", [normal(draw, broadcastable(draw, shape)), np.array(given_shape, np.int64)])


@case("Gather")
def gather(draw: Draw) -> Case:
    shape = shapes(draw, (1, 3))
    axis = _axis(draw, len(shape))
    size = shape[axis]
    wanted = draw(st.sampled_from([(), (1,), (3,), (2, 2)]))
    indices = generator(draw).integers(-size, size, wanted, dtype=np.int64)
    return Case("Gather", [normal(draw, shape), np.asarray(indices)], {"axis": axis})


@case("GatherND")
def gather_nd(draw: Draw) -> Case:
    shape = shapes(draw, (1, 4))
    depth = draw(st.integers(1, len(shape)))
    wanted = draw(st.sampled_from([(), (1,), (4,), (2, 3)]))
    random = generator(draw)
    indices = np.stack([random.integers(-size, size, wanted, dtype=np.int64) for size in shape[:depth]], axis=-1)
    return Case("GatherND", [normal(draw, shape), indices])


def depth_to_space(mode: str | None) -> None:
    @case("DepthToSpace", mode or "default")
    def maker(draw: Draw) -> Case:
        size = draw(st.integers(1, 3))
        shape = (1, draw(st.integers(1, 2)) * size**2, draw(st.integers(1, 3)), draw(st.integers(1, 3)))
        return Case("DepthToSpace", [normal(draw, shape)], {"blocksize": size} | ({"mode": mode} if mode else {}))


for _mode in (None, "DCR", "CRD"):
    depth_to_space(_mode)


@case("SpaceToDepth")
def space_to_depth(draw: Draw) -> Case:
    size = draw(st.integers(1, 3))
    shape = (1, draw(st.integers(1, 3)), draw(st.integers(1, 2)) * size, draw(st.integers(1, 2)) * size)
    return Case("SpaceToDepth", [normal(draw, shape)], {"blocksize": size})


def resize(mode: str, coordinates: str) -> None:
    @case("Resize", f"{mode} {coordinates}")
    def maker(draw: Draw) -> Case:
        shape = (1, 2, draw(st.integers(2, 5)), draw(st.integers(2, 5)))
        attributes: dict[str, Any] = {"mode": mode, "coordinate_transformation_mode": coordinates}
        if mode == "nearest":
            attributes["nearest_mode"] = draw(st.sampled_from(["round_prefer_floor", "floor", "ceil"]))
        # Powers of two: a coordinate that lands exactly between two pixels does so in every precision.
        factors = [draw(st.sampled_from([0.5, 1.0, 2.0, 4.0])) for _ in range(2)]
        sizes = [max(int(size * factor), 1) for size, factor in zip(shape[2:], factors, strict=True)]
        x = normal(draw, shape)
        oracle = None if mode == "cubic" else partial(operators.resize, attributes=attributes)
        if draw(st.booleans()):
            return Case("Resize", [x, None, np.array([1, 1, *factors], np.float32)], attributes, oracle=oracle)
        return Case("Resize", [x, None, None, np.array([1, 2, *sizes], np.int64)], attributes, oracle=oracle)


for _coordinates in ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"):
    resize("nearest", _coordinates)
    resize("linear", _coordinates)
resize("cubic", "half_pixel")


@case("Resize", "of the last two axes alone")
def resize_axes(draw: Draw) -> Case:
    x = normal(draw, (1, 2, 3, 3))
    axes = {"axes": [2, 3], "mode": "linear"}
    if draw(st.booleans()):
        return Case("Resize", [x, None, np.array([2.0, 2.0], np.float32)], axes)
    return Case("Resize", [x, None, None, np.array([5, 7], np.int64)], axes)


# -- tests ------------------------------------------------------------------------------------------------------------

IDS = [f"{operator} {variant}".strip() for operator, variant, _ in TABLE]


@pytest.mark.parametrize("maker", [maker for *_, maker in TABLE], ids=IDS)
def test_the_rule_agrees_with_central_differences(maker: Maker) -> None:
    # Failing cases are small already: nothing to shrink.
    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(data=st.data())
    def examples(data: st.DataObject) -> None:
        check(maker(cast(Draw, data.draw)))

    examples()


def test_every_rule_stands_in_the_table() -> None:
    # Cast is not differentiable by differences and has tests of its own.
    assert set(RULES) - {"Cast"} == {operator for operator, *_ in TABLE}


@pytest.mark.parametrize(("to", "relative"), [(TensorProto.DOUBLE, 1e-7), (TensorProto.FLOAT16, 1e-3)])
def test_a_cast_hands_the_gradient_back_in_the_type_of_its_input(to: int, relative: float) -> None:
    graph = helper.make_graph(
        [helper.make_node("Cast", ["x"], ["y"], to=to)],
        "cast",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])],
        [helper.make_tensor_value_info("y", to, [2, 3])],
    )
    model = ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10))
    seed = np.random.default_rng(1).standard_normal((2, 3)).astype(helper.tensor_dtype_to_np_dtype(to))
    result = run(ir.to_proto(vector_jacobian(model, "y", ["x"])), {"x": np.ones((2, 3), np.float32), "seed": seed})
    assert result["gradient.x"].dtype == np.float32
    assert_close(result["gradient.x"], seed.astype(np.float32), "cast", relative)


def _model(nodes: Sequence[onnx.NodeProto], shape: Sequence[int], **initializers: Array) -> ir.Model:
    """x -> y through a few nodes."""
    graph = helper.make_graph(
        list(nodes),
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [onnx.ValueInfoProto(name="y")],
        [onnx.numpy_helper.from_array(value, name) for name, value in initializers.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return ir.from_proto(onnx.shape_inference.infer_shapes(model, strict_mode=True))


def test_a_tensor_used_more_than_once_collects_the_gradients_of_all_its_uses() -> None:
    # y = x·x + x·tanh(x)
    model = _model(
        [
            helper.make_node("Mul", ["x", "x"], ["square"]),
            helper.make_node("Tanh", ["x"], ["tanh"]),
            helper.make_node("Mul", ["x", "tanh"], ["product"]),
            helper.make_node("Add", ["square", "product"], ["y"]),
        ],
        [2, 3],
    )
    x = np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)
    result = run(ir.to_proto(vector_jacobian(model, "y", ["x"])), {"x": x, "seed": np.ones((2, 3), np.float32)})
    assert_close(result["gradient.x"], 2 * x + np.tanh(x) + x * (1 - np.tanh(x) ** 2), "sum of uses")


def test_tensors_that_lie_behind_one_another_are_differentiated_by_at_once() -> None:
    model = _model([helper.make_node("Exp", ["x"], ["middle"]), helper.make_node("Exp", ["middle"], ["y"])], [4])
    x = np.linspace(-1, 1, 4, dtype=np.float32)
    outputs = ["x", "middle", "y"]
    result = run(ir.to_proto(vector_jacobian(model, "y", outputs)), {"x": x, "seed": np.ones(4, np.float32)})
    assert_close(result["gradient.y"], np.ones(4), "the output itself")
    assert_close(result["gradient.middle"], np.exp(np.exp(x)), "the middle")
    assert_close(result["gradient.x"], np.exp(np.exp(x)) * np.exp(x), "the input")


def test_a_split_whose_parts_are_all_used_puts_them_together_again() -> None:
    model = _model(
        [
            helper.make_node("Split", ["x"], ["a", "b"], axis=1, num_outputs=2),
            helper.make_node("Mul", ["a", "b"], ["y"]),
        ],
        [1, 6],
    )
    x = np.arange(6, dtype=np.float32).reshape(1, 6)
    result = run(ir.to_proto(vector_jacobian(model, "y", ["x"])), {"x": x, "seed": np.ones((1, 3), np.float32)})
    assert_close(result["gradient.x"], np.concatenate([x[:, 3:], x[:, :3]], 1), "the swapped halves")


@pytest.mark.parametrize("plateau", [0.0, 1.5])
def test_of_equal_maxima_the_first_takes_the_gradient(plateau: float) -> None:
    # As torch has it; behind a ReLU whole windows are zero.
    model = _model([helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], strides=[2, 2])], [1, 1, 4, 4])
    x = np.full((1, 1, 4, 4), plateau, np.float32)
    seed = np.array([[[[1, 2], [3, 4]]]], np.float32)
    want = np.zeros_like(x)
    want[0, 0, ::2, ::2] = seed[0, 0]
    result = run(ir.to_proto(vector_jacobian(model, "y", ["x"])), {"x": x, "seed": seed})
    assert_close(result["gradient.x"], want, "first of the window")


def test_a_saturated_activation_gives_finite_gradients() -> None:
    x = np.array([-1e4, -100, -20, 0, 20, 100, 1e4], np.float32)
    for operator in (
        "Sigmoid",
        "Softplus",
        "Tanh",
        "Elu",
        "Selu",
        "Celu",
        "Mish",
        "Gelu",
        "HardSwish",
        "Softsign",
        "Erf",
    ):
        model = _model([helper.make_node(operator, ["x"], ["y"])], [7])
        result = run(ir.to_proto(vector_jacobian(model, "y", ["x"])), {"x": x, "seed": np.ones(7, np.float32)})
        assert np.isfinite(result["gradient.x"]).all(), f"{operator}: {result['gradient.x']}"


def test_the_norm_of_nothing_has_the_gradient_zero_as_in_torch() -> None:
    x = np.array([[0, 0, 0], [3, 0, 4]], np.float32)
    model = _model([helper.make_node("ReduceL2", ["x", "axes"], ["y"])], [2, 3], axes=np.array([1]))
    found = run(ir.to_proto(vector_jacobian(model, "y", ["x"])), {"x": x, "seed": np.ones((2, 1), np.float32)})
    leaf = torch.from_numpy(x).requires_grad_()
    leaf.norm(dim=1).sum().backward()
    assert leaf.grad is not None
    np.testing.assert_allclose(found["gradient.x"], leaf.grad.numpy(), rtol=1e-6)
    assert not found["gradient.x"][0].any()


@pytest.mark.parametrize("operator", ["Sqrt", "Log", "Reciprocal", "Div", "Pow", "Exp"])
def test_a_gradient_without_bounds_does_not_pass_a_closed_gate(operator: str) -> None:
    # f(relu(x)): where x < 0 the gradient of f is infinite or NaN, and torch's ReLU lets none of it through.
    shape, x = [4, 1], np.array([[-1.0], [-2.0], [1.0], [4.0]], np.float32)
    ends = {
        "Div": (["one", "h"], {"one": np.float32(1)}),
        "Pow": (["h", "half"], {"half": np.float32(0.5)}),
    }
    inputs, constants = ends.get(operator, (["h"], {}))
    before = [helper.make_node("Relu", ["x"], ["h"])]
    if operator == "Exp":  # overflows where it is large: the gate is a clip
        x *= 100
        before = [helper.make_node("Clip", ["x", "low", "high"], ["c"]), helper.make_node("Mul", ["c", "big"], ["h"])]
        constants = {"low": np.float32(-200), "high": np.float32(1), "big": np.float32(100)}
    model = _model([*before, helper.make_node(operator, inputs, ["y"])], shape, **constants)
    feeds = {"x": x, "seed": np.ones((4, 1), np.float32)}
    found = run(ir.to_proto(vector_jacobian(model, "y", ["x"])), feeds)["gradient.x"]
    closed = x > 1 if operator == "Exp" else x < 0
    assert closed.any()
    assert (found[closed] == 0).all(), found
    assert operator == "Exp" or np.isfinite(found).all(), found


def test_a_bounded_gradient_is_multiplied_and_not_selected() -> None:
    chain = [helper.make_node("Relu", ["x"], ["h"]), helper.make_node("Div", ["h", "six"], ["y"])]
    graph = vector_jacobian(_model(chain, [4], six=np.float32(6)), "y", ["x"]).graph
    assert "Where" not in {node.op_type for node in graph}


def test_an_operator_without_a_rule_is_named_with_its_node() -> None:
    model = _model([helper.make_node("CumSum", ["x", "axis"], ["y"], name="running_total")], [4], axis=np.array(0))
    with pytest.raises(UnsupportedOperatorError, match=r"'CumSum' \(node 'running_total'\)") as caught:
        vector_jacobian(model, "y", ["x"])
    assert caught.value.operator == "CumSum"
    assert caught.value.node == "running_total"


def test_a_custom_operator_is_named_with_its_domain() -> None:
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"], name="odd", domain="com.example")],
        "custom",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.example", 1)]
    model = ir.from_proto(helper.make_model(graph, opset_imports=opsets, ir_version=10))
    with pytest.raises(UnsupportedOperatorError, match=r"com\.example::Relu"):
        vector_jacobian(model, "y", ["x"])


def test_convolution_weights_that_depend_on_the_image_are_refused() -> None:
    model = _model(
        [
            helper.make_node("Relu", ["x"], ["weights"]),
            helper.make_node("Conv", ["x", "weights"], ["y"], name="dynamic"),
        ],
        [1, 1, 3, 3],
    )
    with pytest.raises(UnsupportedOperatorError, match="'dynamic'"):
        vector_jacobian(model, "y", ["x"])


def test_a_tensor_that_the_output_does_not_depend_on_is_named() -> None:
    model = _model([helper.make_node("Relu", ["x"], ["aside"]), helper.make_node("Abs", ["x"], ["y"])], [2])
    with pytest.raises(ExportError, match="aside"):
        vector_jacobian(model, "y", ["aside"])


def test_the_model_that_is_differentiated_stays_as_it_is() -> None:
    model = _model([helper.make_node("Exp", ["x"], ["y"])], [2])
    before = ir.to_proto(model).SerializeToString()
    vector_jacobian(model, "y", ["x"])
    assert ir.to_proto(model).SerializeToString() == before
