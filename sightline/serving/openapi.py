"""The description of the interface for machines: schemas, statuses, examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from sightline.serving.schemas import DecomposeRequest, ExplainRequest, InferRequest, PredictRequest

DOT = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR42mNoaGgAAAMEAYFL09IQAAAAAElFTkSuQmCC"
"""A whole PNG, of one grey pixel: examples that can be sent as they are."""

_REASONS = {
    400: "The body is no JSON.",
    401: "No API key, or a wrong one.",
    404: "There is no such model.",
    408: "The body did not arrive in time.",
    413: "The body or an image is larger than this server takes.",
    415: "The body is not announced as JSON, or an image is in another format.",
    422: "A field, a class, a method, a budget or an image is not what it must be.",
    429: "The queue is full.",
    500: "A fault of the server.",
    503: "The model is not ready, or the server is stopping.",
    504: "The deadline passed while the request waited.",
}
_PREDICTION = {
    "target": 3,
    "label": "crack",
    "score": 0.93,
    "probabilities": [0.01, 0.02, 0.03, 0.93, 0.01],
}
_EXPLANATION = {
    "target": 3,
    "label": "crack",
    "score": 0.93,
    "method": "sise",
    "parameters": {"mu": 0.0, "predict": True},
    "image": {"width": 640, "height": 480},
    "regions": [{"box": [101, 44, 180, 93], "area": 1911.4, "mean": 0.71, "peak": 1.0, "mass": 0.41}],
    "layers": ["stem", "stages.0"],
    "passes": 64,
    "completeness": 0.8,
    "timings": {"total": 0.44},
    "engine": "onnxruntime-cpu",
    "precision": "fp32",
    "bundle_hash": "5be1…",
    "queued": 0.01,
    "overlay": DOT,
}
EXAMPLES: Mapping[type[BaseModel], Mapping[str, Any]] = {
    PredictRequest: {"one image": {"instances": [{"b64": DOT}]}},
    ExplainRequest: {
        "what was predicted": {"instances": [{"b64": DOT}]},
        "a class, within a budget": {
            "instances": [{"b64": DOT, "target": 1}],
            "parameters": {"method": "sise", "max_passes": 16, "overlay": False, "saliency": True},
        },
    },
    DecomposeRequest: {"two layers": {"instances": [{"b64": DOT}], "parameters": {"depth": 2, "top_k": 3}}},
    InferRequest: {
        "an encoded image": {
            "inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": [DOT]}],
            "outputs": [{"name": "probabilities"}, {"name": "saliency"}],
            "parameters": {"max_passes": 16},
        },
        "grey pixels": {
            "inputs": [{"name": "pixels", "datatype": "UINT8", "shape": [1, 2, 2, 1], "data": [0, 255, 255, 0]}]
        },
    },
}
"""Requests that can be sent to any model of a server as they are."""

ANSWERS: Mapping[type[BaseModel], tuple[Any, tuple[str, ...]]] = {
    PredictRequest: ({"predictions": [_PREDICTION]}, ()),
    ExplainRequest: (
        {"predictions": [_PREDICTION], "explanations": [_EXPLANATION]},
        ("image/png", "application/x-npz"),
    ),
    DecomposeRequest: ({"schema": 1, "kind": "sightline.hierarchy", "label": "crack"}, ("text/html",)),
    InferRequest: (
        {
            "model_name": "steel",
            "model_version": "5be1c0ffee12",
            "outputs": [{"name": "probabilities", "datatype": "FP32", "shape": [1, 2], "data": [0.1, 0.9]}],
        },
        (),
    ),
}

_SECURITY = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}
_ERROR = {
    "type": "object",
    "required": ["error", "status", "id"],
    "properties": {"error": {"type": "string"}, "status": {"type": "integer"}, "id": {"type": "string"}},
}


def body(schema: type[BaseModel]) -> dict[str, Any]:
    """What FastAPI is told of a path whose body the server reads itself."""
    return {
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {"$ref": f"#/components/schemas/{schema.__name__}"},
                    "examples": {name: {"value": value} for name, value in EXAMPLES[schema].items()},
                }
            },
        }
    }


def answers(schema: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """What a path with a body answers."""
    example, others = ANSWERS[schema]
    content: dict[str, Any] = {"application/json": {"schema": {"type": "object"}, "example": example}}
    for kind in others:
        form = {"type": "string"} if kind == "text/html" else {"type": "string", "format": "binary"}
        content[kind] = {"schema": form}
    return {200: {"description": "Done.", "content": content}, **errors(*_REASONS)}


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Refusals that a path may answer with."""
    return {
        status: {
            "description": _REASONS[status],
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
        }
        for status in statuses
    }


def complete(document: dict[str, Any], names: Sequence[str], keys: bool) -> dict[str, Any]:
    """The description, with the models' names, the bodies' schemas and, where keys are wanted, how they are sent."""
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    schemas.clear()  # FastAPI's own, of an error that this server does not answer with
    for path in document["paths"].values():
        for operation in path.values():
            for parameter in operation.get("parameters", ()):
                if parameter["name"] == "name":
                    parameter["schema"] = {"type": "string", "enum": list(names)}
            if "HTTPValidationError" in str(operation["responses"].get("422")):
                del operation["responses"]["422"]
    schemas["Error"] = _ERROR
    for model in EXAMPLES:
        found = model.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas.update(found.pop("$defs", {}))
        schemas[model.__name__] = found
    if keys:
        components["securitySchemes"] = _SECURITY
        document["security"] = [{name: []} for name in _SECURITY]
        for operation in [operation for path in document["paths"].values() for operation in path.values()]:
            if "401" not in map(str, operation["responses"]):
                operation["security"] = []  # open to everybody
    return document
