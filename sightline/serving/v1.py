"""KServe's first protocol: ``:predict``, ``:explain`` and, of our own, ``:decompose``."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from sightline.pages import hierarchy as hierarchy_page
from sightline.runtime.decomposer import Decomposer
from sightline.runtime.hierarchy import Hierarchy
from sightline.serving import encoding
from sightline.serving.bodies import MOST_VALUES
from sightline.serving.decoding import FORMATS, Picture
from sightline.serving.desk import Desk, settled, target
from sightline.serving.models import Model, Registry, Served
from sightline.serving.negotiation import preferred
from sightline.serving.refusal import RefusedError
from sightline.serving.scheduler import Outcome, Ticket
from sightline.serving.schemas import (
    DecomposeParameters,
    DecomposeRequest,
    ExplainRequest,
    PredictRequest,
    TargetedInstance,
)
from sightline.serving.visit import Visit

JSON, PNG, NPZ, HTML = "application/json", "image/png", "application/x-npz", "text/html"


class V1:
    """What stands behind the paths of ``/v1``."""

    def __init__(self, registry: Registry, desk: Desk) -> None:
        self._registry, self._desk = registry, desk

    def names(self) -> Mapping[str, Any]:
        """All models."""
        return {"models": [model.name for model in self._registry]}

    def facts(self, name: str) -> Mapping[str, Any]:
        """What there is to know about a model."""
        model, limits, choices = self._registry[name], self._desk.limits, self._registry.choices
        with model.hold() as served:
            bundle, explainer = served.bundle, served.explainer
            return {
                "name": name,
                "ready": True,
                "bundle_hash": bundle.hash,
                "classes": bundle.classes,
                "labels": None if bundle.labels is None else list(bundle.labels),
                "input": {
                    "width": bundle.input.width,
                    "height": bundle.input.height,
                    "channels": bundle.input.channels,
                    "colour": bundle.input.colour,
                },
                "blocks": [block.name for block in bundle.blocks],
                "methods": list(choices.methods),
                "method": choices.method.name,
                "settings": asdict(choices.method),
                "engine": explainer.engine,
                "precision": explainer.precision,
                "batch_size": explainer.batch_size,
                "hierarchy": bool(bundle.manifest.stages),
                "limits": {
                    "max_bytes": limits.max_bytes,
                    "max_pixels": limits.max_pixels,
                    "max_instances": limits.queue,
                    "queue": limits.queue,
                    "deadline": limits.deadline,
                    "formats": list(FORMATS),
                },
            }

    async def predict(self, request: HttpRequest, model: Model, visit: Visit) -> Response:
        """Classify images."""
        with model.hold() as served:
            asked = await self._desk.asked(request, visit, PredictRequest, MOST_VALUES)
            files = await self._desk.files(visit, asked.instances)
            served.scheduler.admits(len(files))
            pictures = await self._desk.pictures(visit, files, served.bundle.input)
            deadline = self._desk.limits.within(asked.parameters.deadline)
            tickets = [
                Ticket(picture.array, (), self._registry.choices.method, visit.arrived, deadline=deadline)
                for picture in pictures
            ]
            outcomes = await self._desk.outcomes(request, visit, served, tickets, [file.place for file in files])
            return _json({"predictions": _predictions(served, outcomes)}, visit)

    async def explain(self, request: HttpRequest, model: Model, visit: Visit) -> Response:
        """Explain images."""
        with model.hold() as served:
            asked = await self._desk.asked(request, visit, ExplainRequest, MOST_VALUES)
            parameters = asked.parameters
            method = parameters.chosen(self._registry.choices.method, self._registry.choices.methods)
            targets = [_targets(served, one, f"instances[{i}].target") for i, one in enumerate(asked.instances)]
            form = parameters.format or preferred(
                request.headers.get("accept"), {JSON: "json", PNG: "png", NPZ: "npz"}, "json"
            )
            if form != "json" and [len(one) for one in targets] != [1]:
                raise RefusedError(422, f"format {form}: ask with one instance and one target, or for json.")
            files = await self._desk.files(visit, asked.instances)
            served.scheduler.admits(len(files))
            wanted = encoding.Wanted(parameters.overlay, parameters.saliency, parameters.layers, parameters.maps)
            counts = [(file.pixels, len(one)) for file, one in zip(files, targets, strict=True)]
            self._desk.answer(visit, wanted.most(served.bundle, counts))
            pictures = await self._desk.pictures(visit, files, served.bundle.input)
            deadline = self._desk.limits.within(parameters.deadline)
            tickets = [
                Ticket(picture.array, chosen, method, visit.arrived, parameters.max_passes, deadline)
                for picture, chosen in zip(pictures, targets, strict=True)
            ]
            outcomes = await self._desk.outcomes(request, visit, served, tickets, [file.place for file in files])
            began = time.perf_counter()
            if form != "json":
                explanation = encoding.of(outcomes[0].explanations[0], pictures[0].original)
                content = await self._desk.off(explanation.encoded, f".{form}")
                visit.lasted("encode", time.perf_counter() - began)
                kind = PNG if form == "png" else NPZ
                return Response(content, 200, {**encoding.headers(explanation), **visit.timing}, media_type=kind)
            found = await asyncio.gather(
                *(
                    self._desk.off(_explanations, outcome, picture, wanted, isinstance(one.target, list))
                    for outcome, picture, one in zip(outcomes, pictures, asked.instances, strict=True)
                )
            )
            document = {"predictions": _predictions(served, outcomes), "explanations": found}
            content = await self._desk.off(encoding.dumped, document)
            visit.lasted("encode", time.perf_counter() - began)
            return Response(content, 200, visit.timing, media_type=JSON)

    async def decompose(self, request: HttpRequest, model: Model, visit: Visit) -> Response:
        """Take a decision apart."""
        with model.hold() as served:
            asked = await self._desk.asked(request, visit, DecomposeRequest, MOST_VALUES)
            parameters, (instance,) = asked.parameters, asked.instances
            _ = served.bundle.stages  # says so where there are none
            wanted = target(served, instance.target, "instances[0].target")
            if parameters.unit is not None and wanted is not None:
                raise RefusedError(422, "give a class (target) or a unit, not both.")
            form = parameters.format or preferred(request.headers.get("accept"), {JSON: "json", HTML: "html"}, "json")
            files = await self._desk.files(visit, asked.instances)
            (picture,) = await self._desk.pictures(visit, files, served.bundle.input)

            def decomposition(decomposer: Decomposer) -> Hierarchy:
                return _decomposed(decomposer, picture, wanted, parameters)

            began = time.perf_counter()
            future = served.decompositions.submit(decomposition)
            (hierarchy,) = await settled(request, [future], ["instances[0]"])
            visit.lasted("explain", time.perf_counter() - began)
            began = time.perf_counter()
            content = await self._desk.off(_hierarchy_text, hierarchy, form)
            visit.lasted("encode", time.perf_counter() - began)
            return Response(content, 200, visit.timing, media_type=HTML if form == "html" else JSON)


def _targets(served: Served, instance: TargetedInstance, place: str) -> tuple[int | None, ...]:
    if isinstance(instance.target, list):
        return tuple(target(served, one, f"{place}[{i}]") for i, one in enumerate(instance.target))
    return (target(served, instance.target, place),)


def _predictions(served: Served, outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    return [encoding.prediction(served.bundle, outcome.probabilities) for outcome in outcomes]


def _explanations(outcome: Outcome, picture: Picture, wanted: encoding.Wanted, several: bool) -> Any:
    found = [
        encoding.explained(encoding.of(one, picture.original), wanted, outcome.queued) for one in outcome.explanations
    ]
    return found if several else found[0]


def _decomposed(
    decomposer: Decomposer, picture: Picture, wanted: int | None, parameters: DecomposeParameters
) -> Hierarchy:
    return decomposer(
        picture.array,
        wanted,
        unit=parameters.unit,
        top_k=parameters.top_k,
        depth=parameters.depth,
        min_share=parameters.min_share,
        max_nodes=parameters.max_nodes,
    )


def _hierarchy_text(hierarchy: Hierarchy, form: str) -> bytes:
    document = hierarchy.document()
    return hierarchy_page.page(document).encode() if form == "html" else encoding.dumped(document)


def _json(document: Mapping[str, Any], visit: Visit) -> Response:
    return Response(encoding.dumped(document), 200, visit.timing, media_type=JSON)
