"""How to explain: the options that several commands share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sightline.errors import UngatedError

if TYPE_CHECKING:
    from sightline import Bundle, Explainer
    from sightline.runtime.method import Method

METHODS = ("sise", "ada-sise", "remise", "rise", "score-cam", "grad-cam", "grad-cam++", "layer-cam")
DEFAULT = "sise"
OPTIONS = {"preset": ("sise",), "mu": ("sise", "remise"), "passes": ("rise",), "seed": ("rise",)}
"""Which methods an option belongs to."""
PRESETS = ("quality", "balance", "speed")
GATE_IMAGES = 4
"""Of the images to explain, how many a lower precision is compared with float32 on, where that has not been done."""
MOST_PASSES = 1_000_000
"""Of RISE, which holds a grid of each mask in memory."""
PRECISIONS = ("fp32", "tf32", "fp16", "bf16", "int8")
_MEASURED, _ENGINES = "the fastest, measured once", "the engine's"


def add_arguments(
    parser: argparse.ArgumentParser, *, running: bool = True, batch_size: str = _MEASURED, threads: str = _ENGINES
) -> None:
    """Declare the method and, where ``running``, engine, precision, batch size and threads, with these defaults."""
    parser.add_argument("--method", choices=METHODS, default=DEFAULT, help=f"default: {DEFAULT}")
    parser.add_argument(
        "--preset",
        choices=PRESETS,
        help="SISE: every map, about half of the passes, or about a quarter (default quality)",
    )
    parser.add_argument(
        "--mu", metavar="μ", type=share, help="SISE: skip maps whose α is below μ of the block's largest (default 0)"
    )
    parser.add_argument("--passes", metavar="N", type=_passes, help="RISE: how many random masks (default 4000)")
    parser.add_argument("--seed", metavar="N", type=whole, help="RISE: of the random masks (default 0)")
    if running:
        add_running_arguments(parser, batch_size=batch_size, threads=threads)


def add_running_arguments(
    parser: argparse.ArgumentParser, *, batch_size: str = _MEASURED, threads: str = _ENGINES
) -> None:
    """Declare engine, precision, batch size and threads."""
    parser.add_argument("--engine", metavar="NAME", default="auto", help="inference engine, see 'sightline doctor'")
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="fp32",
        help="of the masked passes (default fp32); a lower one is compared with fp32 first, and refused if maps differ",
    )
    parser.add_argument(
        "--batch-size", metavar="N", type=positive, help=f"masked images per pass (default: {batch_size})"
    )
    parser.add_argument("--threads", metavar="N", type=positive, help=f"CPU threads per pass (default: {threads})")


def chosen(arguments: argparse.Namespace) -> Method:
    """The method that the options ask for. An option that belongs to another method is a usage error."""
    from sightline.runtime import explainer
    from sightline.runtime.sise import SISE

    given = {name: getattr(arguments, name) for name in OPTIONS}
    given = {name: value for name, value in given.items() if value is not None}
    for name in given:
        if arguments.method not in OPTIONS[name]:
            owners = " or ".join(OPTIONS[name])
            arguments.usage_error(f"--{name} belongs to --method {owners}, not to {arguments.method}")
    if preset := given.pop("preset", None):
        return SISE.preset(preset, **given)
    return explainer.METHODS[arguments.method](**given)


def opened(
    bundle: Bundle,
    method: Method,
    arguments: argparse.Namespace,
    images: Sequence[Path],
    progress: Callable[[int, int], None],
) -> Explainer:
    """The explainer that the options ask for; a lower precision is compared with float32 on readable images."""
    from sightline import Explainer

    def opening(gate: Sequence[Path] | None) -> Explainer:
        return Explainer(
            bundle,
            method,
            arguments.engine,
            arguments.batch_size,
            precision=arguments.precision,
            gate=gate,
            threads=arguments.threads,
            progress=progress,
        )

    try:
        return opening(None)
    except UngatedError:
        if not images:
            raise
        explainer = opening(_readable(bundle, images) or images[:1])
        print(f"sightline: {explainer.gate}", file=sys.stderr)
        return explainer


def _readable(bundle: Bundle, images: Sequence[Path]) -> list[Path]:
    """The first ``GATE_IMAGES`` images that the network can be given. What is wrong with others is told later."""
    from sightline.errors import ImageError
    from sightline.runtime.image import prepare

    found: list[Path] = []
    for image in images:
        try:
            prepare(image, bundle.input)
        except ImageError:
            continue
        found.append(image)
        if len(found) == GATE_IMAGES:
            break
    return found


def positive(text: str) -> int:
    """A whole number above 0."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def whole(text: str) -> int:
    """A whole number from 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0")
    return int(text)


def _passes(text: str) -> int:
    if (passes := positive(text)) > MOST_PASSES:
        raise argparse.ArgumentTypeError(f"{text} are more than {MOST_PASSES} passes, whose masks fill the memory")
    return passes


def share(text: str) -> float:
    """A number in [0, 1)."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 up to, but not including, 1")
    return value
