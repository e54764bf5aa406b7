"""The classifier of a bundle in a lower precision, so that a machine that explains needs no onnx to run it.

Masked scores only weigh masks: they need few digits. The attribution graph stays in float32.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from importlib.metadata import version
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from sightline import bundle
from sightline.errors import ImageError, PrecisionError
from sightline.exporter.check import TINY, session
from sightline.exporter.fp16 import halve, refuse_overflow
from sightline.exporter.int8 import masked, quantize

Floats: TypeAlias = npt.NDArray[np.float32]

FP16_TOLERANCE = 5e-2
"""A hundred times what rounding to float16 does to an ordinary network's logits."""
RECOMMENDED = 32
"""Images to calibrate int8 on."""
CHECKED = 8
"""Images to compare the logits on."""
logger = logging.getLogger(__name__)


def add_precision(
    opened: bundle.Bundle | str | Path,
    precision: Literal["fp16", "int8"],
    *,
    images: Iterable[npt.NDArray[Any]] | None = None,
    symmetric: bool = False,
    overwrite: bool = False,
) -> bundle.Bundle:
    """Add the classifier in a lower precision to a bundle; everything else in it stays byte for byte.

    bf16 and tf32 need no such file: the engines that have them convert float32 graphs themselves.

    Args:
        opened: the bundle, or its folder; rewritten whole or not at all.
        precision: ``fp16``: the image is float16, logits and probabilities float32. ``int8``: QuantizeLinear and
            DequantizeLinear around every operator that engines run on 8 bits; image, logits and probabilities are
            float32, weights int8 per channel.
        images: preprocessed, each C×H×W (or as the network takes it, H×W×C) and of floats. int8 is calibrated on
            them: at least one, better 32 or more, of every kind that will be explained. fp16 is checked on the first
            of them, besides noise. They are read one by one and not kept.
        symmetric: int8 only: activations in int8 around 0, and only where they enter a convolution or a matrix product,
            which is what TensorRT takes. By default they are uint8 and everything between is quantized too: finer, and
            much faster in ONNX Runtime on a CPU.
        overwrite: replace the variant where the bundle has it.

    Returns:
        The bundle, opened anew. ``manifest.variants[precision]`` holds ``images``, how many there were; ``error``, the
        largest difference of a logit on the checked images, relative to the largest logit; ``agreement``, the share
        of them with the same predicted class; ``versions``; and for int8 ``activations``, uint8 or int8, and
        ``masked_error``, the error on the same images behind random masks.

    Raises:
        PrecisionError: no such precision, the bundle has it, no images to calibrate on, or the result is not finite or
            too far from float32.
        ImageError: an image has another shape, another type, or NaNs.
        BundleError: the bundle is damaged, or cannot be written.
    """
    source = bundle.load(opened.path if isinstance(opened, bundle.Bundle) else opened)
    if precision not in ("fp16", "int8"):
        raise PrecisionError(
            f"{precision!r} cannot be added to a bundle: choose fp16 or int8. fp32, tf32 and bf16 need no graph of "
            "their own."
        )
    if precision in source.variants and not overwrite:
        raise PrecisionError(f"{source.path} has the classifier in {precision} already: pass overwrite=True.")
    if symmetric and precision != "int8":
        raise PrecisionError("symmetric=True is about integers: pass it with int8.")
    file = bundle.VARIANTS[precision]

    def save(folder: Path) -> bundle.Manifest:
        with tempfile.TemporaryDirectory(prefix="sightline.") as scratch:
            made = Path(scratch) / file
            given = (_checked(image, source.input) for image in (() if images is None else images))
            facts = _fp16(source, made, given) if precision == "fp16" else _int8(source, made, given, symmetric)
            for other in source.path.iterdir():
                if not other.name.startswith((bundle.MANIFEST, file)):
                    shutil.copyfile(other, folder / other.name)
            for each in made.parent.glob(f"{file}*"):  # the graph, and its weights where they are large
                shutil.copyfile(each, folder / each.name)
        facts["versions"] = {package: version(package) for package in ("onnx", "onnxruntime")}
        logger.info("%s: %s", precision, facts)
        return replace(source.manifest, variants={**source.manifest.variants, precision: facts})

    return bundle.write(source.path, save, overwrite=True)


