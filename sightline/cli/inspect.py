"""``sightline inspect``: what a bundle holds, or what an export of an ONNX file would find."""

from __future__ import annotations

import argparse
from pathlib import Path

from sightline.cli.export import ACTIVATIONS, names, shape
from sightline.errors import BundleError

NAME = "inspect"
HELP = "show the blocks, input, labels, size and checks of a bundle or an ONNX file"
DESCRIPTION = """\
Show what a bundle holds, after checking its hashes; or what 'sightline export' would find in an ONNX file, without
writing anything."""
EXAMPLES = """\
examples:
  sightline inspect steel.sightline
  sightline inspect resnet50.onnx --input 3x224x224
  sightline inspect detector.onnx --output boxes --activation none
  sightline inspect steel.sightline --json"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("model", metavar="BUNDLE|MODEL.onnx", type=Path, help="a bundle, or an ONNX file")
    parser.add_argument("--input", metavar="CxHxW", type=shape, help="ONNX file: input shape, if it leaves it open")
    parser.add_argument("--blocks", metavar="N,…", type=names, help="ONNX file: block outputs instead of those found")
    parser.add_argument("--output", metavar="NAME", help="ONNX file: the output with the classes, if it has several")
    parser.add_argument("--activation", choices=ACTIVATIONS, help="ONNX file: what follows the logits")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print the description."""
    from sightline.cli import description

    path: Path = arguments.model
    if not path.exists():
        raise BundleError(f"there is no {path}: give a bundle or an ONNX file.")
    if path.is_dir():
        from sightline.bundle import load

        for option in ("input", "blocks", "output", "activation"):
            if getattr(arguments, option) is not None:
                raise BundleError(f"--{option} is about an ONNX file, and {path} is a bundle: leave it out.")
        bundle = load(path)
        print(description.as_json(bundle.manifest, bundle) if arguments.json else description.of_bundle(bundle))
        return 0
    from sightline.exporter.export import inspect_onnx

    manifest = inspect_onnx(
        path,
        input_shape=arguments.input,
        blocks=arguments.blocks,
        activation=arguments.activation,
        output=arguments.output,
    )
    print(description.as_json(manifest) if arguments.json else f"{path}\n\n{description.of_manifest(manifest)}")
    return 0
