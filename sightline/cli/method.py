"""How to explain: the options that ``explain`` and ``demo`` share."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sightline import SISE, AdaSISE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare method, engine and batch size."""
    parser.add_argument("--method", choices=("sise", "ada-sise"), default="sise", help="default: sise")
    parser.add_argument(
        "--mu", metavar="μ", type=_share, help="SISE: skip maps whose α is below μ of the block's largest (default 0)"
    )
    parser.add_argument("--engine", metavar="NAME", default="auto", help="inference engine, see 'sightline doctor'")
    parser.add_argument("--batch-size", metavar="N", type=_positive, help="masked images per pass of the engine")


def chosen(arguments: argparse.Namespace) -> SISE | AdaSISE:
    """The method that the options ask for. ``--mu`` beside Ada-SISE is a usage error."""
    from sightline import SISE, AdaSISE

    if arguments.method == "sise":
        return SISE(mu=arguments.mu or 0.0)
    if arguments.mu is not None:
        arguments.usage_error("--mu belongs to --method sise: Ada-SISE finds its own threshold")
    return AdaSISE()


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 up to, but not including, 1")
    return value


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)
