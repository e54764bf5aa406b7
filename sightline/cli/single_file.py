"""``sightline export … --single-file``: its options, and the writing of the file."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sightline.cli.method import positive
from sightline.errors import ExportError

if TYPE_CHECKING:
    from sightline import Bundle

METHODS = ("sise", "ada-sise", "grad-cam", "layer-cam")
INPUTS = ("target", "mu", "max_passes")
_OPTIONS = {
    "method": "--method",
    "mu": "--mu",
    "max_passes": "--max-passes",
    "batch_size": "--batch-size",
    "inputs": "--inputs",
    "uint8": "--uint8",
    "float64": "--no-float64",
    "external_data": "--external-data",
}
"""What of the file can be chosen, by the names of the library's parameters."""
_OF_BUNDLES = (
    "input",
    "mean",
    "std",
    "range",
    "colour",
    "labels",
    "blocks",
    "activation",
    "output",
    "torch_program",
    "stages",
)
"""Options that a bundle which stands there leaves no choice of."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options. Their defaults are the library's."""
    options = parser.add_argument_group(
        "single file", "an explanation method as one ONNX graph, for any language; see docs/single-file.md"
    )
    options.add_argument("--single-file", metavar="FILE", type=Path, help="write it, e.g. explainer.onnx")
    options.add_argument("--method", choices=METHODS, help="default: sise")
    options.add_argument("--mu", metavar="μ", type=float, help="SISE: skip maps below μ of the largest α (default 0)")
    options.add_argument("--max-passes", metavar="N", type=positive, help="score the N masks worth most (default: all)")
    options.add_argument("--batch-size", metavar="N", type=positive, help="masked images per pass (default 16)")
    options.add_argument(
        "--inputs",
        metavar="A,B,…",
        type=_inputs,
        help="which of target, mu and max_passes are inputs beside the image (default: target, and mu for sise); "
        "'none': the image alone",
    )
    options.add_argument(
        "--uint8", action="store_true", default=None, help="the image is H×W×3 uint8 pixels, normalised inside"
    )
    options.add_argument(
        "--no-float64",
        dest="float64",
        action="store_false",
        default=None,
        help="sums and thresholds in float32, for engines without float64 (WebGPU)",
    )
    options.add_argument(
        "--external-data", action="store_true", default=None, help="put the weights beside the file, once, not twice"
    )


def alone(arguments: argparse.Namespace) -> bool:
    """Whether only the single file is asked for, from a bundle that stands there. Checks the options."""
    if arguments.single_file is None:
        for name, option in _OPTIONS.items():
            if getattr(arguments, name) is not None:
                arguments.usage_error(f"{option} belongs to --single-file")
        return False
    if arguments.single_file.exists() and not arguments.force:  # before the export, which may take minutes
        raise ExportError(f"{arguments.single_file} exists already: pass --force, or choose another name.")
    if not Path(arguments.model).is_dir():
        return False
    refuse_making(arguments)
    if arguments.bundle is not None:
        arguments.usage_error(f"{arguments.model} is a bundle already: give no other beside --single-file")
    return True


def refuse_making(arguments: argparse.Namespace, besides: Sequence[str] = ()) -> None:
    """Refuse options that only the making of a bundle has: MODEL is one already."""
    for name in _OF_BUNDLES:
        if name not in besides and getattr(arguments, name) not in (None, False):
            option = name.replace("_", "-")
            arguments.usage_error(f"--{option} is for making a bundle; {arguments.model} is one already")


def run(arguments: argparse.Namespace) -> int:
    """Write the single file of a bundle that stands there."""
    import sightline

    write(sightline.load(arguments.model), arguments)
    return 0


@contextmanager
def folder(arguments: argparse.Namespace) -> Iterator[Path]:
    """Where the bundle goes: the place asked for, or one that is gone once the single file is written."""
    if arguments.bundle is not None:
        yield arguments.bundle
        return
    with tempfile.TemporaryDirectory() as place:
        yield Path(place) / "network.sightline"


def write(bundle: Bundle, arguments: argparse.Namespace) -> None:
    """Write the single file, where it is asked for, and say what it takes and gives."""
    if arguments.single_file is None:
        return
    import sightline
    from sightline.exporter.single_file import described

    given = {name: getattr(arguments, name) for name in _OPTIONS}
    given = {name: value for name, value in given.items() if value is not None}
    path = sightline.export_single_file(bundle, arguments.single_file, overwrite=arguments.force, **given)
    print(described(path))


def _inputs(text: str) -> tuple[str, ...]:
    """``target,mu`` as (``target``, ``mu``)."""
    names = () if text == "none" else tuple(name.strip().replace("-", "_") for name in text.split(","))
    if unknown := [name for name in names if name not in INPUTS]:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)} cannot be an input: choose among {', '.join(INPUTS)}")
    return names
