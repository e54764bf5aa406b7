"""``sightline build --target``: for another machine, everything that needs no device to be prepared."""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sightline.cli.jetson import TARGETS
from sightline.cli.method import chosen
from sightline.cli.table import table
from sightline.errors import EngineError, MissingPackageError, SaveError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from sightline.bundle import Bundle
    from sightline.runtime.method import Method

BUNDLE = "network.sightline"
SINGLE = "explainer.onnx"
SELFTEST = "selftest.py"
GATE_IMAGES = 8
"""How many images maps are compared on by default."""
Rows = list[tuple[Any, ...]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare --target and its folder."""
    parser.add_argument(
        "--target",
        choices=sorted(TARGETS),
        help="prepare a folder for another machine instead: fp16 and int8 graphs, kernels, a self-test to run there",
    )
    parser.add_argument(
        "-o", "--output", metavar="FOLDER", type=Path, help="of --target: where to write (default: NAME)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the folder and say what is in it."""
    import sightline

    if arguments.precision != "fp32":
        arguments.usage_error("--target prepares every precision: leave --precision out")
    if not arguments.images:
        arguments.usage_error("--target needs --images: int8 is calibrated on them, and the self-test explains them")
    output = arguments.output or Path(arguments.target)
    bundle, method = sightline.load(arguments.bundle), chosen(arguments)
    rows = prepare(
        bundle,
        method,
        arguments.target,
        output,
        arguments.images,
        tested=arguments.gate_images or GATE_IMAGES,
        engine=arguments.engine,
        batch_size=arguments.batch_size,
        threads=arguments.threads,
    )
    print(table([("folder", output), *rows, ("there", f"python {SELFTEST}")], indent=0))
    return 0


def prepare(
    bundle: Bundle,
    method: Method,
    target: str,
    output: Path,
    images: Sequence[Path],
    *,
    tested: int = 8,
    engine: str = "auto",
    batch_size: int | None = None,
    threads: int | None = None,
) -> Rows:
    """Write a folder for a target, whole or not at all.

    It holds the bundle with its fp16 and int8 graphs, the single file where the method has one, cubins for what NVRTC
    here knows of the target, the first images, the maps that this machine makes of them in float32, the self-test, and
    ``target.json``, which says what all of it was made for and by.

    Raises:
        SaveError: the place is taken, or cannot be written.
        PrecisionError, ImageError: a graph cannot be lowered, or an image cannot be read.
    """
    if output.exists():
        raise SaveError(f"{output} exists already: choose another folder with -o, or remove it.")
    rows: Rows = []
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as scratch:
            folder = Path(scratch) / "made"
            folder.mkdir()
            rows += _graphs(bundle, folder, images)
            rows += _single(bundle, folder, method)
            rows += _kernels(folder, target)
            rows += _expected(bundle, folder, method, images[:tested], engine, batch_size, threads)
            shutil.copyfile(Path(__file__).with_name(SELFTEST), folder / SELFTEST)
            (folder / "target.json").write_text(json.dumps(_facts(target, method), indent=2) + "\n", encoding="utf-8")
            folder.rename(output)
    except OSError as error:
        raise SaveError(f"{output} could not be written: {error.strerror or error}. Choose another place.") from error
    return rows


def _graphs(bundle: Bundle, folder: Path, images: Sequence[Path]) -> Rows:
    """A copy of the bundle, with the classifier in fp16 and in TensorRT's int8."""
    import sightline

    shutil.copytree(bundle.path, folder / BUNDLE)
    made = sightline.load(folder / BUNDLE)
    for precision in ("fp16", "int8"):
        made = sightline.add_precision(
            made,
            precision,
            images=_prepared(bundle, images),
            symmetric=precision == "int8",  # what TensorRT takes
            overwrite=True,
        )
    told = (
        f"{name}: logits within {facts['error']:.1e}"
        for name, facts in made.manifest.variants.items()
        if "error" in facts
    )
    return [("graphs", f"{BUNDLE}, fp32 and {'; '.join(told)}")]


def _prepared(bundle: Bundle, images: Sequence[Path]) -> Iterator[npt.NDArray[np.float32]]:
    from sightline.runtime.image import prepare as prepared

    for image in images:
        yield prepared(image, bundle.input).array


def _single(bundle: Bundle, folder: Path, method: Method) -> Rows:
    from sightline.exporter.single_file import METHODS, export_single_file

    if method.name not in METHODS:
        return [("single file", f"none: there is none with {method.name}")]
    given: dict[str, Any] = {"mu": asdict(method)["mu"]} if method.name == "sise" else {}
    colours = bundle.input.colour != "NONE"
    path = export_single_file(bundle, folder / SINGLE, method=method.name, uint8=colours, **given)
    return [("single file", f"{path.name}, of {'8-bit pixels' if colours else 'preprocessed values'}")]


def _kernels(folder: Path, target: str) -> Rows:
    """Cubins for what NVRTC here knows; what it does not is named, not hidden."""
    from sightline.kernels.build import compile_kernels

    rows: Rows = []
    for arch in TARGETS[target].archs:
        rows.append(("kernels", _told(lambda arch=arch: compile_kernels([arch], folder / "kernels")[0].name)))  # type: ignore[misc]
    return rows


def _told(compiled: Callable[[], str]) -> str:
    try:
        return compiled()
    except (EngineError, MissingPackageError) as error:
        return f"not built here: {error}"


def _expected(
    bundle: Bundle,
    folder: Path,
    method: Method,
    images: Sequence[Path],
    engine: str,
    batch_size: int | None,
    threads: int | None,
) -> Rows:
    """The pictures, and the maps of them in float32."""
    import sightline

    for name in ("images", "expected"):
        (folder / name).mkdir()
    with sightline.Explainer(bundle, method, engine, batch_size, threads=threads) as explainer:
        for number, image in enumerate(images):
            # numbered: pictures of two folders may share a name
            copy = Path(shutil.copyfile(image, folder / "images" / f"{number:03}-{image.name}"))
            explainer(copy).save(folder / "expected" / f"{copy.stem}.npz")
        name = explainer.engine
    return [("self-test", f"{len(images)} pictures, maps of {name} in fp32")]


def _facts(target: str, method: Method) -> dict[str, Any]:
    from sightline import __version__

    entry = TARGETS[target]
    return {
        "target": target,
        "title": entry.title,
        "architectures": list(entry.archs),
        "sightline": __version__,
        "bundle": BUNDLE,
        "method": method.name,
        "parameters": asdict(method),
    }
