"""The Open Inference Protocol: images in, probabilities and saliency out, as tensors."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from sightline import __version__
from sightline.bundle import ImageInput
from sightline.errors import ImageError
from sightline.serving import bodies, encoding
from sightline.serving.decoding import Encoded, Picture, encoded, prepared, tensor
from sightline.serving.desk import Desk, target
from sightline.serving.models import Model, Registry, Served
from sightline.serving.refusal import RefusedError, refusal, shortened
from sightline.serving.scheduler import Outcome, Ticket
from sightline.serving.schemas import InferRequest, TensorIn
from sightline.serving.visit import Visit

PROBABILITIES, SALIENCY = "probabilities", "saliency"
_DATATYPES = {"image": "BYTES", "pixels": "UINT8", "tensor": "FP32"}
_NUMBER = 40
"""Bytes that a number of an answer takes: as Python's, and as text."""


class V2:
    """What stands behind the paths of ``/v2``."""

    def __init__(self, registry: Registry, desk: Desk) -> None:
        self._registry, self._desk = registry, desk

    def server(self) -> Mapping[str, Any]:
        """What this server is."""
        return {"name": "sightline", "version": __version__, "extensions": ["model_repository"]}

    def tensors(self, name: str) -> Mapping[str, Any]:
        """What a model takes and gives."""
        with self._registry[name].hold() as served:
            spec, classes = served.bundle.input, served.bundle.classes
            return {
                "name": name,
                "versions": [served.version],
                "platform": f"sightline_{served.explainer.engine}",
                "inputs": [
                    {"name": "image", "datatype": "BYTES", "shape": [-1]},
                    {"name": "pixels", "datatype": "UINT8", "shape": [-1, -1, -1, 1 if spec.colour == "GRAY" else 3]},
                    {"name": "tensor", "datatype": "FP32", "shape": [-1, *spec.shape]},
                ],
                "outputs": [
                    {"name": PROBABILITIES, "datatype": "FP32", "shape": [-1, classes]},
                    {"name": SALIENCY, "datatype": "FP32", "shape": [-1, spec.height, spec.width]},
                ],
            }

    def index(self) -> list[Mapping[str, Any]]:
        """All models, for repositories."""
        return [
            {
                "name": model.name,
                "version": model.version,
                "state": "READY" if model.ready else "UNAVAILABLE",
                "reason": "its engine failed" if model.broken else "" if model.ready else "it is being opened",
            }
            for model in self._registry
        ]

    async def load(self, model: Model) -> Mapping[str, Any]:
        """Read a bundle again."""
        changed = await self._desk.slowly(model.reload)
        return {"name": model.name, "version": model.version, "changed": changed}

    async def infer(self, request: HttpRequest, model: Model, visit: Visit) -> Response:
        """Classify images, or explain them where saliency is asked for."""
        with model.hold() as served:
            # Pixels in JSON are as many values as the body has room for.
            asked = await self._desk.asked(request, visit, InferRequest, self._desk.limits.max_bytes)
            parameters, (given,) = asked.parameters, asked.inputs
            outputs = [PROBABILITIES] if asked.outputs is None else [one.name for one in asked.outputs]
            if len(set(outputs)) < len(outputs):
                raise RefusedError(422, f"outputs: {outputs[0]} is asked for twice.")
            method = parameters.chosen(self._registry.choices.method, self._registry.choices.methods)
            wanted = target(served, parameters.target, "parameters.target")
            self._desk.counted(visit, _count(given))
            if SALIENCY in outputs:
                spec = served.bundle.input
                self._desk.answer(visit, _NUMBER * visit.images * spec.height * spec.width)
            served.scheduler.admits(visit.images)
            pictures = await self._pictures(visit, given, served.bundle.input)
            deadline = self._desk.limits.within(parameters.deadline)
            targets = (wanted,) if SALIENCY in outputs else ()
            tickets = [
                Ticket(picture.array, targets, method, visit.arrived, parameters.max_passes, deadline)
                for picture in pictures
            ]
            places = [f"inputs[0].data[{i}]" for i in range(len(tickets))]
            try:
                outcomes = await self._desk.outcomes(request, visit, served, tickets, places)
            except RefusedError as error:
                if (
                    error.status == 500 and given.name == "tensor"
                ):  # numbers of the client's that the network cannot bear
                    raise RefusedError(422, str(error)) from error
                raise
            began = time.perf_counter()
            content = await self._desk.off(_answer, asked, served, outputs, outcomes)
            visit.lasted("encode", time.perf_counter() - began)
            return Response(content, 200, visit.timing, media_type="application/json")

    async def _pictures(self, visit: Visit, given: TensorIn, expected: ImageInput) -> list[Picture]:
        if given.name == "image":
            files = await self._desk.off(_files, given, self._desk.limits.max_pixels)
            return await self._desk.pictures(visit, files, expected)
        if given.name == "pixels":
            height, width = given.shape[-3], given.shape[-2]
            if height * width > self._desk.limits.max_pixels:
                raise RefusedError(
                    413,
                    f"inputs[0].shape: {width}×{height} pixels are more than the {self._desk.limits.max_pixels} taken "
                    "here: send smaller images.",
                )
            visit.hold(self._desk.pixels, visit.images * height * width)
            return await self._desk.off(_of_pixels, given, visit.images, expected)
        return await self._desk.off(_of_tensors, given, visit.images, expected)


