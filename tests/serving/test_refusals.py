"""What is not answered: the status says whose fault it is, the message what to do."""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import BaseModel

from sightline.serving.limits import Limits
from sightline.serving.openapi import EXAMPLES
from sightline.serving.schemas import DecomposeRequest, ExplainRequest, InferRequest, PredictRequest
from tests.runtime import tiny
from tests.serving.running import Running, b64, instance, picture, running

PATHS: dict[type[BaseModel], str] = {
    PredictRequest: "/v1/models/tiny:predict",
    ExplainRequest: "/v1/models/tiny:explain",
    DecomposeRequest: "/v1/models/tiny:decompose",
    InferRequest: "/v2/models/tiny/infer",
}
EXPLAIN = PATHS[ExplainRequest]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *chunks: bytes) -> bytes:
    """A PNG that claims a size; whole otherwise, as far as its header goes."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IEND", b"")


def gif() -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (4, 4)).save(buffer, "GIF")
    return buffer.getvalue()


def explaining(*instances: Any, **parameters: Any) -> dict[str, Any]:
    return {"instances": list(instances), "parameters": parameters}


def inferring(name: str, datatype: str, shape: Any, data: Any, **more: Any) -> dict[str, Any]:
    return {"inputs": [{"name": name, "datatype": datatype, "shape": shape, "data": data}], **more}


GOOD = instance(0)
WRONG: dict[str, tuple[type[BaseModel], Any, int, str]] = {
    "no instances": (ExplainRequest, {}, 422, "instances"),
    "none of them": (ExplainRequest, explaining(), 422, "instances"),
    "instances of another type": (ExplainRequest, {"instances": "x"}, 422, "instances"),
    "an instance of another type": (ExplainRequest, explaining(3), 422, "instances[0]"),
    "a list": (ExplainRequest, [], 422, "the body"),
    "an unknown field": (ExplainRequest, {**explaining(GOOD), "extra": 1}, 422, "extra"),
    "an unknown field of an instance": (
        ExplainRequest,
        explaining({**GOOD, "url": "http://x"}),
        422,
        "instances[0].url",
    ),
    "an unknown parameter": (ExplainRequest, explaining(GOOD, passes=3), 422, "parameters.passes"),
    "a path for an image": (ExplainRequest, explaining({"b64": "../../etc/passwd"}), 422, "base64"),
    "base64 without padding": (ExplainRequest, explaining({"b64": GOOD["b64"].rstrip("=") + "A"}), 422, "base64"),
    "an empty image": (ExplainRequest, explaining({"b64": ""}), 422, "instances[0].b64"),
    "no image": (ExplainRequest, explaining({"b64": b64(b"hello")}), 415, "PNG"),
    "another format": (ExplainRequest, explaining({"b64": b64(gif())}), 415, "PNG"),
    "half an image": (ExplainRequest, explaining(GOOD, {"b64": b64(picture(1)[:-400])}), 422, "instances[1].b64"),
    "a bomb by its header": (ExplainRequest, explaining({"b64": b64(png(50_000, 50_000))}), 413, "pixels"),
    "an image that is too large": (ExplainRequest, explaining({"b64": b64(picture(0, 501, 500))}), 413, "501×500"),
    "a class that does not exist": (ExplainRequest, explaining({**GOOD, "target": 5}), 422, "instances[0].target"),
    "a label that does not exist": (ExplainRequest, explaining({**GOOD, "target": "rust"}), 422, "rust"),
    "a class below 0": (ExplainRequest, explaining({**GOOD, "target": -1}), 422, "instances[0].target"),
    "a class that is true": (ExplainRequest, explaining({**GOOD, "target": True}), 422, "instances[0].target"),
    "a class that is 1.5": (ExplainRequest, explaining({**GOOD, "target": 1.5}), 422, "instances[0].target"),
    "no classes": (ExplainRequest, explaining({**GOOD, "target": []}), 422, "instances[0].target"),
    "too many classes": (ExplainRequest, explaining({**GOOD, "target": [0] * 17}), 422, "instances[0].target"),
    "a method that does not exist": (ExplainRequest, explaining(GOOD, method="lime"), 422, "lime"),
    "another method's setting": (
        ExplainRequest,
        explaining(GOOD, method="rise", settings={"predict": True}),
        422,
        "predict",
    ),
    "a setting out of range": (ExplainRequest, explaining(GOOD, settings={"mu": 1}), 422, "mu"),
    "a budget of 0": (ExplainRequest, explaining(GOOD, max_passes=0), 422, "max_passes"),
    "a budget in words": (ExplainRequest, explaining(GOOD, max_passes="3"), 422, "max_passes"),
    "a deadline below 0": (ExplainRequest, explaining(GOOD, deadline=-1), 422, "deadline"),
    "a format that does not exist": (ExplainRequest, explaining(GOOD, format="gif"), 422, "format"),
    "one picture of two": (ExplainRequest, explaining(GOOD, GOOD, format="png"), 422, "png"),
    "one npz of two classes": (ExplainRequest, explaining({**GOOD, "target": [0, 1]}, format="npz"), 422, "npz"),
    "more images than the queue": (ExplainRequest, explaining(*[GOOD] * 65), 413, "65"),
    "a target to predict": (PredictRequest, explaining({**GOOD, "target": 0}), 422, "instances[0].target"),
    "two images to decompose": (DecomposeRequest, explaining(GOOD, GOOD), 422, "instances"),
    "no inputs": (InferRequest, {"inputs": []}, 422, "inputs"),
    "an input that does not exist": (InferRequest, inferring("x", "BYTES", [1], [GOOD["b64"]]), 422, "inputs[0].name"),
    "another type": (InferRequest, inferring("image", "FP32", [1], [GOOD["b64"]]), 422, "datatype"),
    "another shape": (InferRequest, inferring("image", "BYTES", [2], [GOOD["b64"]]), 422, "shape"),
    "texts for pixels": (InferRequest, inferring("pixels", "UINT8", [1, 1, 1, 3], ["a", "b", "c"]), 422, "data"),
    "ragged pixels": (InferRequest, inferring("pixels", "UINT8", [1, 2, 1, 1], [[[[1]], [[1, 2]]]]), 422, "data"),
    "pixels nested otherwise": (
        InferRequest,
        inferring("pixels", "UINT8", [1, 2, 2, 1], [[[[1], [2], [3], [4]]]]),
        422,
        "[1, 1, 4, 1]",
    ),
    "too few pixels": (InferRequest, inferring("pixels", "UINT8", [1, 2, 2, 1], [1, 2, 3]), 422, "data"),
    "pixels of 256": (InferRequest, inferring("pixels", "UINT8", [1, 1, 1, 1], [256]), 422, "data"),
    "half pixels": (InferRequest, inferring("pixels", "UINT8", [1, 1, 1, 1], [0.5]), 422, "data"),
    "two channels": (InferRequest, inferring("pixels", "UINT8", [1, 1, 1, 2], [1, 2]), 422, "channels"),
    "no pixels": (InferRequest, inferring("pixels", "UINT8", [1, 0, 1, 1], []), 422, "shape"),
    "too many pixels": (InferRequest, inferring("pixels", "UINT8", [1, 2**31, 2**31, 3], [1]), 413, "pixels"),
    "too many images": (InferRequest, inferring("pixels", "UINT8", [2**31, 1, 1, 3], [1]), 413, "images"),
    "a tensor of another shape": (InferRequest, inferring("tensor", "FP32", [1, 3, 2, 2], [0.0] * 12), 422, "shape"),
    "a tensor beyond all bounds": (
        InferRequest,
        inferring("tensor", "FP32", [1, *tiny.INPUT.shape], [1e38] * 1440),
        422,
        "data",
    ),
    "an output that does not exist": (
        InferRequest,
        inferring("image", "BYTES", [1], [GOOD["b64"]], outputs=[{"name": "x"}]),
        422,
        "outputs[0].name",
    ),
    "an output twice": (
        InferRequest,
        inferring("image", "BYTES", [1], [GOOD["b64"]], outputs=[{"name": "saliency"}] * 2),
        422,
        "twice",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_named(server: Running, case: str) -> None:
    schema, document, status, named = WRONG[case]
    answer = server.post(PATHS[schema], document)
    assert answer.status_code == status, answer.text
    refused = answer.json()
    assert set(refused) == {"error", "status", "id"}
    assert refused["status"] == status
    assert refused["id"] == answer.headers["X-Request-ID"]
    assert named in refused["error"]


RAW: dict[str, tuple[bytes, int]] = {
    "nothing": (b"", 400),
    "null": (b"null", 422),
    "no JSON": (b"{", 400),
    "no UTF-8": (b"\xff\xfe{}", 400),
    "half a surrogate": (b'{"instances": [{"b64": "\\ud800"}]}', 400),
    "NaN": (b'{"instances": [{"b64": "AAAA"}], "parameters": {"deadline": NaN}}', 422),
    "infinity": (b'{"instances": [{"b64": "AAAA"}], "parameters": {"deadline": 1e999}}', 422),
    "a number of 5000 digits": (b'{"instances": [{"b64": "AAAA", "target": 1' + b"0" * 5000 + b"}]}", 400),
    "depth": (b'{"instances": ' + b"[" * 100_000, 413),
    "less depth": (b'{"instances": ' + b"[" * 5_000, 400),
    "breadth": (b'{"instances": [' + b"0," * 200_000 + b"0]}", 413),
}


@pytest.mark.parametrize("case", RAW)
def test_json_that_is_none(server: Running, case: str) -> None:
    body, status = RAW[case]
    answer = server.client.post(EXPLAIN, content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["status"]) == (status, status), answer.text


def test_the_body_is_json(server: Running) -> None:
    for kind in ("text/plain", "image/png", "multipart/form-data; boundary=x", ""):
        answer = server.client.post(EXPLAIN, content=b"{}", headers={"Content-Type": kind})
        assert answer.status_code == 415, kind
    packed = server.client.post(
        EXPLAIN, content=zlib.compress(b"{}"), headers={"Content-Type": "application/json", "Content-Encoding": "gzip"}
    )
    assert packed.status_code == 415
    with_charset = server.client.post(
        EXPLAIN, content=b"{}", headers={"Content-Type": "Application/JSON; charset=utf-8"}
    )
    assert with_charset.status_code == 422


def test_lists_count_for_what_they_take(server: Running) -> None:
    """A hundred thousand lists of one number in 400 kB would take tens of megabytes."""
    infer = "/v2/models/tiny/infer"
    document = {"name": "pixels", "datatype": "UINT8", "shape": [1, 100, 300, 3]}
    nested = np.zeros((1, 100, 300, 3), int)
    answer = server.post(infer, {"inputs": [{**document, "data": nested.tolist()}]})
    assert answer.status_code == 200, answer.text
    assert server.metric('sightline_held{what="values"}') == 0
    answer = server.post(infer, {"inputs": [{**document, "data": nested.reshape(-1, 1).tolist()}]})
    assert (answer.status_code, "send fewer, or flat" in answer.json()["error"]) == (413, True)
    answer = server.post(infer, {"inputs": [{**document, "data": nested.ravel().tolist()}]})
    assert answer.status_code == 200, answer.text


def test_an_answer_that_would_be_too_large_is_refused_before_anything_is_computed(server: Running) -> None:
    before = server.metric('sightline_images_total{method="sise",model="tiny"}')
    instances = [instance(0, target=[0, 1, 2, 3] * 4)] * 64
    asked = {"instances": instances, "parameters": {"layers": True, "saliency": True}}
    answer = server.post(EXPLAIN, asked)
    assert (answer.status_code, "bytes of maps" in answer.json()["error"]) == (413, True)
    assert server.metric('sightline_images_total{method="sise",model="tiny"}') == before
    assert server.metric('sightline_held{what="answers"}') == 0


def test_maps_as_tensors_count_too(bundle: Path) -> None:
    pixels = {"name": "pixels", "datatype": "UINT8", "shape": [64, 1, 1, 3], "data": [0] * 192}
    with running([bundle], limits=Limits(max_bytes=2**16)) as found:
        for outputs, status in ((["probabilities"], 200), (["saliency"], 413)):
            asked = {"inputs": [pixels], "outputs": [{"name": name} for name in outputs]}
            assert found.post("/v2/models/tiny/infer", asked).status_code == status


def test_a_body_that_is_too_large_is_refused_announced_or_not(server: Running) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(64):
            yield b" " * 2**16

    headers = {"Content-Type": "application/json"}
    announced = server.client.post(EXPLAIN, content=b" " * (2**20 + 1), headers=headers)
    streamed = server.client.post(EXPLAIN, content=endless(), headers=headers)
    assert (announced.status_code, streamed.status_code) == (413, 413)
    exact = server.client.post(EXPLAIN, content=b" " * 2**20, headers=headers)
    assert exact.status_code == 400
    assert server.metric('sightline_held{what="bytes"}') == 0


def test_what_is_not_there(server: Running) -> None:
    get = server.client.get
    for path in ("/nothing", "/v1/models/other", "/v2/models/other", "/v2/models/other/ready", "/v1/models/"):
        assert get(path).status_code == 404, path
    for path in ("/v1/models/other:explain", "/v1/models/tiny:train", "/v1/models/..%2F..%2Fetc:explain"):
        assert server.post(path, explaining(GOOD)).status_code == 404, path
    for name in ("..", "../tiny", "%2e%2e%2ftiny", "tiny%00", "tiny.sightline", "/etc/passwd", "\u202e"):
        answer = server.client.post(f"/v2/repository/models/{name}/load")
        assert answer.status_code == 404, name
    for method, path, allowed in (
        ("GET", EXPLAIN, "POST"),
        ("PUT", EXPLAIN, "POST"),
        ("POST", "/v1/models/tiny", "GET"),
    ):
        answer = server.client.request(method, path)
        assert (answer.status_code, answer.headers["Allow"]) == (405, allowed)


def test_one_bad_image_leaves_the_next_request_alone(server: Running) -> None:
    assert server.post(EXPLAIN, explaining(GOOD, {"b64": b64(picture(1)[:-400])})).status_code == 422
    assert server.post(EXPLAIN, explaining(GOOD)).status_code == 200
    assert server.metric('sightline_queue_length{model="tiny"}') == 0


@pytest.mark.parametrize("schema", [PredictRequest, ExplainRequest, InferRequest])
def test_the_examples_of_the_description_are_answered(server: Running, schema: type[BaseModel]) -> None:
    for name, example in EXAMPLES[schema].items():
        assert server.post(PATHS[schema], example).status_code == 200, name


def test_the_description_holds_every_path_and_status(server: Running) -> None:
    description = server.client.get("/openapi.json").json()
    assert {path for path in description["paths"] if ":" in path or "infer" in path} == {
        "/v1/models/{name}:predict",
        "/v1/models/{name}:explain",
        "/v1/models/{name}:decompose",
        "/v2/models/{name}/infer",
        "/v2/models/{name}/versions/{version}/infer",
    }
    posts = description["paths"]["/v1/models/{name}:explain"]["post"]
    assert {"200", "400", "401", "404", "413", "415", "422", "429", "503", "504"} <= set(posts["responses"])
    (parameter,) = posts["parameters"]
    assert (parameter["name"], parameter["schema"]["enum"]) == ("name", ["tiny"])
    of_version = description["paths"]["/v2/models/{name}/versions/{version}"]["get"]["parameters"]
    assert ["enum" in parameter["schema"] for parameter in of_version] == [True, False]
    schemas = description["components"]["schemas"]
    references = set(_references(description))
    assert references
    assert {reference.rpartition("/")[2] for reference in references} <= set(schemas)
    assert "HTTPValidationError" not in json.dumps(description)


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        yield from ([node["$ref"]] if "$ref" in node else [])
        for value in node.values():
            yield from _references(value)
    elif isinstance(node, list):
        for value in node:
            yield from _references(value)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
FIELDS = st.sampled_from(
    ("instances", "inputs", "outputs", "parameters", "id", "b64", "target", "name", "shape", "data")
)
DOCUMENTS = st.dictionaries(
    FIELDS, VALUES | st.lists(st.dictionaries(FIELDS, VALUES, max_size=4), max_size=3), max_size=4
)


def harmless(answer: httpx.Response) -> None:
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        assert answer.json()["status"] == answer.status_code


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=st.sampled_from([*PATHS.values()]), document=DOCUMENTS)
def test_any_json_is_answered(server: Running, path: str, document: Any) -> None:
    content = json.dumps(document)  # Infinity among it, which is no JSON
    harmless(server.client.post(path, content=content, headers={"Content-Type": "application/json"}))


@settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    place=st.integers(0, 10**6),
    values=st.binary(min_size=1, max_size=8),
    cut=st.integers(0, 60),
    kind=st.sampled_from(("PNG", "JPEG", "BMP", "TIFF", "WEBP")),
)
def test_any_damaged_image_is_answered(server: Running, place: int, values: bytes, cut: int, kind: str) -> None:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(picture(0))).save(buffer, kind)
    data = bytearray(buffer.getvalue())
    place %= len(data)
    data[place : place + len(values)] = values
    harmless(server.post(PATHS[PredictRequest], {"instances": [{"b64": b64(bytes(data[: len(data) - cut]))}]}))


def test_a_text_that_unpacks_to_much_is_no_bomb(server: Running) -> None:
    """Compressed texts in a PNG: Pillow unpacks them up to a limit of its own."""
    text = chunk(b"zTXt", b"x\0\0" + zlib.compress(b"\0" * 10**7))
    pixels = chunk(b"IDAT", zlib.compress(b"\0" * 4))
    answer = server.post(EXPLAIN, explaining({"b64": b64(png(1, 1, *[text] * 8, pixels))}))
    assert answer.status_code in (200, 422), answer.text
