"""``sightline evaluate``: methods on a set of images, as numbers with intervals and as a page."""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sightline.cli.method import add_running_arguments, opened, positive, whole
from sightline.errors import AnnotationError, ImageError, TargetError

if TYPE_CHECKING:
    from sightline import Bundle
    from sightline.cli.progress import Progress
    from sightline.metrics.evaluation import Case, Contender, Evaluator

NAME = "evaluate"
HELP = "score methods on your images: where their maps lie, and what the network makes of it"
DESCRIPTION = """\
Explain every image by several methods and score the maps: EBPG, mIoU and Bbox where the truth is known, Drop, Increase,
deletion and insertion in any case (docs/evaluation.md). Prints means with 95 % bootstrap intervals and writes a page
with the maps side by side. Results are kept one by one beside the page, so that an interrupted run goes on where it
stopped. An image that cannot be evaluated does not stop the others; the exit code is then 1."""
EXAMPLES = """\
examples:
  sightline evaluate steel.sightline images/ --annotations boxes.json
  sightline evaluate steel.sightline images/ --annotations masks/ --methods sise,sise:mu=0.3,ada-sise,rise:passes=1000
  sightline evaluate steel.sightline images/ --methods sise:max_passes=200,grad-cam --metrics deletion,insertion
  sightline evaluate steel.sightline images/ --limit 50 --csv table.csv --json all.json -o page.html"""

DEFAULT_METHODS = "sise,ada-sise,rise,score-cam,grad-cam"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="made by 'sightline export'")
    parser.add_argument("images", metavar="IMAGES", type=Path, nargs="+", help="images, or folders of them")
    parser.add_argument(
        "--annotations",
        metavar="PATH",
        type=Path,
        help="the truth: boxes in JSON (plain or COCO's), or a folder of masks",
    )
    parser.add_argument(
        "--methods",
        metavar="NAME[:PARAMETER=VALUE…],…",
        default=DEFAULT_METHODS,
        help=f"the others are compared with the first (default {DEFAULT_METHODS})",
    )
    parser.add_argument("--metrics", metavar="NAME,…", help="default: all that the annotations allow")
    parser.add_argument("--steps", metavar="N", type=_steps, default=50, help="of deletion and insertion, from 50 (50)")
    parser.add_argument(
        "--target",
        choices=("true", "predicted"),
        default="true",
        help="the class explained: the annotated one (default; where none is, the predicted), or always the predicted",
    )
    add_running_arguments(parser)
    parser.add_argument("--limit", metavar="N", type=positive, help="so many of the images, drawn by the seed")
    parser.add_argument("--seed", metavar="N", type=whole, default=0, help="of --limit and the intervals (default 0)")
    parser.add_argument("--csv", metavar="FILE", type=Path, help="write the table")
    parser.add_argument(
        "--json", metavar="FILE", type=Path, help="write the table, the curves and every image's values"
    )
    parser.add_argument(
        "-o", "--output", metavar="PAGE", type=Path, default=Path("evaluation.html"), help="default: evaluation.html"
    )
    parser.add_argument(
        "--gallery", metavar="N", type=whole, default=24, help="images shown on the page, spread evenly (default 24)"
    )
    again = parser.add_mutually_exclusive_group()
    again.add_argument(
        "--resume",
        action="store_true",
        help="reuse the results kept beside the page where nothing changed (the default)",
    )
    again.add_argument("--restart", action="store_true", help="forget the results kept beside the page")


