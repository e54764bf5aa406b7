"""Export the trained SurfaceNet to the bundle that the demonstration opens.

Example:
    python export_demo.py --weights surface.pt --out ../../sightline/demo/surface.sightline
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from model import LABELS, MEAN, SIZE, STD, model
from render import render
from train import normalised

import sightline


def main() -> None:
    """Read the weights, write the bundle."""
    here = Path(__file__).resolve()
    parser = argparse.ArgumentParser(
        description="Export the trained SurfaceNet to a bundle.",
        epilog="example: python export_demo.py --weights surface.pt",
    )
    parser.add_argument("--weights", type=Path, default=here.with_name("surface.pt"))
    parser.add_argument("--out", type=Path, default=here.parents[2] / "sightline" / "demo" / "surface.sightline")
    args = parser.parse_args()

    # A real picture: the exporter checks its gradients on it.
    picture = torch.from_numpy(render("crack", seed=0, size=SIZE).image)
    bundle = sightline.export(
        model(args.weights),
        args.out,
        example=normalised(picture.permute(2, 0, 1)[None]),
        mean=list(MEAN),
        std=list(STD),
        labels=list(LABELS),
        overwrite=True,
    )
    print(f"wrote {args.out}; self-check: {dict(bundle.manifest.checks)}")


if __name__ == "__main__":
    main()
