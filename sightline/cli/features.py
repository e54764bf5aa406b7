"""``sightline features``: what the channels of a layer look for, as a page of cards."""

from __future__ import annotations

import argparse
from pathlib import Path

from sightline.cli.method import positive
from sightline.errors import ImageError

NAME = "features"
HELP = "show what the channels of a layer look for, by the images that excite them most"
DESCRIPTION = """\
Pass images through the network in a bundle, one pass each, and write a page of cards: for every channel the crops that
excite it most. Without --channels the cards are of the channels that carry most of the decisions about these images. An
image that cannot be read is skipped.

The bundle needs its stages; 'sightline export BUNDLE --stages' adds them to one that was made without."""
EXAMPLES = """\
examples:
  sightline features steel.sightline line/ --layer layer3 -o cards.html
  sightline features steel.sightline line/ --layer layer3 --channels 1,5,512 --per-channel 16
  sightline features steel.sightline line/ --layer layer2,layer3,layer4 --top 12"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="made by 'sightline export'")
    parser.add_argument(
        "images", metavar="IMAGES", type=Path, nargs="+", help="folders, with what is in them, or files"
    )
    parser.add_argument(
        "--layer", metavar="BLOCK,…", type=_names, required=True, help="one or more blocks, see 'sightline inspect'"
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--channels", metavar="K,…", type=_channels, help="these channels of one block")
    which.add_argument(
        "--top", metavar="N", type=positive, default=24, help="that many channels of each block (default 24)"
    )
    parser.add_argument("--per-channel", metavar="N", type=positive, default=9, help="crops on a card (default 9)")
    parser.add_argument("--engine", metavar="NAME", default="auto", help="inference engine, see 'sightline doctor'")
    parser.add_argument("--threads", metavar="N", type=positive, help="CPU threads per pass (default: the engine's)")
    parser.add_argument(
        "-o", "--output", metavar="FILE.html", type=Path, default=Path("cards.html"), help="default: cards.html"
    )


def run(arguments: argparse.Namespace) -> int:
    """Look at the images, write the page, and say what was seen."""
    from sightline.cli.progress import Progress
    from sightline.pages.features import page
    from sightline.runtime.features import feature_cards
    from sightline.runtime.saving import check, save

    output: Path = arguments.output
    if output.suffix.lower() != ".html":
        arguments.usage_error(f"--output {output} does not end in .html")
    if arguments.channels is not None and len(arguments.layer) > 1:
        arguments.usage_error("--channels belong to one block: give --layer one name")
    check(output)
    with Progress(unit=" images") as progress:
        cards = feature_cards(
            arguments.bundle,
            files(arguments.images),
            arguments.layer,
            arguments.channels,
            top=arguments.top,
            per_channel=arguments.per_channel,
            engine=arguments.engine,
            threads=arguments.threads,
            progress=progress,
        )
    save(output, page(cards))
    skipped = f", {len(cards.skipped)} skipped" if cards.skipped else ""
    print(f"{cards.images} images looked at{skipped}; {len(cards.cards)} cards → {output}: open it in a browser")
    return 0


def files(given: list[Path]) -> list[Path]:
    """The files given, and of folders those in them, however deep, that are named like images; in a fixed order.

    Raises:
        ImageError: one of them does not exist.
    """
    from sightline.runtime.pictures import named_like_one, suffixes

    known = suffixes()
    found = []
    for path in given:
        if not path.exists():
            raise ImageError(f"there is no {path}: check the path.")
        if path.is_dir():
            found += sorted(file for file in path.rglob("*") if named_like_one(file, known) and file.is_file())
        else:
            found.append(path)
    return found


def _names(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise argparse.ArgumentTypeError("name at least one block")
    return names


def _channels(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of channels: write whole numbers, as in 1,5,512")
    return tuple(dict.fromkeys(map(int, parts)))
