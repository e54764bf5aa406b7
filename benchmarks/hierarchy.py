"""Do the units that a hierarchy names carry the decision, and what does it cost to find them?

Faithfulness, on drawn surface defects and on NEU-DET: of every decision (the predicted class, and the strongest units
of every level) the K channels of the block below with the largest supports are zeroed, and the network is run on from
there. Beside them K channels at random among those that are active where the decision can see them, and the K that are
most active there. A decision falls by (before − after) / before. Only decisions above zero count.

Cost, on ResNet-50 of random weights: the time of a whole hierarchy / (its passes × the best time of each of them alone,
measured in turns with it).

    python benchmarks/hierarchy.py [--neu-det FOLDER --neu-bundle neu.sightline] [--engines onnxruntime-cpu,openvino]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime
import record

import sightline
from sightline import Decomposer, Hierarchy, demo
from sightline.bundle import GRADIENT, LOGITS, SEED, SUPPORT, Bundle
from sightline.exporter.stages import segment
from sightline.runtime.image import ImageLike
from sightline.runtime.tree import Node

FIRST_SEED = 7_000_000
"""Away from the seeds of training, test and demo pictures."""
CHOICES = ("support", "activation", "random")
Floats: TypeAlias = npt.NDArray[Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=demo.BUNDLE, help="of the demo's network (the packaged one)")
    parser.add_argument("--per-class", type=int, default=10, help="pictures of each kind of drawn defect (10)")
    parser.add_argument("--neu-det", type=Path, help="the folder of NEU-DET; with --neu-bundle")
    parser.add_argument("--neu-bundle", type=Path, help="made by benchmarks/quality/train.py")
    parser.add_argument("--pictures", type=int, default=60, help="of NEU-DET (60)")
    parser.add_argument("--top-k", type=int, default=4, help="channels to zero (4)")
    parser.add_argument("--units", type=int, default=4, help="decisions of a level, the strongest (4)")
    parser.add_argument("--draws", type=int, default=5, help="random choices of channels for each decision (5)")
    parser.add_argument("--network", default="resnet50", help="to time: resnet50, vgg16, mobilenet_v3_large or none")
    parser.add_argument("--bundles", type=Path, help="where that network's bundle is kept between runs")
    parser.add_argument("--engines", default="onnxruntime-cpu,openvino")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/hierarchy.json")
    arguments = parser.parse_args()
    random = np.random.default_rng(arguments.seed)
    figures: dict[str, Any] = {}
    for title, bundle, pictures in subjects(arguments):
        figures |= {f"{title}: {name}": value for name, value in faithfulness(bundle, pictures, arguments, random)}
    if arguments.network != "none":
        with tempfile.TemporaryDirectory() as folder:
            figures |= cost(arguments.bundles or Path(folder), arguments)
    parameters = {name: getattr(arguments, name) for name in ("top_k", "units", "draws", "rounds", "threads", "seed")}
    parameters |= {"per_class": arguments.per_class, "pictures": arguments.pictures, "network": arguments.network}
    path = record.write("hierarchy", parameters, figures, arguments.output)
    print(json.dumps(json.loads(path.read_text(encoding="utf-8"))["figures"], indent=2))


def subjects(arguments: argparse.Namespace) -> Iterator[tuple[str, Bundle, list[ImageLike]]]:
    sys.path.append(str(Path(__file__).resolve().parents[1] / "examples" / "surface"))
    from render import LABELS, render

    drawn: list[ImageLike] = [
        render(label, FIRST_SEED + number).image for label in LABELS[1:] for number in range(arguments.per_class)
    ]
    yield "drawn defects", sightline.load(arguments.bundle), drawn
    data = arguments.neu_det or Path(os.environ.get("SIGHTLINE_NEU_DET", ""))
    if arguments.neu_bundle is None or not (data / "eval").is_dir():
        print("NEU-DET: left out. It takes --neu-bundle, and --neu-det or SIGHTLINE_NEU_DET.")
        return
    names = sorted((data / "eval").iterdir())
    step = max(1, len(names) // arguments.pictures)
    yield "NEU-DET", sightline.load(arguments.neu_bundle), list(names[::step][: arguments.pictures])


def faithfulness(
    bundle: Bundle, pictures: Sequence[ImageLike], arguments: argparse.Namespace, random: np.random.Generator
) -> Iterator[tuple[str, float]]:
    """By level: how far a decision falls when K channels of the block below are zeroed, chosen in each way."""
    falls: dict[tuple[str, str], list[float]] = defaultdict(list)
    kept: dict[str, list[float]] = defaultdict(list)
    ablations = [Ablation(bundle, index) for index in range(len(bundle.blocks))]
    with Decomposer(bundle, "onnxruntime-cpu") as decomposer:
        for picture in pictures:
            found = decomposer(picture, top_k=arguments.top_k, min_share=0.0)
            seen = decomposer.features
            for node in decisions(found, arguments.units):
                index = len(bundle.blocks) - 1 - node.level
                fall = ablations[index](seen[index], node, found, arguments.top_k, arguments.draws, random)
                name = "class" if node.unit is None else node.layer
                for choice, value in fall.items():
                    falls[name, choice].append(value)
                if fall:
                    kept[name].append(node.kept or 0.0)
    for name, shares in kept.items():
        yield f"{name}: decisions", len(shares)
        yield f"{name}: kept %", 100 * float(np.mean(shares))
        for choice in CHOICES:
            yield f"{name}: {choice} falls %", 100 * float(np.mean(falls[name, choice]))
        for other in CHOICES[1:]:
            margins = np.array(falls[name, "support"]) - np.array(falls[name, other])
            low, high = interval(margins, random)
            yield f"{name}: support minus {other} low", low
            yield f"{name}: support minus {other} high", high
            yield f"{name}: support beats {other} %", 100 * float(np.mean(margins > 0))
        print(name, {choice: round(100 * float(np.mean(falls[name, choice])), 1) for choice in CHOICES}, flush=True)


def decisions(found: Hierarchy, units: int) -> Iterator[Node]:
    """The class, and the strongest units of every level that was taken apart."""
    for level in range(len(found.levels) - 1):
        yield from [node for node in found.nodes if node.level == level][:units]


class Ablation:
    """The network from one block on to the next, with channels of the block zeroed."""

    def __init__(self, bundle: Bundle, index: int) -> None:
        last = index == len(bundle.blocks) - 1
        self.block = bundle.blocks[index]
        self.stage = session(bundle.path / bundle.stages[index].file)
        model = segment(
            ir.load(bundle.attribution), bundle.blocks, index, LOGITS if last else bundle.blocks[index + 1].features
        )
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "segment.onnx"
            ir.save(ir.external_data.load_to_model(model), path)
            self.forward = session(path)

    def __call__(
        self, maps: Floats, node: Node, found: Hierarchy, top_k: int, draws: int, random: np.random.Generator
    ) -> dict[str, float]:
        """Of one decision: how far it falls, by choice; nothing where it is not above zero."""
        place: tuple[int, ...] = (int(found.target or 0),)
        if node.unit is not None:
            place = (node.unit.channel, *node.unit.position)
        before = self.value(maps, place)
        if not before > 0:
            return {}
        (shape,) = (value.shape[1:] for value in self.stage.get_inputs() if value.name == SEED)
        seed = np.zeros((1, *shape), np.float32)
        seed[0][place] = 1
        gradient, supports = self.stage.run([GRADIENT, SUPPORT], {self.block.features: maps[None], SEED: seed})
        visible = np.abs(gradient[0]).max(axis=0) > 0
        activity = np.abs(maps * visible).sum(axis=(1, 2))
        alive = np.flatnonzero(activity)
        zeroed = [("support", np.argsort(-supports[0])[:top_k]), ("activation", np.argsort(-activity)[:top_k])]
        zeroed += [("random", random.permutation(alive)[:top_k]) for _ in range(draws)]
        falls = defaultdict(list)
        for choice, channels in zeroed:
            without = maps.copy()
            without[channels] = 0
            falls[choice].append((before - self.value(without, place)) / before)
        return {choice: float(np.mean(values)) for choice, values in falls.items()}

    def value(self, maps: Floats, place: tuple[int, ...]) -> float:
        (outputs,) = self.forward.run(None, {self.block.features: maps[None]})
        return float(outputs[0][place])


def interval(values: Floats, random: np.random.Generator) -> tuple[float, float]:
    """The 95 % bootstrap interval of the mean, in per cent."""
    means = values[random.integers(0, len(values), (4000, len(values)))].mean(axis=1)
    low, high = np.percentile(100 * means, (2.5, 97.5)).tolist()
    return low, high


def session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def cost(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Of a hierarchy of four levels: seconds, passes, and the overhead ratio, on every engine."""
    from networks import exported

    bundle = exported(arguments.network, folder / f"{arguments.network}.sightline", arguments.seed)
    image = np.random.default_rng(arguments.seed).standard_normal(bundle.input.shape, np.float32)
    figures: dict[str, Any] = {}
    for engine in arguments.engines.split(","):
        with Decomposer(bundle, engine, threads=arguments.threads) as decomposer:
            # Random weights spread the evidence thinly: every share is taken, so that the tree is a full one.
            found = decomposer(image, top_k=arguments.top_k, depth=4, min_share=0.0)
            seconds, ratios, ours = [], [], decomposer._engines  # the passes alone are nobody else's business
            for _ in range(arguments.rounds):
                runs = {index: -stage.passes for index, stage in ours.opened.items()}
                began = time.perf_counter()
                found = decomposer(image, top_k=arguments.top_k, depth=4, min_share=0.0)
                seconds.append(time.perf_counter() - began)
                alone = best(ours.forward.run)
                for index, stage in ours.opened.items():
                    alone += (runs[index] + stage.passes) * best(stage.engine.run)
                ratios.append(seconds[-1] / alone)
        name = f"{arguments.network} {engine}"
        figures |= {
            f"{name}: hierarchy": record.spread(seconds, "s"),
            f"{name}: overhead ratio": record.spread(ratios, "1"),
            f"{name}: nodes": len(found.nodes),
            f"{name}: passes": (found.provenance["passes"]),
        }
        print(name, figures[f"{name}: hierarchy"], figures[f"{name}: overhead ratio"], flush=True)
    return figures


def best(run: Any, repeats: int = 5) -> float:
    """The fastest of a few runs."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return min(times)


if __name__ == "__main__":
    main()
