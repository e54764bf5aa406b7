"""``sightline decompose``: a decision taken apart, as a page, as JSON, as text."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from sightline.cli.method import positive, share
from sightline.cli.table import table

if TYPE_CHECKING:
    from sightline import Hierarchy

NAME = "decompose"
HELP = "take a decision apart: which units carried it, layer by layer"
DESCRIPTION = """\
Take a decision of the network in a bundle apart: which units of the last block carried it, which units of the block
below carried those, down to the first block. Prints the levels and the tree, and writes a page to look at (-o, one HTML
file that needs no network) or the hierarchy as JSON (--json).

The bundle needs its stages; 'sightline export BUNDLE --stages' adds them to one that was made without."""
EXAMPLES = """\
examples:
  sightline decompose steel.sightline part.png -o tree.html
  sightline decompose steel.sightline part.png --target crack --top-k 5 --depth 2
  sightline decompose steel.sightline part.png --unit layer3:512:7,7 --json unit.json
  sightline decompose steel.sightline part.png --lines 100 --min-share 0.05"""
LINES = 40


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="made by 'sightline export'")
    parser.add_argument("image", metavar="IMAGE", type=Path, help="anything that Pillow opens")
    decision = parser.add_mutually_exclusive_group()
    decision.add_argument("--target", metavar="CLASS", help="index or label to decompose (default: what was predicted)")
    decision.add_argument(
        "--unit", metavar="BLOCK:CHANNEL:ROW,COLUMN", help="decompose this unit instead, e.g. layer3:512:7,7"
    )
    parser.add_argument("--top-k", metavar="K", type=positive, default=4, help="children of a decision (default 4)")
    parser.add_argument("--depth", metavar="N", type=positive, help="blocks to walk down (default: all)")
    parser.add_argument(
        "--min-share",
        metavar="S",
        type=share,
        default=0.02,
        help="leave children out that carry less of their parent (default 0.02); the strongest one stays",
    )
    parser.add_argument("--engine", metavar="NAME", default="auto", help="inference engine, see 'sightline doctor'")
    parser.add_argument("--threads", metavar="N", type=positive, help="CPU threads per pass (default: the engine's)")
    parser.add_argument("-o", "--output", metavar="FILE.html", type=Path, help="write a page")
    parser.add_argument(
        "--cards", metavar="CARDS.html", type=Path, help="link the page's units to these cards (sightline features)"
    )
    parser.add_argument("--json", metavar="FILE.json", type=Path, help="write the hierarchy")
    parser.add_argument(
        "--lines", metavar="N", type=positive, default=LINES, help=f"print that much of the tree (default {LINES})"
    )


def run(arguments: argparse.Namespace) -> int:
    """Decompose, write what was asked for, and print the tree."""
    from sightline import Decomposer
    from sightline.cli.progress import Progress
    from sightline.runtime.saving import check

    for option, path, suffix in (("--output", arguments.output, ".html"), ("--json", arguments.json, ".json")):
        if path is not None and path.suffix.lower() != suffix:
            arguments.usage_error(f"{option} {path} does not end in {suffix}")
        if path is not None:
            check(path)
    if arguments.cards is not None and arguments.output is None:
        arguments.usage_error("--cards links a page, and -o names none")
    with (
        Progress(unit=" decisions") as progress,
        Decomposer(arguments.bundle, arguments.engine, threads=arguments.threads, progress=progress) as decomposer,
    ):
        progress.image(arguments.image.name)
        hierarchy = decomposer(
            arguments.image,
            arguments.target,
            unit=arguments.unit,
            top_k=arguments.top_k,
            depth=arguments.depth,
            min_share=arguments.min_share,
        )
    print(description(hierarchy, arguments.lines))
    if arguments.json is not None:
        hierarchy.save(arguments.json)
        print(f"\nwrote {arguments.json}")
    if arguments.output is not None:
        from sightline.pages.features import links
        from sightline.pages.hierarchy import page
        from sightline.runtime.saving import save

        cards = {} if arguments.cards is None else links(arguments.cards, arguments.output)
        save(arguments.output, page({**hierarchy.document(), "cards": cards}))
        print(f"\nwrote {arguments.output}: open it in a browser")
    return 0


def description(hierarchy: Hierarchy, lines: int) -> str:
    """A hierarchy in words, columns and a tree."""
    decided = f"{hierarchy.label}" + ("" if hierarchy.score is None else f", {hierarchy.score:.3f}")
    cost = f"{hierarchy.provenance['passes']} passes, {hierarchy.provenance['seconds']:.2f} s"
    rows = [("level", "maps", "size", "units", "of the decision", "children carry")]
    rows += [
        (
            level.name,
            str(level.channels),
            f"{level.height}×{level.width}",
            str(level.nodes),
            f"{level.mass:.1%}",
            "" if level.kept is None else f"{level.kept:.0%}",
        )
        for level in hierarchy.levels
    ]
    tree = "\n".join(hierarchy.lines(lines))
    return f"{decided}: {cost}\n\n{table(rows, right=[1, 2, 3, 4, 5], indent=0)}\n\n{tree}"
