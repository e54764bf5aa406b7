"""Explanations as JSON, PNG and npz: what is written for whoever asked, off the thread that explains."""

from __future__ import annotations

import base64
import io
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from sightline.bundle import Bundle
from sightline.runtime.explanation import Explanation

Floats = npt.NDArray[np.float32]
MapEncoding = Literal["float32", "png"]

_QUICK = zlib.Z_RLE
"""zlib's strategy for pictures: a third of the time of its own choice, and fewer bytes where a photograph has grain."""


@dataclass(frozen=True)
class Wanted:
    """What an answer holds beside the facts."""

    overlay: bool = True
    saliency: bool = False
    layers: bool = False
    maps: MapEncoding = "float32"

    def most(self, bundle: Bundle, images: Sequence[tuple[int, int]]) -> int:
        """Bytes that the maps of an answer take, about, for images of so many pixels and so many targets."""
        grid = 4 * bundle.input.width * bundle.input.height * 4 // 3  # float32 in base64
        grids = self.saliency + self.layers * len(bundle.blocks)
        return sum(targets * (grids * grid + self.overlay * 3 * pixels) for pixels, targets in images)


def dumped(document: Any) -> bytes:
    """Compact JSON."""
    return json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode(errors="replace")


def prediction(bundle: Bundle, probabilities: npt.NDArray[np.float64]) -> dict[str, Any]:
    """The predicted class, and what every class was given."""
    number = int(probabilities.argmax())
    return {
        "target": number,
        "label": bundle.label(number),
        "score": float(probabilities[number]),
        "probabilities": probabilities.tolist(),
    }


def explained(explanation: Explanation, wanted: Wanted, queued: float) -> dict[str, Any]:
    """The facts of an explanation, and what is wanted beside them."""
    found = {**explanation.facts(), "queued": queued}
    if wanted.overlay:
        found["overlay"] = _text(png(explanation.overlay()))
    if wanted.saliency:
        found["saliency"] = _map(explanation.saliency, wanted.maps)
    if wanted.layers:
        found["layer_maps"] = {name: _map(layer, wanted.maps) for name, layer in explanation.layer_maps.items()}
    return found


def of(explanation: Explanation, picture: Image.Image | None) -> Explanation:
    """The explanation of the picture that was sent; it was made of what the network saw of it."""
    return explanation if picture is None else replace(explanation, picture=picture)


def png(picture: Image.Image) -> bytes:
    """A PNG, written quickly."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_type=_QUICK)
    return buffer.getvalue()


def headers(explanation: Explanation) -> Mapping[str, str]:
    """The numbers of an explanation that is answered as one picture or one npz."""
    return {
        "Sightline-Target": str(explanation.target),
        "Sightline-Score": repr(explanation.score),
        "Sightline-Passes": str(explanation.passes),
        "Sightline-Completeness": repr(explanation.completeness),
    }


def numbers(values: Sequence[Floats]) -> list[float]:
    """Tensors as one flat list, each to the seven digits that float32 holds."""
    flat = np.concatenate([np.ravel(value) for value in values]).astype(np.float64)
    digits = 6 - np.floor(np.log10(abs(flat), out=np.zeros_like(flat), where=flat != 0))
    scale = 10.0 ** np.clip(digits, -300, 300)
    return list((np.rint(flat * scale) / scale).tolist())


def _map(values: Floats, encoding: MapEncoding) -> dict[str, Any]:
    height, width = values.shape
    if encoding == "png":
        data = png(Image.fromarray(np.rint(values * 255).astype(np.uint8)))
    else:
        data = np.ascontiguousarray(values, "<f4").tobytes()
    return {"height": height, "width": width, "encoding": encoding, "data": _text(data)}


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
