"""``sightline build``: everything that an engine wants prepared before the first explanation."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sightline.cli import build_target
from sightline.cli.build_target import GATE_IMAGES
from sightline.cli.method import add_arguments as add_method_arguments
from sightline.cli.method import chosen, positive
from sightline.cli.table import table
from sightline.errors import PrecisionError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from sightline.bundle import Bundle

NAME = "build"
HELP = "prepare a bundle for an engine and a precision on this machine"
DESCRIPTION = """\
Prepare a bundle for an engine and a precision: add the fp16 or int8 graph to the bundle where it is missing (needs
onnx), let the engine build and cache what it builds, measure the fastest batch size, and hold the maps of a lower
precision against those of float32 on images of yours. A precision whose maps do not agree is refused (exit code 1).

With --target, nothing is built for this machine: a folder for another one is written."""
EXAMPLES = """\
examples:
  sightline build steel.sightline --engine openvino --precision int8 --images line/*.png
  sightline build steel.sightline --engine tensorrt --precision fp16 --images line/*.png
  sightline build steel.sightline --engine onnxruntime-cuda --batch-size 64
  sightline build steel.sightline --target jetson-orin --images line/*.png -o orin"""

_CONVERTED = ("fp16", "int8")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    from sightline.runtime.gate import THRESHOLD

    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="made by 'sightline export'")
    add_method_arguments(parser)
    parser.add_argument(
        "--images",
        metavar="IMAGE",
        type=Path,
        nargs="+",
        default=[],
        help="of the kind that will be explained: int8 is calibrated on all of them (32 or more are best), and the "
        "maps of a lower precision are compared on the first ones",
    )
    parser.add_argument(
        "--gate-images", metavar="N", type=positive, help=f"how many images to compare maps on (default {GATE_IMAGES})"
    )
    parser.add_argument(
        "--gate-threshold",
        metavar="R",
        type=float,
        help=f"Pearson's correlation with float32 that every such map must reach (default {THRESHOLD})",
    )
    build_target.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Add the graph, open the engine, pass the gate, and say what was found."""
    if arguments.target:
        return build_target.run(arguments)
    if arguments.output:
        arguments.usage_error(
            "-o belongs to --target: what is built for this machine stays in the bundle and the cache"
        )
    import sightline
    from sightline.bindings import choose, variant
    from sightline.runtime.gate import THRESHOLD

    precision, images = arguments.precision, arguments.images
    if precision == "fp32" and images:
        arguments.usage_error("--images are for a lower --precision or a --target: float32 is compared with nothing")
    for option in ("gate_images", "gate_threshold"):
        if precision == "fp32" and getattr(arguments, option) is not None:
            arguments.usage_error(f"--{option.replace('_', '-')} is for a lower --precision")
    if precision != "fp32" and not images:
        raise PrecisionError(
            f"{precision} is accepted by comparing its maps with float32's on images of yours: add --images IMAGE …"
        )
    bundle = sightline.load(arguments.bundle)
    if precision in _CONVERTED:
        everything = {*bundle.variants, precision}
        engine = choose(arguments.engine, variants=everything, precision=precision)
        # TensorRT takes int8 activations around 0 only; elsewhere uint8 ones are finer.
        symmetric = precision == "int8" and engine.endswith("tensorrt")
        made = bundle.manifest.variants.get(precision, {}).get("activations")
        wanted = None if precision == "fp16" else "int8" if symmetric else "uint8"
        if variant(engine, precision) == precision and (precision not in bundle.variants or made != wanted):
            bundle = sightline.add_precision(
                bundle, precision, images=_prepared(bundle, images), symmetric=symmetric, overwrite=True
            )
    with sightline.Explainer(
        bundle,
        chosen(arguments),
        arguments.engine,
        arguments.batch_size,
        precision=precision,
        threads=arguments.threads,
        gate=images[: arguments.gate_images or GATE_IMAGES] if precision != "fp32" else None,
        gate_threshold=THRESHOLD if arguments.gate_threshold is None else arguments.gate_threshold,
    ) as explainer:
        rows: list[tuple[Any, ...]] = [
            ("engine", explainer.engine),
            ("precision", explainer.precision),
            ("batch size", explainer.batch_size),
            ("memory", explainer.memory_plan),
        ]
        if explainer.gate is not None:
            rows.append(("maps", explainer.gate))
    print(table(rows, indent=0))
    return 0


def _prepared(bundle: Bundle, images: Sequence[Path]) -> Iterator[npt.NDArray[np.float32]]:
    from sightline.runtime.image import prepare

    for image in images:
        yield prepare(image, bundle.input).array
