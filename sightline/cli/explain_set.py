"""``sightline explain-set``: every image below a folder, by many workers, into Parquet and a page."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from sightline.cli.method import add_arguments as add_method_arguments
from sightline.cli.method import chosen, positive

if TYPE_CHECKING:
    from PIL import Image

    from sightline.dataset import Outcome

NAME = "explain-set"
HELP = "explain whole folders by many workers, into Parquet and a page"
DESCRIPTION = """\
Explain every image below a folder: label, score, regions and map of each go into Parquet files, a shard of the sorted
images to a file (docs/datasets.md). The same command goes on where it was stopped, by whatever it was; with everything
done it does nothing. The files hold the same bytes whatever the number of workers. Images that cannot be explained are
named in failures.json; the exit code is then 1."""
EXAMPLES = """\
examples:
  sightline explain-set steel.sightline month/ -o out/
  sightline explain-set steel.sightline month/ -o out/ --workers 8 --max-passes 64
  sightline explain-set steel.sightline month/ -o cracks/ --target crack --maps float16
  sightline explain-set steel.sightline month/ -o out/ --ray auto --workers 40
  sightline explain-set steel.sightline month/ -o try/ --limit 100 --method grad-cam"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="made by 'sightline export'")
    parser.add_argument("images", metavar="IMAGES", type=Path, help="a folder; images in folders below it count, too")
    parser.add_argument(
        "-o", "--output", metavar="OUT", type=Path, required=True, help="a folder of its own for the results"
    )
    parser.add_argument(
        "--workers",
        metavar="N",
        type=positive,
        help="processes, or actors on Ray (default: one a core or GPU, as memory allows)",
    )
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="run on a Ray cluster: its address, 'auto' for the one of this machine, 'local' for one just for this run",
    )
    parser.add_argument(
        "--target",
        metavar="CLASS",
        action="append",
        help="index or label to explain (default: what was predicted); give it again for a row each",
    )
    add_method_arguments(
        parser,
        batch_size="16, on a GPU 64, or less where --max-passes then fills every batch",
        threads="the cores over the workers; 1 on Ray",
    )
    parser.add_argument(
        "--max-passes", metavar="N", type=positive, help="score at most so many masks of an image, the best ones"
    )
    parser.add_argument(
        "--maps",
        choices=("uint8", "float16", "none"),
        default="uint8",
        help="how maps are kept: in steps of 1/255 (default), in half precision, or not at all",
    )
    parser.add_argument(
        "--probabilities",
        action="store_true",
        help="keep those of all classes, too (one more batch of passes for each image)",
    )
    parser.add_argument("--limit", metavar="N", type=positive, help="only the first so many images, by path")
    parser.add_argument("--shard-size", metavar="N", type=positive, help="images per file (default 64)")
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--retry", action="store_true", help="try again the images that failed")
    again.add_argument("--restart", action="store_true", help="forget the results in OUT and begin anew")


def run(arguments: argparse.Namespace) -> int:
    """Explain what is not explained yet, then tell."""
    from sightline import dataset
    from sightline.cli.set_progress import SetProgress

    method = chosen(arguments)
    with SetProgress() as progress:
        try:
            outcome = dataset.explain_set(
                arguments.bundle,
                arguments.images,
                arguments.output,
                method=method,
                target=arguments.target,
                max_passes=arguments.max_passes,
                engine=arguments.engine,
                precision=arguments.precision,
                batch_size=arguments.batch_size,
                maps=arguments.maps,
                probabilities=arguments.probabilities,
                workers=arguments.workers,
                threads=arguments.threads,
                ray=arguments.ray,
                **({} if arguments.shard_size is None else {"shard_size": arguments.shard_size}),
                limit=arguments.limit,
                retry=arguments.retry,
                restart=arguments.restart,
                watcher=progress,
            )
        except KeyboardInterrupt:
            progress.say("sightline: what is done stays; the same command goes on from there")
            raise
    page = _page(outcome, arguments.images)
    print(_told(outcome, page))
    return 1 if outcome.failures else 0


def _page(outcome: Outcome, images: Path) -> Path:
    """Write the summary page, unless it is there and tells of what is there."""
    from sightline import dataset
    from sightline.dataset import files
    from sightline.dataset.run import SUMMARY
    from sightline.dataset.summary import summarise
    from sightline.pages.explained_set import page

    path = outcome.out / SUMMARY
    if outcome.changed or not path.exists():
        summary = summarise(dataset.read(outcome.out))
        files.write(path, page(summary, images.resolve().name, lambda name: _picture(images / name)).encode())
    return path


def _picture(path: Path) -> Image.Image | None:
    """An image of the set, upright; None where it is not there any more."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as opened:
            return ImageOps.exif_transpose(opened).convert("RGB")
    except Exception:  # it could be read once: the page then shows its map alone
        return None


def _told(outcome: Outcome, page: Path) -> str:
    failed = len(outcome.failures)
    sad = f", {failed} failed: {outcome.out / 'failures.json'}" if failed else ""
    if not outcome.changed:
        return f"nothing to do: {outcome.images - failed} of {outcome.images} images are explained{sad}; see {page}"
    return (
        f"{outcome.images - failed} of {outcome.images} images are explained ({outcome.explained} looked at now){sad}\n"
        f"written: {outcome.out}, with {page.name}"
    )