def _count(given: TensorIn) -> int:
    """How many images an input says that it has."""
    if given.datatype != _DATATYPES[given.name]:
        raise RefusedError(422, f"inputs[0].datatype: {given.name} is {_DATATYPES[given.name]}, not {given.datatype}.")
    ranks = {"image": (1,), "pixels": (3, 4), "tensor": (3, 4)}[given.name]
    if len(given.shape) not in ranks or 0 in given.shape:
        raise RefusedError(422, f"inputs[0].shape: {given.shape} is no shape for {given.name}, see GET /v2/models/…")
    return 1 if len(given.shape) == 3 else given.shape[0]


def _files(given: TensorIn, max_pixels: int) -> list[Encoded]:
    texts = [text for text in given.data if isinstance(text, str)]
    if [len(texts)] != given.shape or len(texts) != len(given.data):
        raise RefusedError(422, f"inputs[0].data: {len(given.data)} values, the shape says {given.shape[0]} texts.")
    places = [f"inputs[0].data[{i}]" for i in range(len(texts))]
    return [encoded(bodies.unpacked(text, place), place, max_pixels) for text, place in zip(texts, places, strict=True)]


def _of_pixels(given: TensorIn, count: int, expected: ImageInput) -> list[Picture]:
    values = _array(given, count)
    if values.shape[3] not in (1, 3):
        raise RefusedError(422, f"inputs[0].shape: {given.shape[-1]} channels are neither 1 nor 3.")
    if not ((values >= 0) & (values <= 255) & (values == np.floor(values))).all():
        raise RefusedError(422, "inputs[0].data: UINT8 are whole numbers from 0 to 255.")
    pixels = values.astype(np.uint8)
    try:
        return [prepared(one, expected) for one in pixels]
    except ImageError as error:
        raise refusal(error, "inputs[0].data") from error


def _of_tensors(given: TensorIn, count: int, expected: ImageInput) -> list[Picture]:
    return [tensor(one, expected, f"inputs[0].data[{i}]") for i, one in enumerate(_array(given, count))]


def _array(given: TensorIn, count: int) -> npt.NDArray[np.float32]:
    """The values, N×…, whatever the nesting."""
    shape = (count, *given.shape[-3:])
    try:
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused
            values = np.asarray(given.data, np.float32)
    except (ValueError, TypeError) as error:  # ragged, or texts
        raise RefusedError(422, shortened(f"inputs[0].data: no array of numbers ({error}).")) from error
    if values.size != np.prod(shape, dtype=object) or (values.ndim > 1 and list(values.shape) != given.shape):
        raise RefusedError(
            422, f"inputs[0].data: {values.size} values of shape {list(values.shape)}, the shape says {given.shape}."
        )
    return values.reshape(shape)


def _answer(asked: InferRequest, served: Served, outputs: Sequence[str], outcomes: Sequence[Outcome]) -> bytes:
    tensors: Mapping[str, Callable[[], list[npt.NDArray[np.float32]]]] = {
        PROBABILITIES: lambda: [outcome.probabilities.astype(np.float32) for outcome in outcomes],
        SALIENCY: lambda: [outcome.explanations[0].saliency for outcome in outcomes],
    }
    found = []
    for name in outputs:
        values = tensors[name]()
        shape = [len(values), *values[0].shape]
        found.append({"name": name, "datatype": "FP32", "shape": shape, "data": encoding.numbers(values)})
    document: dict[str, Any] = {
        "model_name": served.bundle.path.stem,
        "model_version": served.version,
        "outputs": found,
    }
    if asked.id is not None:
        document["id"] = asked.id
    return encoding.dumped(document)
