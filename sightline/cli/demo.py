"""``sightline demo``: the packaged images, explained by the packaged network."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from sightline.cli.method import add_arguments as add_method_arguments
from sightline.cli.method import chosen, opened
from sightline.cli.table import table

NAME = "demo"
HELP = "explain six packaged images of metal surfaces and write pictures"
DESCRIPTION = """\
Explain six images of metal surfaces by a small network that comes with Sightline. Writes one picture per image (the
image, the map of what decided, the true defect) and contact-sheet.png with all of them.

EBPG, the energy-based pointing game, is the share of the map that lies inside the true defect."""
EXAMPLES = """\
examples:
  sightline demo
  sightline demo --method ada-sise -o pictures/"""

_TITLES = {
    "sise": "SISE",
    "ada-sise": "Ada-SISE",
    "remise": "REMISE",
    "rise": "RISE",
    "score-cam": "Score-CAM",
    "grad-cam": "Grad-CAM",
    "grad-cam++": "Grad-CAM++",
    "layer-cam": "LayerCAM",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument(
        "-o", "--output", metavar="FOLDER", type=Path, default=Path("sightline-demo"), help="default: sightline-demo/"
    )
    add_method_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Explain, draw, and say what to do next."""
    import numpy as np
    from PIL import Image

    import sightline
    from sightline import demo
    from sightline.cli.pictures import contact_sheet, framed, panel
    from sightline.cli.progress import Progress
    from sightline.metrics import energy_pointing_game
    from sightline.runtime.rendering import png
    from sightline.runtime.saving import make, save

    method = chosen(arguments)
    output: Path = arguments.output
    make(output)
    bundle = sightline.load(demo.BUNDLE)
    rows: list[tuple[object, ...]] = [("image", "decision", "score", "EBPG", "passes", "seconds")]
    panels = []
    began = time.perf_counter()
    samples = demo.samples()
    with Progress() as progress, opened(bundle, method, arguments, [s.image for s in samples], progress) as explainer:
        for sample in samples:
            progress.image(sample.name)
            explanation = explainer(sample.image)
            truth = Image.open(sample.truth).convert("L")
            ebpg = energy_pointing_game(explanation.image_saliency, np.asarray(truth) > 0)
            title = f"{explanation.label}, {explanation.score:.3f}"
            if explanation.label != sample.label:
                title += f" (in truth {sample.label})"
            note = f"{ebpg:.0%} of the map lies inside the defect"
            panels.append(panel(Image.open(sample.image), explanation.overlay(), truth, title=title, note=note))
            save(output / f"{sample.name}.png", png(framed(panels[-1])))
            rows.append(
                (
                    sample.name,
                    explanation.label,
                    f"{explanation.score:.3f}",
                    f"{ebpg:.0%}",
                    explanation.passes,
                    f"{explanation.timings['total']:.2f}",
                )
            )
    heading = f"{_TITLES[arguments.method]}: image, what decided, true defect"
    save(output / "contact-sheet.png", png(contact_sheet(panels, heading=heading)))
    print(table(rows, right=[2, 3, 4, 5], indent=0))
    print(
        f"\n{len(panels)} images explained and drawn in {time.perf_counter() - began:.1f} s."
        f" The pictures are in {output}/, all of them in {output / 'contact-sheet.png'}.\n"
        "\nNext, your own network:\n"
        "  sightline export model.onnx model.sightline    (pip install 'sightline[export]')\n"
        "  sightline explain model.sightline image.png"
    )
    return 0