def run(arguments: argparse.Namespace) -> int:
    """Evaluate what is not evaluated yet, then tell."""
    import sightline
    from sightline.cli import contenders as words
    from sightline.cli import evaluation_report as report
    from sightline.cli.progress import Progress
    from sightline.metrics.evaluation import Evaluator, Settings
    from sightline.metrics.store import Results
    from sightline.metrics.summary import summarise
    from sightline.runtime.saving import check, save

    contenders = words.parse(arguments.methods)
    settings = Settings(_metrics(arguments), arguments.steps, arguments.target == "true")
    bundle = sightline.load(arguments.bundle)
    cases = _cases(arguments, bundle)
    for path in filter(None, (arguments.output, arguments.csv, arguments.json)):
        check(path)
    running = {"engine": arguments.engine, "precision": arguments.precision, "version": sightline.__version__}
    kept = arguments.output.with_suffix(".results.jsonl")
    with Results(kept, restart=arguments.restart) as results, Progress() as progress:
        evaluator = Evaluator(bundle, cases, settings, results, running)
        for contender in contenders:
            _evaluate(evaluator, contender, arguments, progress)
        summary = summarise(evaluator, contenders, seed=arguments.seed)
        page = report.page(evaluator, summary, arguments)
    print(report.text(summary))
    facts = {**report.setting(evaluator, arguments), **summary.facts()}
    if arguments.csv:
        save(arguments.csv, report.csv_table(summary))
    if arguments.json:
        save(arguments.json, json.dumps(facts, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    save(arguments.output, page)
    written = [str(path) for path in (arguments.output, arguments.csv, arguments.json) if path]
    print(f"\nwritten: {', '.join(written)}; kept for the next run: {kept}")
    return 1 if summary.failures else 0


def _evaluate(evaluator: Evaluator, contender: Contender, arguments: argparse.Namespace, progress: Progress) -> None:
    """One method; an engine is opened only if there is something to do."""
    said = {case.name for case in evaluator.cases if case.failure}
    due = evaluator.due(contender)

    def tell() -> None:
        for case in evaluator.cases:
            if case.failure and case.name not in said:
                said.add(case.name)
                named = "" if str(case.path) in case.failure else f"{case.path}: "
                progress.say(f"sightline: error: {named}{case.failure}", error=True)

    tell()
    if not due:
        return
    paths = [case.path for case in due]
    with opened(evaluator.bundle, contender.method, arguments, paths, progress) as explainer:
        progress.image(contender.label)
        for number, case in enumerate(evaluator.run(explainer, contender, due), 1):
            progress.image(f"{contender.label} {number}/{len(due)}")
            if case.failure:
                tell()


def _metrics(arguments: argparse.Namespace) -> tuple[str, ...]:
    from sightline.metrics.catalogue import METRICS

    located = [name for name, metric in METRICS.items() if metric.group == "localization"]
    if arguments.metrics is None:
        return tuple(name for name in METRICS if arguments.annotations or name not in located)
    asked = [name.strip().lower() for name in arguments.metrics.split(",") if name.strip()]
    if not asked:
        arguments.usage_error(f"--metrics names none of {', '.join(METRICS)}")
    for name in asked:
        if name not in METRICS:
            arguments.usage_error(f"there is no metric {name!r}: choose of {', '.join(METRICS)}")
        if name in located and not arguments.annotations:
            arguments.usage_error(f"{name} needs the truth: pass --annotations")
    return tuple(name for name in METRICS if name in asked)


def _cases(arguments: argparse.Namespace, bundle: Bundle) -> list[Case]:
    from sightline.metrics.annotations import Annotation, annotation_of, read_annotations
    from sightline.metrics.evaluation import Case

    paths = _images(arguments.images)
    known = read_annotations(arguments.annotations) if arguments.annotations else {}
    if arguments.limit is not None and arguments.limit < len(paths):
        order = list(range(len(paths)))
        random.Random(arguments.seed).shuffle(order)  # a larger limit takes these and more
        paths = [paths[number] for number in sorted(order[: arguments.limit])]
    found = [annotation_of(known, path) for path in paths]
    if known and not any(found):
        raise AnnotationError(
            f"{arguments.annotations} knows none of the {len(paths)} images: it has {next(iter(known))!r} and so on, "
            f"the images are {paths[0].name!r} and so on."
        )
    if arguments.target == "true":
        for label in sorted({annotation.label for annotation in found if annotation and annotation.label}):
            try:
                bundle.target(label)
            except TargetError as error:
                raise TargetError(
                    f"{arguments.annotations}: {error} Rename the classes, or explain the predicted one: "
                    "--target predicted."
                ) from error
    shown = set(_spread(len(paths), arguments.gallery))
    names = [path.name for path in paths]
    return [
        Case(
            path,
            path.name if names.count(path.name) == 1 else str(path),
            annotation or Annotation(),
            keep_map=number in shown,
        )
        for number, (path, annotation) in enumerate(zip(paths, found, strict=True))
    ]


def _images(given: Sequence[Path]) -> list[Path]:
    """The files, and every picture that lies directly in the folders, by name."""
    from sightline.runtime.pictures import named_like_one, suffixes

    known = suffixes()
    found: dict[Path, None] = {}
    for path in given:
        if path.is_dir():
            inside = sorted(file for file in path.iterdir() if named_like_one(file, known) and file.is_file())
            if not inside:
                raise ImageError(f"the folder {path} holds no pictures: name the folder in which they lie.")
            found |= dict.fromkeys(inside)
        else:
            found[path] = None
    return list(found)


def _spread(count: int, wanted: int) -> list[int]:
    """So many numbers below ``count``, evenly apart."""
    wanted = min(wanted, count)
    return [(2 * i + 1) * count // (2 * wanted) for i in range(wanted)]


def _steps(text: str) -> int:
    from sightline.metrics.perturbation import STEPS

    if not text.isdecimal() or int(text) < STEPS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {STEPS}")
    return int(text)
