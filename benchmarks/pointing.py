"""Does the map lie where the defect is? EBPG on unseen pictures of the demo's kind, beside what must be beaten.

EBPG, the energy-based pointing game, is the share of a map's sum that lies inside the true defect. Beside SISE and
Ada-SISE stand plain Grad-CAM on the last block, the raw gradient of the logit with respect to the image (the largest
magnitude over the channels), a Gaussian blob in the centre, and a uniform map. Every method explains the true class.

    python benchmarks/pointing.py [--per-class 25]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime
import record

sys.path.append(str(Path(__file__).resolve().parents[1] / "examples" / "surface"))

from render import LABELS, Sample, render

import sightline
from sightline import demo
from sightline.bundle import LOGITS, Bundle
from sightline.exporter.gradient import vector_jacobian
from sightline.exporter.network import prepare
from sightline.exporter.source import read_onnx
from sightline.metrics import bootstrap, energy_pointing_game
from sightline.runtime.image import prepare as preprocessed

FIRST_SEED = 7_000_000
"""Away from the seeds of training, test and demo pictures."""

Map: TypeAlias = npt.NDArray[Any]
Method: TypeAlias = Callable[[Sample], Map]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--per-class", type=int, default=25, help="pictures of each kind of defect (25)")
    parser.add_argument("--bundle", type=Path, default=demo.BUNDLE, help="of the demo's network (the packaged one)")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap (0)")
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/pointing.json")
    arguments = parser.parse_args()
    bundle = sightline.load(arguments.bundle)
    methods: dict[str, Method] = {
        "sise": explained(bundle, "sise"),
        "ada-sise": explained(bundle, "ada-sise"),
        "grad-cam": explained(bundle, "grad-cam"),
        "input gradient": input_gradient(bundle),
        "centre blob": lambda sample: centre_blob(sample.mask.shape),
        "uniform": lambda sample: np.ones(sample.mask.shape),
    }
    shares: dict[str, list[float]] = {name: [] for name in methods}
    for label in LABELS[1:]:
        for number in range(arguments.per_class):
            sample = render(label, FIRST_SEED + number)
            for name, method in methods.items():
                shares[name].append(energy_pointing_game(method(sample), sample.mask))
    figures: dict[str, Any] = {"pictures": len(shares["sise"])}
    for name, values in shares.items():
        found = bootstrap(values, seed=arguments.seed)
        low, high = 100 * found.low, 100 * found.high
        figures |= {f"{name} EBPG %": 100 * float(np.mean(values)), f"{name} low": low, f"{name} high": high}
        print(f"{name:>15}  EBPG {100 * np.mean(values):5.1f} %   95 % interval {low:.1f} to {high:.1f}")
    for other in ("grad-cam", "input gradient", "centre blob"):
        found = bootstrap(np.array(shares["sise"]) - np.array(shares[other]), seed=arguments.seed)
        figures |= {f"sise minus {other} low": 100 * found.low, f"sise minus {other} high": 100 * found.high}
    parameters = {"seed": arguments.seed, "first_seed": FIRST_SEED, "per_class": arguments.per_class}
    record.write("pointing", parameters, figures, arguments.output)


def explained(bundle: Bundle, method: str) -> Method:
    explainer = sightline.Explainer(bundle, method)
    return lambda sample: explainer(sample.image, sample.label).saliency


def input_gradient(bundle: Bundle) -> Method:
    """|∂z_c/∂I|, the largest of the channels."""
    spec = bundle.input
    network = prepare(read_onnx(bundle.classifier), activation="none", output=LOGITS)
    model = ir.to_proto(vector_jacobian(network.single, LOGITS, [network.image]))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])

    def method(sample: Sample) -> Map:
        feed = {
            network.image: preprocessed(sample.image, spec).array[None],
            "seed": np.eye(bundle.classes, dtype=np.float32)[sample.label][None],
        }
        (gradient,) = session.run([f"gradient.{network.image}"], feed)
        return np.asarray(np.abs(gradient[0]).max(axis=0))

    return method


def centre_blob(shape: tuple[int, ...]) -> Map:
    """A Gaussian of a quarter of the image's height."""
    rows, columns = (np.arange(size) - (size - 1) / 2 for size in shape)
    return np.asarray(np.exp(-(rows[:, None] ** 2 + columns[None] ** 2) / (2 * (shape[0] / 4) ** 2)))


if __name__ == "__main__":
    main()
