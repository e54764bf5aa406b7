"""The self-check of an export: the graphs, as written, against the original network and difference quotients."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime

from sightline import bundle
from sightline.errors import SelfCheckError
from sightline.exporter.builder import Builder
from sightline.exporter.gradient import static_shape
from sightline.exporter.network import BATCH, FIXED_BATCH, Network

CLASSIFIER_TOLERANCE = 1e-3
HALF_TOLERANCE = 5e-2
"""Of a file that computes in float16, whose own rounding is the difference: a hundred times that of a sound network."""
GRADIENT_TOLERANCE = 5e-2
"""A wrong rule is off by far more; difference quotients in float32 across ReLUs can be off by a third of this."""
STEPS = (1e-3, 1e-4, 1e-5, 1e-6, 1e-2, 1e-1)
"""Step lengths, relative to the feature maps, in the order in which they are tried."""
CONCLUSIVE = GRADIENT_TOLERANCE / 4
"""Where rounding may be more than this, a comparison says little."""
LOUDER = (1.0, 1e2, 1e4)
"""Scales of the noise looked at where an example says little: without trained statistics an image fades on its way,
until float32 sees the biases alone; a louder one does not."""
ENOUGH = GRADIENT_TOLERANCE / 10
"""An agreement that needs no other step."""
NOISE = 0.1
"""Share of noise in the direction along which the quotient is taken."""
NEGLIGIBLE = 1e-7
"""A step that float32 can hardly express."""
TINY = float(np.finfo(np.float32).tiny)
PROBE = "probe.onnx"

Floats: TypeAlias = npt.NDArray[np.float32]
Found: TypeAlias = tuple[float, float]
"""A comparison of derivative and difference quotient: relative distance, and what rounding alone may make of it."""
Reference: TypeAlias = Callable[[Floats], Floats]
"""The original network: images, in its own layout, to its output, N×…"""

logger = logging.getLogger(__name__)


def session(path: Path) -> onnxruntime.InferenceSession:
    """ONNX Runtime on the CPU, quiet."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def probe_graph(network: Network, blocks: Sequence[ir.Value]) -> ir.Model:
    """The classifier with ``delta.i``, a further input, added to the feature maps of every block i."""
    model = network.model.clone()
    values = ir.convenience.create_value_mapping(model.graph)
    builder = Builder(model.graph, "probe/")
    for index, block in enumerate(blocks):
        delta = ir.val(f"delta.{index}", dtype=ir.DataType.FLOAT, shape=[BATCH, *static_shape(block)[1:]])
        model.graph.inputs.append(delta)
        value = values[block.name or ""]
        readers = list(value.uses())
        moved = builder(
            "Add",
            builder.term(value),
            builder.term(delta),
        ).value
        for node, position in readers:
            node.replace_input_with(position, moved)
    model.graph.sort()
    return model


def check(folder: Path, network: Network, blocks: int, reference: Reference, images: Floats) -> dict[str, float]:
    """Compare the graphs in a folder with the original network and with central differences.

    Args:
        folder: holds the bundle's graphs and the probe.
        network: what they were made from.
        blocks: how many blocks there are.
        reference: the original network.
        images: N×C×H×W, N > 1, preprocessed, in the network's layout. The gradient is checked at the first, and where
            that settles nothing, at the last, which is noise, louder and louder: on a plain background values tie in
            max-pools, where difference quotients do not exist.

    Returns:
        ``classifier``: the largest difference of the outputs, relative to the largest output.
        ``gradient.i``: of every block, the relative distance of directional derivative and difference quotient.

    Raises:
        SelfCheckError: a difference exceeds its tolerance.
    """
    figures = {"classifier": _classifier_error(folder, network, reference, images)}
    tolerance = HALF_TOLERANCE if network.halves else CLASSIFIER_TOLERANCE
    if not figures["classifier"] <= tolerance:
        raise SelfCheckError(
            f"the exported classifier differs from the original by {figures['classifier']:.1e} (tolerance "
            f"{tolerance:.0e}) on a batch of {len(images)}. {FIXED_BATCH}"
        )
    tries = [_gradient_errors(folder, network, blocks, images[:1])]
    for louder in LOUDER:
        if all(any(map(_settled, of_block)) for of_block in zip(*tries, strict=True)):
            break
        tries.append(_gradient_errors(folder, network, blocks, images[-1:] * np.float32(louder)))
    for index, of_block in enumerate(zip(*tries, strict=True)):
        holds, (error, rounding) = _verdict(of_block)
        figures[f"gradient.{index}"] = error
        if not holds:
            raise SelfCheckError(
                f"the gradient at block {index} differs from the difference quotient by {error:.1e} (tolerance "
                f"{GRADIENT_TOLERANCE:.0e}): please report this network as a bug of Sightline."
            )
        if rounding > CONCLUSIVE:
            logger.warning(
                "the gradient at block %d is so small that float32 rounding hides it: its self-check says little (a "
                "network without trained weights, or an image that leaves it cold?)",
                index,
            )
    return figures


def _settled(found: Found) -> bool:
    error, rounding = found
    return error <= GRADIENT_TOLERANCE and rounding <= CONCLUSIVE


