"""Is there a better SISE? Variants of its weights and its fusion, by all seven metrics, on pictures not fitted on.

    python benchmarks/quality/search.py held-out --data FOLDER --bundle neu.sightline --work work/ [--per-class 10]
    python benchmarks/quality/search.py eval …       the same on the pictures that count
    python benchmarks/quality/search.py surface …    and on drawn defects

Choices are made on ``held-out``, pictures of ``train/`` that train.py leaves out. Variants are computed here, in plain
numpy (variants.py); passes and metrics are the product's. Results are kept image by image in the work folder.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

sys.path.append(str(Path(__file__).resolve().parents[1]))

import record

import sightline
from quality import subjects
from quality.neu_det import folder
from quality.train import HELD_OUT
from quality.variants import VARIANTS, Block, Image, map_of, passes, upsampled
from sightline import metrics
from sightline.bindings import open_engine
from sightline.metrics.evaluation import Case
from sightline.metrics.store import Results
from sightline.runtime.attributions import AttributionPass, Attributions
from sightline.runtime.image import prepare

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("subject", choices=("held-out", "eval", "surface"))
    parser.add_argument("--work", type=Path, required=True, help="folder for the results of each image")
    parser.add_argument("--data", type=Path, help="NEU-DET (default: $SIGHTLINE_NEU_DET)")
    parser.add_argument("--bundle", type=Path, help="what train.py wrote, for held-out and eval")
    parser.add_argument("--per-class", type=int, default=10, help="pictures of each class (10)")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--threads", type=int, help="of a pass (default: the engine decides)")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap (0)")
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/quality-search-<subject>.json")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    subject = _subject(parser, arguments)
    kept = arguments.work / f"search-{arguments.subject}.results.jsonl"
    rows = searched(subject, kept, arguments.engine, arguments.threads)
    parameters = {
        "seed": arguments.seed,
        "images": len(rows),
        "variants": [f"{weights}, {fusion}" for weights, fusion in VARIANTS],
    }
    found = figures(subject.title, rows, arguments.seed)
    print(record.write(f"quality-search-{arguments.subject}", parameters, found, arguments.output).name)


def searched(
    subject: subjects.Subject, kept: Path, engine: str = "auto", threads: int | None = None
) -> list[dict[str, Any]]:
    """For every image and variant the seven values, in [0, 1], and the passes."""
    bundle = sightline.load(subject.bundle)
    spec = bundle.input
    rows = []
    attribution = open_engine(bundle.attribution, shapes={spec.name: (1, *spec.shape)}, threads=threads)
    attribute = AttributionPass(bundle, attribution)
    with Results(kept) as results, sightline.Explainer(bundle, engine=engine, threads=threads) as explainer:
        for number, case in enumerate(subject.cases, 1):
            key = f"{bundle.hash} {case.name} {VARIANTS}"
            if not results.has(key):
                results.add(key, _searched(case, explainer, attribute))
            rows.append(results[key]["variants"])
            print(f"\r{number}/{len(subject.cases)}", end="", flush=True)
    print()
    return rows


def figures(title: str, rows: list[dict[str, Any]], seed: int) -> dict[str, Any]:
    """Means, and for every variant but the first the paired difference to it with its interval."""
    found: dict[str, Any] = {"subject": title}
    names = list(rows[0])
    for name in names:
        found[f"{name}: passes"] = float(np.mean([row[name]["passes"] for row in rows]))
        for metric, facts in metrics.METRICS.items():
            values = np.array([row[name][metric] for row in rows])
            found[f"{name}: {metric}"] = facts.shown(float(values.mean()))
            if name != names[0]:
                difference = metrics.bootstrap(values - [row[names[0]][metric] for row in rows], seed=seed)
                for end in ("low", "high"):
                    found[f"{name} minus SISE: {metric} {end}"] = facts.shown(getattr(difference, end))
    return found


def _subject(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> subjects.Subject:
    if arguments.subject == "surface":
        return subjects.surface(arguments.work / "surface", arguments.per_class, None)
    data = folder(arguments.data)
    if arguments.bundle is None:
        parser.error("--bundle is missing: write one with train.py first")
    if arguments.subject == "held-out":
        return subjects.neu_det(data, arguments.bundle, arguments.per_class * 6, part="train", last=HELD_OUT)
    return subjects.neu_det(data, arguments.bundle, arguments.per_class * 6)


def _searched(case: Case, explainer: sightline.Explainer, attribute: AttributionPass) -> dict[str, Any]:
    bundle = explainer.bundle
    target = bundle.target(str(case.annotation.label))
    prepared = prepare(case.path, bundle.input)
    pixels = prepared.array
    found = _image(pixels, target, explainer, attribute)
    region = case.region(bundle, prepared.picture.size, target)
    assert region is not None
    maps = {f"{weights}, {fusion}": map_of(found, weights, fusion) for weights, fusion in VARIANTS}
    asked = [metrics.Subject(pixels, map, target) for map in maps.values()]
    variants = {}
    for (weights, _), (name, map), faithful in zip(
        VARIANTS, maps.items(), metrics.faithfulness(asked, explainer.classify), strict=True
    ):
        variants[name] = {
            "passes": passes(found, weights),
            "ebpg": metrics.energy_pointing_game(map, region),
            "miou": metrics.intersection_over_union(map, region),
            "bbox": metrics.bounding_box_score(map, region),
            **{what: getattr(faithful, what) for what in ("drop", "increase", "deletion", "insertion")},
        }
    return {"variants": variants}


def _image(pixels: Floats, target: int, explainer: sightline.Explainer, attribute: AttributionPass) -> Image:
    """Two passes for every mask with a positive α: what it keeps, and what it leaves."""
    plain = attribute(pixels, target, rivals=False)
    cams = [_cams(plain, number) for number in range(len(plain.blocks))]
    attributions = attribute(pixels, target)
    blocks = []
    for block, (grad_cam, layer_cam) in zip(attributions.blocks, cams, strict=True):
        alpha = block.alpha.astype(np.float64)
        chosen = np.flatnonzero(alpha > 0)
        maps = attributions.kernels.to_host(block.features).astype(np.float64)[chosen]
        full = upsampled(maps, attributions.size)
        low, high = full.min(axis=(1, 2)), full.max(axis=(1, 2))
        varied = high - low > 1e-6 * np.maximum(abs(low), abs(high))
        maps, low, high, chosen, full = maps[varied], low[varied], high[varied], chosen[varied], full[varied]
        if not len(maps):
            continue
        masks = (full - low[:, None, None]) / (high - low)[:, None, None]
        kept, removed = (
            np.concatenate([batch[:, target] for batch in explainer.classify(_masked(pixels, some))])
            for some in (masks, 1 - masks)
        )
        sums = masks.sum(axis=(1, 2))
        blocks.append(Block(maps, low, high, sums, alpha[chosen], kept, removed, grad_cam, layer_cam))
    return Image(attributions.size, float(attributions.probabilities[target]), blocks)


def _masked(pixels: Floats, masks: Doubles) -> Iterator[Floats]:
    return (pixels * mask.astype(np.float32) for mask in masks)


def _cams(attributions: Attributions, number: int) -> tuple[Doubles, Doubles]:
    """Grad-CAM and LayerCAM of a block, at its resolution."""
    block = attributions.blocks[number]
    features, gradient = (
        attributions.kernels.to_host(values).astype(np.float64) for values in (block.features, block.gradient)
    )
    grad_cam = np.maximum(np.tensordot(gradient.mean(axis=(1, 2)), features, 1), 0)
    return grad_cam, (np.maximum(gradient, 0) * features).sum(axis=0)


if __name__ == "__main__":
    main()
