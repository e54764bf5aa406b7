"""``sightline export``: an ONNX file or a torch module becomes a bundle."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from pathlib import Path
from typing import Any

from sightline.cli import single_file
from sightline.errors import ExportError

ACTIVATIONS = ("softmax", "sigmoid", "none")
NAME = "export"
HELP = "turn an ONNX file or a torch module into a bundle"
DESCRIPTION = """\
Find the blocks of a network, derive its gradient graph, check both against the original, and write a bundle:
a folder that explains itself on any machine, without torch and onnx.

MODEL is an ONNX file, or module:function. The module is imported from the working directory and the function is
called without arguments; it returns the torch module with its weights loaded.

With --stages, MODEL is a bundle that was made without the stages of a hierarchy: they are added to it in place.

With --single-file, an ordinary ONNX file that explains is written as well. MODEL may then be a bundle that stands there
already. Without BUNDLE the file is all that is written."""
EXAMPLES = """\
examples:
  sightline export resnet50.onnx resnet50.sightline --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225
  sightline export inspection:network steel.sightline --input 3x224x224 --labels good,scratch,pit
  sightline export old.onnx old.sightline --range 255 --colour BGR --activation softmax --force
  sightline export old.sightline --stages
  sightline export steel.sightline --single-file steel.onnx --method ada-sise"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("model", metavar="MODEL", help="an ONNX file, or module:function that returns a torch module")
    parser.add_argument(
        "bundle", metavar="BUNDLE", type=Path, nargs="?", help="the folder to write, e.g. steel.sightline"
    )
    parser.add_argument(
        "--input", metavar="CxHxW", type=shape, help="input shape, e.g. 3x224x224; torch modules need it"
    )
    parser.add_argument("--mean", metavar="M,…", type=numbers, help="mean per channel, after scaling to --range")
    parser.add_argument("--std", metavar="S,…", type=numbers, help="standard deviation per channel")
    parser.add_argument(
        "--range", metavar="R", type=float, help="value of a white pixel before --mean: 1 (default) or 255"
    )
    parser.add_argument(
        "--colour",
        choices=("RGB", "BGR", "GRAY", "NONE"),
        help="order of the channels (default: RGB, GRAY if there is one)",
    )
    parser.add_argument("--labels", metavar="A,B,…|FILE", type=labels, help="class names, or a file with one per line")
    parser.add_argument("--blocks", metavar="N,…", type=names, help="block outputs to use instead of those found")
    parser.add_argument("--activation", choices=ACTIVATIONS, help="what follows the logits, if it is not recognised")
    parser.add_argument("--output", metavar="NAME", help="the output with the classes, where the network has several")
    parser.add_argument(
        "--torch-program", action="store_true", help="add the torch module itself, for the engines torch and torch-cuda"
    )
    parser.add_argument(
        "--stages", action="store_true", help="add to the bundle MODEL what 'sightline decompose' needs, nothing else"
    )
    parser.add_argument("--force", action="store_true", help="replace a bundle or a single file that stands there")
    single_file.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Export, and print what was found and how well it was checked."""
    import sightline
    from sightline.cli.description import of_bundle, of_manifest

    if single_file.alone(arguments):
        return single_file.run(arguments)
    if arguments.stages:
        if arguments.bundle is not None:
            arguments.usage_error("--stages changes the bundle that stands in MODEL's place: give no other")
        single_file.refuse_making(arguments, besides=("stages",))
        print(of_bundle(sightline.add_stages(arguments.model)))
        return 0
    if arguments.bundle is None and arguments.single_file is None:
        arguments.usage_error("the following arguments are required: BUNDLE")
    with single_file.folder(arguments) as folder:
        bundle = sightline.export(
            model(arguments.model),
            folder,
            input_shape=arguments.input,
            blocks=arguments.blocks,
            mean=arguments.mean,
            std=arguments.std,
            range=1.0 if arguments.range is None else arguments.range,
            colour=arguments.colour,
            labels=arguments.labels,
            activation=arguments.activation,
            output=arguments.output,
            torch_program=arguments.torch_program,
            overwrite=arguments.force,
        )
        # Without BUNDLE it lies in a temporary folder, which nobody should be sent to.
        print(of_bundle(bundle) if arguments.bundle else of_manifest(bundle.manifest))
        single_file.write(bundle, arguments)
    return 0


def model(source: str) -> Any:
    """The path of an ONNX file, or what ``module:function`` returns.

    Raises:
        ExportError: there is no such file, module or function, or it failed.
    """
    path = Path(source)
    module_name, colon, function_name = source.rpartition(":")
    if path.exists() or not colon or path.suffix == ".onnx":
        if path.is_dir():
            raise ExportError(f"{source} is a folder: give the ONNX file that it was made from, or module:function.")
        if not path.is_file():
            raise ExportError(f"there is no file {source!r}. Give an ONNX file, or module:function for a torch module.")
        return path
    sys.path.insert(0, "")
    try:
        function = getattr(importlib.import_module(module_name), function_name)
        return function()
    except ModuleNotFoundError as error:
        raise ExportError(
            f"{source}: no module named {error.name!r} in the working directory or the environment."
        ) from error
    except Exception as error:
        raise ExportError(f"{source} failed with {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove("")


def shape(text: str) -> tuple[int, int, int]:
    """``3x224x224`` as (3, 224, 224)."""
    try:
        channels, height, width = (int(size) for size in text.lower().split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no shape: write CxHxW, e.g. 3x224x224") from None
    if min(channels, height, width) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} has a side below 1")
    return channels, height, width


def numbers(text: str) -> tuple[float, ...]:
    """``0.5,0.5`` as (0.5, 0.5)."""
    try:
        return tuple(float(number) for number in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers: write e.g. 0.485,0.456,0.406") from None


def names(text: str) -> tuple[str, ...]:
    """``a,b`` as ("a", "b")."""
    return tuple(name.strip() for name in text.split(","))


def labels(text: str) -> tuple[str, ...]:
    """``a,b``, or the lines of the file of that name."""
    path = Path(text)
    if os.path.isfile(path):  # a thousand labels are longer than a path can be, which Path.is_file raises over
        try:
            return tuple(path.read_text(encoding="utf-8-sig").splitlines())
        except (OSError, UnicodeDecodeError) as error:
            raise argparse.ArgumentTypeError(f"{text} cannot be read ({error}): save it as UTF-8 text") from None
    if path.suffix == ".txt":
        raise argparse.ArgumentTypeError(f"there is no file {text!r}")
    return names(text)
