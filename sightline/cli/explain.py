"""``sightline explain``: images in, pictures of what decided out."""

from __future__ import annotations

import argparse
import json
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sightline.cli.method import add_arguments as add_method_arguments
from sightline.cli.method import chosen, opened, positive
from sightline.errors import SightlineError

if TYPE_CHECKING:
    from sightline import Explanation

NAME = "explain"
HELP = "explain what a network decided about images"
DESCRIPTION = """\
Explain what the network in a bundle decided about each image: one line per image, and a picture with the map of the
pixels that decided, named IMAGE.METHOD.png. An image that cannot be explained does not stop the others; the exit code
is then 1."""
EXAMPLES = """\
examples:
  sightline explain steel.sightline part.png
  sightline explain steel.sightline line/*.png --method ada-sise -o out/
  sightline explain steel.sightline part.png --target crack --target pit --mu 0.3
  sightline explain steel.sightline part.png --preset speed
  sightline explain steel.sightline part.png --deadline 0.2
  sightline explain steel.sightline part.png --json --save npz,json"""
FORMATS = ("png", "npz", "json")
_LONGEST = 180
"""Bytes of an image's stem in the names of its files, which file systems hold to 255."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="made by 'sightline export'")
    parser.add_argument("images", metavar="IMAGE", type=Path, nargs="+", help="anything that Pillow opens")
    parser.add_argument(
        "--target",
        metavar="CLASS",
        action="append",
        help="index or label to explain (default: what was predicted); give it again for several classes, whose masks "
        "are then scored together",
    )
    add_method_arguments(parser)
    parser.add_argument(
        "--max-passes", metavar="N", type=positive, help="score at most so many masks of an image, the best ones"
    )
    parser.add_argument(
        "--deadline", metavar="SECONDS", type=seconds, help="begin no batch of masks after this time for an image"
    )
    parser.add_argument(
        "-o", "--output", metavar="FOLDER", type=Path, default=Path("explanations"), help="default: explanations/"
    )
    parser.add_argument(
        "--save", metavar="KIND,…", type=formats, default=("png",), help="any of png (default), npz, json"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object per image instead of a line of text")


def run(arguments: argparse.Namespace) -> int:
    """Explain one image after the other."""
    import sightline
    from sightline.cli.progress import Progress
    from sightline.runtime.saving import make

    method = chosen(arguments)
    bundle = sightline.load(arguments.bundle)
    targets = tuple(bundle.target(target) for target in arguments.target or ()) or (None,)
    failed = False
    with Progress() as progress, opened(bundle, method, arguments, arguments.images, progress) as explainer:
        make(arguments.output)
        for image, name in zip(arguments.images, distinct_names(arguments.images), strict=True):
            progress.image(image.name)
            try:
                explanations = explainer(image, targets, max_passes=arguments.max_passes, deadline=arguments.deadline)
            except SightlineError as error:
                failed = True
                progress.say(f"sightline: error: {image}: {error}", error=True)
                continue
            for explanation in explanations:
                # Two labels may look alike in the name of a file, so it holds the number, too.
                stem = f"{name}.{arguments.method}" + (
                    f".{explanation.target}-{plain(explanation.label)}" if len(targets) > 1 else ""
                )
                files = [arguments.output / f"{stem}.{kind}" for kind in arguments.save]
                for file in files:
                    explanation.save(file)
                progress.say((_json if arguments.json else _line)(image, explanation, files))
    return 1 if failed else 0


def distinct_names(images: Sequence[Path]) -> list[str]:
    """The stem of every image, numbered where it is taken, whatever the case: a/x.png and b/X.jpg are x and X-2."""
    taken: set[str] = set()
    found = []
    for image in images:
        name, number = short(image.stem), 1
        while name.casefold() in taken:
            number += 1
            name = f"{short(image.stem)}-{number}"
        taken.add(name.casefold())
        found.append(name)
    return found


def short(stem: str) -> str:
    """The beginning of a name as long as names can be, so that there is room for what is put behind it."""
    encoded = os.fsencode(stem)
    return stem if len(encoded) <= _LONGEST else encoded[:_LONGEST].decode("utf-8", "ignore")


def _line(image: Path, explanation: Explanation, files: Sequence[Path]) -> str:
    cost = f"{explanation.passes} passes, {explanation.timings['total']:.2f} s"
    if explanation.completeness < 1:
        cost += f", {explanation.completeness:.0%} complete"
    return f"{image}: {explanation.label} {explanation.score:.3f}, {cost} → {', '.join(map(str, files))}"


def _json(image: Path, explanation: Explanation, files: Sequence[Path]) -> str:
    facts = {"file": str(image), "written": [str(file) for file in files], **explanation.facts()}
    return json.dumps(facts, ensure_ascii=False, allow_nan=False)


def plain(label: str) -> str:
    """A label as part of a file's name."""
    return re.sub(r"[^\w-]+", "-", label)


def seconds(text: str) -> float:
    """A number of seconds above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return value


def formats(text: str) -> tuple[str, ...]:
    """Kinds of files, separated by commas."""
    kinds = tuple(kind.strip().lower() for kind in text.split(","))
    if unknown := [kind for kind in kinds if kind not in FORMATS]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(FORMATS)}")
    return kinds
