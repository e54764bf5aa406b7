"""The application: which path does what."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.openapi.utils import get_openapi
from starlette.convertors import StringConvertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, JSONResponse, Response

from sightline import __version__
from sightline.errors import SightlineError
from sightline.serving import metrics, openapi, page
from sightline.serving.bodies import ClientGone
from sightline.serving.desk import Desk
from sightline.serving.front import Front, error_response, fault
from sightline.serving.keys import Keys
from sightline.serving.models import Model, Registry
from sightline.serving.refusal import RefusedError, refusal
from sightline.serving.schemas import DecomposeRequest, ExplainRequest, InferRequest, PredictRequest
from sightline.serving.v1 import V1
from sightline.serving.v2 import V2
from sightline.serving.visit import Visit

GONE = 499
"""The status in the log where the client had left; nobody sees it."""


class _ModelName(StringConvertor):
    """A part of a path without a colon: what follows that is the verb."""

    regex = "[^/:]+"


register_url_convertor("model", _ModelName())


def build(registry: Registry, desk: Desk, keys: Keys) -> Front:
    """The application of a server.

    Args:
        registry: its models.
        desk: reads, decodes and encodes.
        keys: who may ask.
    """
    registry.metrics.hold("bytes", lambda: desk.bytes.taken)
    registry.metrics.hold("values", lambda: desk.values.taken)
    registry.metrics.hold("answers", lambda: desk.answers.taken)
    registry.metrics.hold("pixels", lambda: desk.pixels.taken)
    app = FastAPI(
        title="Sightline",
        version=__version__,
        description="Why a network decided as it did, over HTTP, by KServe's conventions (docs/serving.md).",
        docs_url=None,  # their pages load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    app.include_router(_first(registry, desk))
    app.include_router(_second(registry, desk))
    app.include_router(_house(registry))
    app.add_exception_handler(SightlineError, _refused)
    app.add_exception_handler(HTTPException, _unrouted)
    app.add_exception_handler(ClientGone, _gone)
    app.add_exception_handler(Exception, _failed)

    def description() -> dict[str, Any]:
        if app.openapi_schema is None:
            found = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            app.openapi_schema = openapi.complete(found, [model.name for model in registry], bool(keys))
        return app.openapi_schema

    app.openapi = description  # type: ignore[method-assign]  # FastAPI's documented way
    return Front(app, keys, registry.metrics)


def _first(registry: Registry, desk: Desk) -> APIRouter:
    router, v1 = APIRouter(prefix="/v1/models"), V1(registry, desk)

    @router.get("", responses=openapi.errors(401))
    async def models() -> JSONResponse:
        """The names of all models."""
        return JSONResponse(v1.names())

    @router.get("/{name:model}", responses=openapi.errors(401, 404, 503))
    async def model(name: str) -> JSONResponse:
        """What there is to know about a model."""
        return JSONResponse(v1.facts(name))

    @router.post(
        "/{name:model}:predict", openapi_extra=openapi.body(PredictRequest), responses=openapi.answers(PredictRequest)
    )
    async def predict(name: str, request: Request) -> Response:
        """Classify images."""
        return await v1.predict(request, *_met(registry, name, "predict", request))

    @router.post(
        "/{name:model}:explain", openapi_extra=openapi.body(ExplainRequest), responses=openapi.answers(ExplainRequest)
    )
    async def explain(name: str, request: Request) -> Response:
        """Explain images: which pixels decided."""
        return await v1.explain(request, *_met(registry, name, "explain", request))

    @router.post(
        "/{name:model}:decompose",
        openapi_extra=openapi.body(DecomposeRequest),
        responses=openapi.answers(DecomposeRequest),
    )
    async def decompose(name: str, request: Request) -> Response:
        """Take a decision apart, layer by layer."""
        return await v1.decompose(request, *_met(registry, name, "decompose", request))

    return router


def _second(registry: Registry, desk: Desk) -> APIRouter:
    router, v2 = APIRouter(prefix="/v2"), V2(registry, desk)

    @router.get("")
    async def server() -> JSONResponse:
        """What this server is."""
        return JSONResponse(v2.server())

    @router.get("/health/live", responses=openapi.errors(503))
    async def live() -> JSONResponse:
        """Whether the process works: 503 where an engine failed for good, and a restart may help."""
        return JSONResponse({"live": registry.alive}, 200 if registry.alive else 503)

    @router.get("/health/ready", responses=openapi.errors(503))
    async def ready(request: Request) -> JSONResponse:
        """Whether every model serves, and the server is not stopping."""
        is_ready = registry.ready and not request.scope["state"]["stopping"]
        return JSONResponse({"ready": is_ready}, 200 if is_ready else 503)

    @router.get("/models/{name:model}", responses=openapi.errors(401, 404, 503))
    async def model(name: str) -> JSONResponse:
        """What a model takes and gives, as tensors."""
        return JSONResponse(v2.tensors(name))

    @router.get("/models/{name:model}/ready", responses=openapi.errors(404, 503))
    async def model_ready(name: str, request: Request) -> JSONResponse:
        """Whether a model serves."""
        is_ready = registry[name].ready and not request.scope["state"]["stopping"]
        return JSONResponse({"name": name, "ready": is_ready}, 200 if is_ready else 503)

    @router.post(
        "/models/{name:model}/infer", openapi_extra=openapi.body(InferRequest), responses=openapi.answers(InferRequest)
    )
    async def infer(name: str, request: Request) -> Response:
        """Classify or explain images, as tensors."""
        return await v2.infer(request, *_met(registry, name, "infer", request))

    @router.get("/models/{name:model}/versions/{version:model}", responses=openapi.errors(401, 404, 503))
    async def version(name: str, version: str) -> JSONResponse:
        """The same of a version of the model: the one that serves."""
        return JSONResponse(v2.tensors(registry.of(name, version).name))

    @router.get("/models/{name:model}/versions/{version:model}/ready", responses=openapi.errors(404, 503))
    async def version_ready(name: str, version: str, request: Request) -> JSONResponse:
        """Whether a version of a model serves."""
        return await model_ready(registry.of(name, version).name, request)

    @router.post(
        "/models/{name:model}/versions/{version:model}/infer",
        openapi_extra=openapi.body(InferRequest),
        responses=openapi.answers(InferRequest),
    )
    async def version_infer(name: str, version: str, request: Request) -> Response:
        """Classify or explain images by a version of a model."""
        return await infer(registry.of(name, version).name, request)

    @router.post("/repository/index", responses=openapi.errors(401, 503))
    async def index() -> JSONResponse:
        """All models and their states."""
        return JSONResponse(v2.index())

    @router.post("/repository/models/{name:model}/load", responses=openapi.errors(401, 404, 422, 500, 503))
    async def load(name: str) -> JSONResponse:
        """Read a bundle again, and let it serve where it is another one."""
        return JSONResponse(await v2.load(registry[name]))

    return router


def _house(registry: Registry) -> APIRouter:
    router = APIRouter()

    @router.get("/", response_class=HTMLResponse)
    async def front_page() -> HTMLResponse:
        """A page to try it."""
        return HTMLResponse(page.page(), headers=page.HEADERS)

    @router.get(
        "/metrics",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    async def counters() -> Response:
        """What was counted, for Prometheus."""
        return Response(registry.metrics.text(), headers={"Content-Type": metrics.CONTENT_TYPE})

    return router


def _met(registry: Registry, name: str, verb: str, request: Request) -> tuple[Model, Visit]:
    """The model that a request is for, noted in its visit."""
    visit: Visit = request.scope["state"]["visit"]
    model = registry[name]
    visit.model, visit.verb = name, verb
    return model, visit


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, SightlineError)
    return error_response(refusal(error), request.scope["state"]["visit"])


async def _unrouted(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    messages = {404: "there is no such path: see /openapi.json.", 405: "this path has no such method."}
    message = messages.get(error.status_code, str(error.detail))
    return error_response(RefusedError(error.status_code, message), request.scope["state"]["visit"], error.headers)


async def _failed(request: Request, error: Exception) -> Response:
    """Told without its trace, which is in the log: the error goes on to the front."""
    return error_response(fault(), request.scope["state"]["visit"])


async def _gone(request: Request, error: Exception) -> Response:
    visit: Visit = request.scope["state"]["visit"]
    visit.error = "the client had left"
    return Response(status_code=GONE)