def _verdict(tries: Sequence[Found]) -> tuple[bool, Found]:
    """Whether the gradient holds at a block, and the comparison that says so.

    Args:
        tries: at the example, at noise, and at louder noise.
    """
    if settled := [each for each in tries if _settled(each)]:
        return True, settled[0]
    if wrong := [each for each in tries[1:] if each[1] <= CONCLUSIVE]:
        return False, wrong[0]
    # Nothing is conclusive: what rounding may explain is let through, with a warning.
    first = [each for each in tries[:2] if each[0] <= GRADIENT_TOLERANCE + 4 * each[1]]
    return bool(first), (first or tries)[0]


def _classifier_error(folder: Path, network: Network, reference: Reference, images: Floats) -> float:
    try:
        classifier = session(folder / bundle.CLASSIFIER)
        logits, probabilities = classifier.run([bundle.LOGITS, bundle.PROBABILITIES], {network.image: images})
    except Exception as error:  # onnxruntime's own errors share no base class
        raise SelfCheckError(
            f"the exported classifier fails on a batch of {len(images)}: {error}\n{FIXED_BATCH}"
        ) from error
    # One by one: the original may hold a batch of one only, and must not mix its rows.
    expected = np.concatenate([reference(images[index : index + 1]).reshape(1, -1) for index in range(len(images))])
    found = probabilities if network.ending else logits
    if network.ending == "LogSoftmax":
        expected = np.exp(expected)
    if found.shape != expected.shape or not np.isfinite(found).all():
        return float("inf")
    return float(np.abs(found - expected).max() / max(np.abs(expected).max(), TINY))


def _gradient_errors(folder: Path, network: Network, blocks: int, image: Floats) -> list[Found]:
    feed: dict[str, npt.NDArray[Any]] = {
        network.image: image,
        bundle.TARGET: np.array([bundle.PREDICTED], np.int64),
        bundle.SEED: np.zeros((1, network.classes), np.float32),
    }
    if network.activation == "softmax":
        feed[bundle.RIVALS] = np.ones(1, np.float32)
    attribution = session(folder / bundle.ATTRIBUTION)
    names = [output.name for output in attribution.get_outputs()]
    found = dict(zip(names, attribution.run(names, feed), strict=True))
    logits = found[bundle.LOGITS]
    target = int(logits.argmax())
    probe = session(folder / PROBE)
    random = np.random.default_rng(0)
    places = [bundle.Block("", index, 0, 0, 0) for index in range(blocks)]
    features = [found[place.features] for place in places]
    return [
        _directional_error(probe, network, image, features, index, found[place.gradient], target, logits, random)
        for index, place in enumerate(places)
    ]


def _directional_error(
    probe: onnxruntime.InferenceSession,
    network: Network,
    image: Floats,
    features: Sequence[Floats],
    index: int,
    gradient: Floats,
    target: int,
    logits: Floats,
    random: np.random.Generator,
) -> Found:
    """Compare quotient and derivative.

    Taken along one random direction, at the step where quotient and derivative can be told apart best.

    The direction follows the gradient's signs, so that the change stands out from float32's rounding, and moves every
    entry in proportion to its size, randomly weighted and with some noise. Entries that are exactly zero (behind a
    ReLU) stay: max-pooling has no derivative where they tie. Too long a step crosses the kinks of ReLUs, too short a
    one is all rounding, and which is right depends on the network, hence several.
    """
    maps = features[index]
    exact = gradient.astype(np.float64)
    weights = random.uniform(0, 2, exact.shape) * np.sign(exact) + NOISE * random.standard_normal(exact.shape)
    direction = weights * np.abs(maps)
    derivative = float((exact * direction).sum())

    def scores(steps: Sequence[float]) -> npt.NDArray[np.float64]:
        deltas = {
            f"delta.{other}": np.zeros((len(steps), *each.shape[1:]), np.float32) for other, each in enumerate(features)
        }
        deltas[f"delta.{index}"] = np.concatenate([direction * step for step in steps]).astype(np.float32)
        images = np.repeat(image, len(steps), axis=0)
        (rows,) = probe.run([bundle.LOGITS], {network.image: images, **deltas})
        return np.array([score(row, target, network.activation) for row in rows.astype(np.float64)])

    # Steps too short to mean anything show how far rounding alone moves the score; no less than its own last digits.
    still = scores([factor * NEGLIGIBLE for factor in (-2, -1, 1, 2)])
    rounding = max(float(np.ptp(still)), 4 * float(np.finfo(np.float32).eps * np.abs(logits).max()))
    distances, bounds = [], []
    for step in STEPS:
        above, below = scores([step, -step])
        quotient = float(above - below) / (2 * step)
        scale = max(abs(derivative), abs(quotient), TINY)
        distances.append(abs(quotient - derivative) / scale)
        bounds.append(rounding / step / scale)
        if distances[-1] + bounds[-1] < ENOUGH:
            break
    best = int(np.argmin(np.nan_to_num(np.add(distances, bounds), nan=np.inf)))
    return distances[best], bounds[best]


def score(logits: npt.NDArray[np.float64], target: int, activation: bundle.Activation) -> float:
    """What the attribution graph differentiates: the log-odds of the target, or its logit."""
    if activation != "softmax":
        return float(logits[target])
    rivals = np.delete(logits, target)
    return float(logits[target] - np.logaddexp.reduce(rivals))


def describe(figures: Mapping[str, float], blocks: Sequence[bundle.Block]) -> str:
    """The figures of a self-check in one line."""
    gradients = ", ".join(f"{block.name} {figures[block.gradient]:.1e}" for block in blocks)
    return f"classifier {figures['classifier']:.1e}; gradient against difference quotients: {gradients}"
