"""Detect defects, and show for every box which pixels it rests on: D-RISE's target under RISE, SISE and LayerCAM.

Example:
    python examples/detector/explain_boxes.py --seed 9000000 --out boxes.png
    python examples/detector/explain_boxes.py --evaluate 50
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import uuid
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from boxes import Detection, Doubles, detect
from detector import GRID, MEAN, STD, WEIGHTS, Detector, normalised, trained
from drise import Similarity
from PIL import Image, ImageDraw, ImageFont
from scenes import LABELS, Picture, scene
from train_detector import matched

import sightline
from sightline import metrics

# Far from the seeds of training and test.
SHOWN_SEED = 9_000_000
_SIDE, _GAP = 216, 8
_PAPER, _INK, _FAINT = "#ffffff", "#16202a", "#66727d"
TRUE, FOUND = "#ffffff", "#38d8ff"


_FINE = "stages.1"
"""LayerCAM's block: 24×24. A gradient at the last one, 12×12, knows only the winner's own cell."""


@dataclass(frozen=True, eq=False)
class Explained:
    """One detection and its map by every method."""

    detection: Detection
    truth: int | None
    """The number of the true box that it finds; None where it finds none."""
    maps: Mapping[str, sightline.Explanation]


def export_detector(net: Detector, path: Path) -> sightline.Bundle:
    """The bundle of a detector: its head goes on as it is, flattened."""
    # A real picture: the exporter checks its gradients on it.
    picture = torch.from_numpy(scene(SHOWN_SEED).image).permute(2, 0, 1)[None]
    return sightline.export(
        net, path, example=normalised(picture), mean=MEAN, std=STD, activation="none", overwrite=True
    )


def explained(explainers: Mapping[str, sightline.Explainer], picture: Picture) -> list[Explained]:
    """Detect, and explain all boxes of the picture at once: a mask is scored once for all of them."""
    first = next(iter(explainers.values()))
    ((outputs,),) = first.classify([picture.image])
    found = detect(outputs, GRID)
    if not found:
        return []
    pairs = matched(found, picture)
    targets = tuple(Similarity(one, GRID, LABELS[one.label]) for one in found)
    maps = {name: explainer(picture.image, targets) for name, explainer in explainers.items()}
    return [
        Explained(one, pairs.get(number), {name: several[number] for name, several in maps.items()})
        for number, one in enumerate(found)
    ]


@contextmanager
def opened(bundle: sightline.Bundle, rise: sightline.RISE) -> Iterator[dict[str, sightline.Explainer]]:
    """An explainer for each of three ways: random masks, the network's own maps as masks, and gradients alone."""
    with ExitStack() as stack:
        yield {
            method.name: stack.enter_context(sightline.Explainer(bundle, method))
            for method in (rise, sightline.SISE(), sightline.LayerCAM(_FINE))
        }


def sheet(picture: Picture, rows: Sequence[Explained]) -> Image.Image:
    """A row for every detection: the picture with the true and the detected box, and both over each method's map."""
    names = list(rows[0].maps)
    font, small = ImageFont.load_default(15), ImageFont.load_default(13)
    width, height = (1 + len(names)) * (_SIDE + _GAP) + _GAP, _SIDE + 30
    made = Image.new("RGB", (width, 34 + len(rows) * height), _PAPER)
    draw = ImageDraw.Draw(made)
    for column, title in enumerate(["found (blue), true (white)", *names]):
        draw.text((_GAP + column * (_SIDE + _GAP), 20), title, _INK, font, anchor="lm")
    for row, one in enumerate(rows):
        top = 34 + row * height
        true = None if one.truth is None else picture.boxes[one.truth]
        squares = [Image.fromarray(picture.image), *(map.overlay() for map in one.maps.values())]
        notes = [f"{LABELS[one.detection.label]}, objectness {one.detection.objectness:.2f}"]
        for map in one.maps.values():
            energy = "" if true is None else f", {energy_in(map, true):.0%} in its true box"
            notes.append(f"{map.passes} passes{energy}")
        for column, (square, note) in enumerate(zip(squares, notes, strict=True)):
            left = _GAP + column * (_SIDE + _GAP)
            made.paste(square.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC), (left, top))
            for box, colour in ((true, TRUE), (one.detection.box, FOUND)):
                if box is not None:
                    corners = np.clip(np.asarray(box) * _SIDE / GRID.size, 0, _SIDE - 1)
                    draw.rectangle((corners + np.array([left, top] * 2)).tolist(), outline=colour, width=2)
            draw.text((left, top + _SIDE + 12), note, _FAINT, small, anchor="lm")
    return made


