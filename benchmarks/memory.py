"""Peak memory at 3900 masks beside 390: each in a process of its own, the highest resident set of its whole life.

The network, the image and the way of the data are the same; only how many of the feature maps are kept differs.

    python benchmarks/memory.py [--bundle resnet50.sightline] [--masks 390 3900]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import record
from contenders import resident

import sightline
from sightline.kernels import Kernels
from sightline.runtime.attributions import Attributions
from sightline.runtime.masks import MaskSet, feature_masks
from sightline.runtime.method import Output, Plan
from sightline.runtime.selection import Choice, Indices
from sightline.runtime.sise import fused_plan

BATCH_SIZE = 16


@dataclass(frozen=True)
class Count:
    """SISE with a given number of maps, whatever their gradients: of every block its share."""

    masks_wanted: int
    name: ClassVar[str] = "count"
    output: ClassVar[Output] = "probabilities"
    rivals: ClassVar[bool] = True
    gradients: ClassVar[bool] = True
    predict: ClassVar[bool] = False

    def plan(self, attributions: Attributions, kernels: Kernels) -> Plan:
        maps = sum(block.block.channels for block in attributions.blocks)

        def keep(alpha: npt.NDArray[np.float32]) -> Choice:
            count = min(len(alpha), round(self.masks_wanted * len(alpha) / maps))
            return Choice(np.arange(count), np.ones(count))

        return fused_plan(attributions, kernels, keep)

    def masks(self, attributions: Attributions, chosen: Mapping[str, Indices], kernels: Kernels) -> dict[str, MaskSet]:
        return feature_masks(attributions, chosen, kernels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, help="an existing bundle (default: a ResNet-50, exported first)")
    parser.add_argument("--masks", type=int, nargs="+", default=[390, 3900])
    parser.add_argument("--engine", default="onnxruntime-cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/memory.json")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        explain(arguments.bundle, arguments.engine, arguments.masks[0], arguments.seed)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = arguments.bundle
        if path is None:
            from networks import exported

            path = exported("resnet50", Path(folder) / "resnet50.sightline", arguments.seed).path
        figures: dict[str, float] = {}
        for count in arguments.masks:
            options = ["--bundle", str(path), "--engine", arguments.engine, "--masks", str(count)]
            options += ["--seed", str(arguments.seed)]
            command = [sys.executable, __file__, "--child", *options]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            passes, peak = json.loads(done.stdout)
            figures[f"passes of {count}"] = passes
            figures[f"peak MiB at {count}"] = peak
            print(f"{passes} masks: {peak:.0f} MiB")
    first, *_, last = (figures[f"peak MiB at {count}"] for count in arguments.masks)
    figures["ratio"] = last / first
    record.write(
        "memory",
        {"seed": arguments.seed, "masks": arguments.masks, "engine": arguments.engine, "batch_size": BATCH_SIZE},
        figures,
        arguments.output,
    )
    print(f"ratio {last / first:.3f}")


def explain(path: Path, engine: str, masks: int, seed: int) -> None:
    """Explain one image and print the number of passes and the peak in MiB, as JSON."""
    with sightline.Explainer(path, Count(masks), engine, BATCH_SIZE) as explainer:
        spec = explainer.bundle.input
        image = np.random.default_rng(seed).integers(0, 256, (spec.height, spec.width, 3), dtype=np.uint8)
        explanation = explainer(image)
    print(json.dumps([explanation.passes, resident.peak()]))


if __name__ == "__main__":
    main()
