"""Functions of one tensor, element by element. ``s.g`` is the gradient of y = f(x)."""

from __future__ import annotations

import functools
import math

from sightline.exporter.builder import Term
from sightline.exporter.gradient import Step
from sightline.exporter.rules.rule import Rule


def _leaky_relu(s: Step) -> Term:
    return s.builder.where(s.x > 0, s.g, s.g * s.number("alpha", 0.01))


def _prelu(s: Step) -> Term:
    return s.builder.where(s.x > 0, s.g, s.g * s.input(1))


def _clip(s: Step) -> Term:
    bounds = [s.x > s.input(1)] if s.has(1) else []
    bounds += [s.x < s.input(2)] if s.has(2) else []
    return s.gated(functools.reduce(Term.__and__, bounds)) if bounds else s.g


def _hard_sigmoid(s: Step) -> Term:
    return s.gated((s.y > 0) & (s.y < 1)) * s.number("alpha", 0.2)


def _hard_swish(s: Step) -> Term:
    ramp = s.gated(s.x < 3, s.x / 3 - 0.5) + 1.0
    return s.gated(s.x > -3) * ramp


def _swish(s: Step) -> Term:
    alpha = s.number("alpha", 1.0)
    gate = s.builder("Sigmoid", s.x * alpha)
    return s.g * (gate + alpha * s.y * (1 - gate))


def _gelu(s: Step) -> Term:
    x = s.x
    if s.string("approximate", "none") == "tanh":
        root = math.sqrt(2 / math.pi)
        tanh = s.builder("Tanh", (x + x * x * x * 0.044715) * root)
        return s.g * (0.5 * (1 + tanh) + 0.5 * x * (1 - tanh * tanh) * ((x * x * (3 * 0.044715) + 1) * root))
    cumulative = 0.5 * (1 + s.builder("Erf", x * math.sqrt(0.5)))
    density = s.builder("Exp", x * x * -0.5) * (1 / math.sqrt(2 * math.pi))
    return s.g * (cumulative + x * density)


def _elu(s: Step) -> Term:
    return s.builder.where(s.x > 0, s.g, s.g * (s.y + s.number("alpha", 1.0)))


def _celu(s: Step) -> Term:
    return s.builder.where(s.x > 0, s.g, s.g * s.builder("Exp", s.x / s.number("alpha", 1.0)))


def _selu(s: Step) -> Term:
    alpha = s.number("alpha", 1.6732632423543772)
    gamma = s.number("gamma", 1.0507009873554805)
    return s.builder.where(s.x > 0, s.g * gamma, s.g * (s.y + alpha * gamma))


def _mish(s: Step) -> Term:
    tanh = s.builder("Tanh", s.builder("Softplus", s.x))
    return s.g * (tanh + s.x * (1 - tanh * tanh) * s.builder("Sigmoid", s.x))


def _softsign(s: Step) -> Term:
    width = 1 + s.builder("Abs", s.x)
    return s.g / (width * width)


def _thresholded_relu(s: Step) -> Term:
    return s.gated(s.x > s.number("alpha", 1.0))


def _power(s: Step) -> Term:
    exponent = s.constant(1)
    if exponent.size != 1:
        raise s.unsupported("has an exponent that is not one number")
    power = float(exponent.reshape(()))
    return s.g * (2 * s.x if power == 2 else power * s.x ** (power - 1))


POINTWISE: dict[str, Rule] = {
    "Abs": lambda s: s.g * s.builder("Sign", s.x),
    "Celu": _celu,
    "Clip": _clip,
    "Elu": _elu,
    "Erf": lambda s: s.g * (s.builder("Exp", -(s.x * s.x)) * (2 / math.sqrt(math.pi))),
    "Exp": lambda s: s.g * s.y,
    "Gelu": _gelu,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "LeakyRelu": _leaky_relu,
    "Log": lambda s: s.g / s.x,
    "Mish": _mish,
    "Neg": lambda s: -s.g,
    "Pow": _power,
    "PRelu": _prelu,
    "Reciprocal": lambda s: -(s.g * s.y * s.y),
    "Relu": lambda s: s.gated(s.y > 0),
    "Selu": _selu,
    "Sigmoid": lambda s: s.g * s.y * (1 - s.y),
    "Softplus": lambda s: s.g * s.builder("Sigmoid", s.x),
    "Softsign": _softsign,
    "Sqrt": lambda s: s.g / (2 * s.y),
    "Swish": _swish,
    "Tanh": lambda s: s.g * (1 - s.y * s.y),
    "ThresholdedRelu": _thresholded_relu,
}