def region(box: Doubles) -> npt.NDArray[np.bool_]:
    """The pixels of a true box."""
    x0, y0, x1, y1 = box.tolist()
    return metrics.boxes_mask([metrics.Box(x0, y0, x1, y1)], (GRID.size, GRID.size))


def energy_in(map: sightline.Explanation, box: Doubles) -> float:
    """EBPG: the share of the map that lies in the box."""
    return metrics.energy_pointing_game(map.saliency, region(box))


def points_into(map: sightline.Explanation, box: Doubles) -> bool:
    """The pointing game: whether the map's highest pixel lies in the box."""
    row, column = np.unravel_index(int(map.saliency.argmax()), map.saliency.shape)
    return bool(region(box)[row, column])


def own_share(map: sightline.Explanation, boxes: Doubles, own: int) -> float:
    """Of what lies in any true box, the share in its own: does the map tell one defect from the others?"""
    every = np.logical_or.reduce([region(box) for box in boxes])
    return float(map.saliency[region(boxes[own])].sum() / max(map.saliency[every].sum(), np.finfo(np.float32).tiny))


def evaluate(explainers: Mapping[str, sightline.Explainer], scenes: Iterator[Picture], count: int) -> None:
    """Print how well the maps of all boxes that were found lie on them."""
    energy, points, own, passes = (defaultdict[str, list[float]](list) for _ in range(4))
    areas = []
    for number, picture in enumerate(scenes):
        for one in explained(explainers, picture):
            if one.truth is None:
                continue
            true = picture.boxes[one.truth]
            areas.append(region(true).mean())
            for name, map in one.maps.items():
                energy[name].append(energy_in(map, true))
                points[name].append(points_into(map, true))
                passes[name].append(map.passes)
                if len(picture.boxes) > 1:
                    own[name].append(own_share(map, picture.boxes, one.truth))
        print(f"\r{number + 1}/{count} pictures, {len(areas)} boxes", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    if not areas:
        raise SystemExit("not one box was found on these pictures")
    print(f"{len(areas)} boxes on {count} pictures; a box covers {np.mean(areas):.1%} of its picture")
    print("95 % intervals over boxes; own: on pictures of several boxes; passes: for all boxes of a picture together")
    for name in explainers:
        columns = (("EBPG", energy), ("pointing", points), ("own", own))
        figures = "  ".join(f"{title} {_interval(values[name])}" for title, values in columns if values[name])
        print(f"{name:>9}: {figures}  {np.mean(passes[name]):.0f} passes")


def _interval(values: Sequence[float]) -> str:
    """A mean with its interval, in percent."""
    found = metrics.bootstrap(values)
    return f"{100 * found.mean:.1f} [{found.low * 100:.1f}, {found.high * 100:.1f}] %"


def save(picture: Image.Image, path: Path) -> None:
    """Write a PNG of 256 colours, under a temporary name first."""
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        picture.quantize(256, dither=Image.Dither.NONE).save(partial, "PNG", optimize=True)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def main() -> None:
    """Export, detect, explain, draw or measure."""
    parser = argparse.ArgumentParser(
        description="Explain every box of a detector.",
        epilog="example: python examples/detector/explain_boxes.py --seed 9000000 --out boxes.png",
    )
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="what train_detector.py wrote")
    parser.add_argument("--seed", type=int, default=SHOWN_SEED, help=f"number of the picture ({SHOWN_SEED})")
    parser.add_argument("--out", type=Path, default=Path("boxes.png"), help="the drawing (boxes.png)")
    parser.add_argument("--passes", type=int, default=1000, help="random masks of RISE (1000)")
    parser.add_argument("--cells", type=int, default=8, help="side of RISE's grids (8)")
    parser.add_argument("--evaluate", metavar="N", type=int, help="measure N pictures from that seed on, draw nothing")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        bundle = export_detector(trained(args.weights), Path(folder) / "detector.sightline")
        with opened(bundle, sightline.RISE(passes=args.passes, cells=args.cells)) as explainers:
            if args.evaluate:
                evaluate(explainers, (scene(args.seed + i) for i in range(args.evaluate)), args.evaluate)
                return
            picture = scene(args.seed)
            rows = explained(explainers, picture)
    if not rows:
        raise SystemExit(f"picture {args.seed}: nothing was detected; take another --seed")
    save(sheet(picture, rows), args.out)
    for one in rows:
        box = ", ".join(f"{edge:.0f}" for edge in one.detection.box)
        print(f"{LABELS[one.detection.label]} {one.detection.objectness:.2f} at ({box})")
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
