"""Does this machine make the maps that were expected? ``sightline build --target`` puts this file beside what it needs.

    python selftest.py                               float32, on the fastest engine
    python selftest.py --engine tensorrt --precision fp16 int8

It takes the cubins of the folder, explains the pictures in every precision asked for, and compares the maps with those
of the machine that prepared the folder. The exit code is 1 where one differs.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import sightline
from sightline.errors import SightlineError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

FP32 = 0.999
"""Pearson's correlation that two engines reach in float32: they add in another order, and Otsu's splits may tip."""
LOWER = 0.98
"""That of a lower precision, the gate of ``sightline build``."""


def main(words: Sequence[str] | None = None, folder: Path = Path(__file__).parent) -> int:
    """Compare every map of the folder."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--engine", default="auto", help="see 'sightline doctor'")
    parser.add_argument("--precision", nargs="+", default=["fp32"], choices=["fp32", "tf32", "fp16", "bf16", "int8"])
    parser.add_argument("--batch-size", type=int, help="masked images per pass (default: the fastest)")
    arguments = parser.parse_args(words)
    facts = json.loads((folder / "target.json").read_text(encoding="utf-8"))
    if facts["sightline"] != sightline.__version__:
        print(
            f"this is Sightline {sightline.__version__} and the folder is of {facts['sightline']}: its kernels are not "
            "used, and are compiled here"
        )
    for path in _kernels(folder):
        print(f"kernels: {path}")
    failed = False
    for precision in arguments.precision:
        try:
            for line, fine in _compared(folder, facts, arguments.engine, precision, arguments.batch_size):
                print(f"{'ok    ' if fine else 'FAILED'} {precision} {line}", flush=True)
                failed |= not fine
        except SightlineError as error:
            print(f"FAILED {precision} {error}", flush=True)
            failed = True
    return int(failed)


def _kernels(folder: Path) -> Iterator[Path]:
    """Copy the cubins to where Sightline looks for them."""
    from sightline.kernels.build import folder as kernels

    for cubin in sorted((folder / "kernels").glob("*.cubin")):
        kernels().mkdir(parents=True, exist_ok=True)
        yield Path(shutil.copyfile(cubin, kernels() / cubin.name))


def _compared(
    folder: Path, facts: dict[str, object], engine: str, precision: str, batch_size: int | None
) -> Iterator[tuple[str, bool]]:
    """By picture: what was found, and whether it is what was expected."""
    import numpy as np

    from sightline.runtime.explainer import METHODS

    pictures = sorted((folder / "images").iterdir())
    threshold = FP32 if precision == "fp32" else LOWER
    with sightline.Explainer(
        folder / str(facts["bundle"]),
        METHODS[str(facts["method"])](**facts["parameters"]),  # type: ignore[arg-type]
        engine,
        batch_size,
        precision=precision,  # type: ignore[arg-type]
        gate=None if precision == "fp32" else pictures,
        gate_threshold=threshold,
    ) as explainer:
        for picture in pictures:
            found = explainer(picture)
            with np.load(folder / "expected" / f"{picture.stem}.npz") as expected:
                pearson = _pearson(found.saliency, expected["saliency"])
                wanted = json.loads(str(expected["metadata"]))
            line = (
                f"{picture.name} on {found.engine}: {found.label} {found.score:.4f} (expected {wanted['label']} "
                f"{wanted['score']:.4f}), Pearson {pearson:.5f} (at least {threshold}), {found.passes} passes in "
                f"{found.timings['total']:.2f} s"
            )
            yield line, pearson >= threshold and found.target == wanted["target"]


def _pearson(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> float:
    """1 for equal maps, flat ones included."""
    import numpy as np

    if np.array_equal(a, b):
        return 1.0
    spread = float(a.std()) * float(b.std())
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1]) if spread else 0.0


if __name__ == "__main__":
    sys.exit(main())