def _fp16(source: bundle.Bundle, path: Path, images: Iterable[Floats]) -> dict[str, Any]:
    given = list(islice(images, CHECKED))
    checked = [*given, *_noise(source.input)]
    refuse_overflow(source, checked)
    halve(source, path)
    facts = _compare(source, path, checked)
    if not facts["error"] <= FP16_TOLERANCE:
        raise PrecisionError(
            f"the logits in fp16 differ from those in float32 by {facts['error']:.1e} (tolerance "
            f"{FP16_TOLERANCE:.0e}): use bf16 or fp32 for this network."
        )
    return {"images": len(given), **facts}


def _int8(source: bundle.Bundle, path: Path, images: Iterator[Floats], symmetric: bool) -> dict[str, Any]:
    given, checked = 0, list[Floats]()
    first = next(images, None)
    if first is None:
        raise PrecisionError(
            "int8 is calibrated on images of yours: pass at least one, preprocessed (images=…, --images), better "
            f"{RECOMMENDED} or more."
        )

    def counted() -> Iterator[Floats]:
        nonlocal given
        for image in chain([first], images):
            given += 1
            if given <= CHECKED:
                checked.append(image)
            yield image

    quantize(source, path, counted(), symmetric)
    if given < RECOMMENDED:
        logger.warning("int8 was calibrated on %d images: %d or more, of every kind, are better", given, RECOMMENDED)
    random = np.random.default_rng(0)
    facts = _compare(source, path, checked)
    facts["masked_error"] = _compare(source, path, [masked(each, source.input, random) for each in checked])["error"]
    if not np.isfinite([facts["error"], facts["masked_error"]]).all():
        raise PrecisionError("the logits in int8 are not finite: use bf16 or fp32 for this network.")
    return {"images": given, "activations": "int8" if symmetric else "uint8", **facts}


def _checked(image: npt.NDArray[Any], expected: bundle.ImageInput) -> Floats:
    """An image as the network takes it.

    Raises:
        ImageError: it is none.
    """
    array = np.asarray(image)
    channels, height, width = expected.shape
    taken = (height, width, channels) if expected.layout == "NHWC" else expected.shape
    if array.dtype.kind != "f" or array.shape not in (taken, expected.shape):
        raise ImageError(
            f"a calibration image is a preprocessed float array {'×'.join(map(str, expected.shape))} (C×H×W), not "
            f"{'×'.join(map(str, array.shape)) or 'a single number'} of {array.dtype}: preprocess it as for explaining."
        )
    with np.errstate(over="ignore"):
        array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise ImageError("a calibration image holds NaN or infinity: repair it, or leave it out.")
    return np.ascontiguousarray(array if array.shape == taken else array.transpose(1, 2, 0))


def _noise(expected: bundle.ImageInput) -> list[Floats]:
    random = np.random.default_rng(0)
    return [_checked(random.standard_normal(expected.shape, np.float32), expected) for _ in range(CHECKED)]


def _compare(source: bundle.Bundle, path: Path, images: Sequence[Floats]) -> dict[str, Any]:
    """Logits of a variant against float32's, on images in the network's layout."""
    reference, lower = session(source.classifier), session(path)
    kind = np.float16 if lower.get_inputs()[0].type == "tensor(float16)" else np.float32
    rows: list[npt.NDArray[np.float64]] = []
    for network, dtype in ((reference, np.float32), (lower, kind)):
        logits = [network.run([bundle.LOGITS], {source.input.name: image[None].astype(dtype)})[0] for image in images]
        rows.append(np.concatenate(logits).astype(np.float64))
    wanted, found = rows
    if not np.isfinite(found).all():
        return {"error": float("inf"), "agreement": 0.0}
    return {
        "error": float(np.abs(found - wanted).max() / max(np.abs(wanted).max(), TINY)),
        "agreement": _agreement(wanted, found),
    }


def _agreement(wanted: npt.NDArray[np.float64], found: npt.NDArray[np.float64]) -> float:
    """The share of images with the same decision: the largest logit, or, where there is one class, its sign."""
    if wanted.shape[1] == 1:
        return float(np.mean((wanted > 0) == (found > 0)))
    return float(np.mean(wanted.argmax(axis=1) == found.argmax(axis=1)))
