"""Ids, keys, logs, metrics: what every request passes through."""

from __future__ import annotations

import io
import json
import logging
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from sightline.errors import ServingError
from sightline.serving import front, keys, logs
from sightline.serving.keys import Keys
from tests.serving.running import Running, b64, instance, running

EXPLAIN = "/v1/models/tiny:explain"
ASKED = {"instances": [instance(0)]}
KEYS = ("first-key-of-two", "second-key-of-two")


@pytest.fixture(scope="module")
def guarded(bundle: Path) -> Iterator[Running]:
    with running([bundle], keys=Keys(KEYS)) as found:
        yield found


@pytest.mark.parametrize("key", KEYS)
def test_every_key_opens(guarded: Running, key: str) -> None:
    assert guarded.post(EXPLAIN, ASKED, Authorization=f"Bearer {key}").status_code == 200
    assert guarded.post(EXPLAIN, ASKED, Authorization=f"bearer {key}").status_code == 200
    assert guarded.client.get("/v1/models", headers={"X-API-Key": key}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer first-key-of-tw"},
        {"Authorization": "Bearer first-key-of-two2"},
        {"Authorization": "Basic first-key-of-two"},
        {"Authorization": "first-key-of-two"},
        {"X-API-Key": "FIRST-KEY-OF-TWO"},
        {"X-API-Key": b"\xff\xfe"},
    ],
)
def test_anything_else_does_not(guarded: Running, headers: dict[str, str | bytes]) -> None:
    load = "/v2/repository/models/tiny/load"
    for method, path in (("POST", EXPLAIN), ("GET", "/v1/models"), ("POST", load), ("GET", "/x")):
        answer = guarded.client.request(method, path, headers=headers)  # type: ignore[arg-type]
        assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer"), path


def test_what_is_open(guarded: Running) -> None:
    for path in ("/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/tiny/ready", "/metrics", "/openapi.json"):
        assert guarded.client.get(path).status_code == 200, path
    version = guarded.client.post("/v2/repository/index", headers={"X-API-Key": KEYS[0]}).json()[0]["version"]
    assert guarded.client.get(f"/v2/models/tiny/versions/{version}/ready").status_code == 200
    document = guarded.client.get("/openapi.json").json()
    assert document["security"]
    for path, operations in document["paths"].items():
        for verb, operation in operations.items():
            answer = guarded.client.request(verb, path.replace("{name}", "tiny").replace("{version}", version))
            assert (answer.status_code == 401) == (operation.get("security") != []), path


def test_a_model_named_like_a_probe_is_no_probe(bundle: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(bundle, tmp_path / "ready.sightline")
    with running([copy], keys=Keys(KEYS)) as found:
        assert found.client.get("/v2/models/ready/ready").status_code == 200
        paths = (
            "/v2/models/ready",
            "/v2/models/ready/ready/ready",
            "/v2/models//ready",
            "/v2/models/ready/versions/ready",
        )
        for path in paths:
            assert found.client.get(path).status_code == 401, path


@pytest.mark.parametrize("path", ["/", "/v2/health/ready", "/metrics", "/v2/models/other", "/v1/models/tiny:explain"])
def test_a_head_is_a_get_without_a_body(server: Running, path: str) -> None:
    head, get = server.client.head(path), server.client.get(path)
    assert (head.status_code, head.content) == (get.status_code, b"")
    assert head.headers["Content-Type"] == get.headers["Content-Type"]
    assert get.content


def test_keys_from_a_file_or_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "keys.txt"
    file.write_text("# the line\nsome-long-key\n\n  another-long-key  \n")
    assert keys.from_file(file, {}).admit({"x-api-key": "another-long-key"})
    environment, given = {keys.VARIABLE: "from-the-environment"}, {"x-api-key": "from-the-environment"}
    assert not keys.from_file(file, environment).admit(given)
    assert keys.from_file(None, environment).admit(given)
    assert not keys.from_file(None, {})
    assert keys.from_file(None, {}).admit({})
    file.write_text("# nothing\n")
    for wrong, said in ((file, "holds no API key"), (tmp_path / "none", "cannot be read")):
        with pytest.raises(ServingError, match=said):
            keys.from_file(wrong, {})
    for bad in ("short", "with a space", "naïve-key"):
        with pytest.raises(ServingError, match="refused") as refused:
            Keys((bad,))
        assert bad not in str(refused.value)


def test_ids_come_back_where_they_can_be_written_into_a_log(server: Running) -> None:
    def id_of(given: str | None) -> str:
        headers = {} if given is None else {"X-Request-ID": given}
        return str(server.client.get("/v2", headers=headers).headers["X-Request-ID"])

    assert id_of("part-17.a_B") == "part-17.a_B"
    assert len({id_of(None), id_of(None), id_of("a b"), id_of("x" * 65), id_of('"}')}) == 5


def test_a_line_of_the_log_cannot_be_forged(server: Running) -> None:
    logger = logging.getLogger("sightline.serving.requests")
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.JsonLines())
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        server.client.get('/v1/models/x%0A{"status": 200}', headers={"X-Request-ID": "forged-1"})
        server.client.get("/v1/models/%C3%A4%E2%80%A8", headers={"X-Request-ID": "forged-2"})
        while stream.getvalue().count("forged-") < 2:
            pass  # the line is written once the answer is sent
    finally:
        logger.removeHandler(handler)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]  # of requests before, too
    assert [line["status"] for line in lines if line["id"].startswith("forged-")] == [404, 404]


def test_what_is_counted(server: Running) -> None:
    def counts() -> tuple[float, ...]:
        return tuple(
            map(
                server.metric,
                (
                    'sightline_requests_total{model="tiny",status="200",verb="explain"}',
                    'sightline_request_seconds_count{model="tiny",verb="explain"}',
                    'sightline_images_total{method="sise",model="tiny"}',
                    'sightline_requests_total{model="-",status="404",verb="-"}',
                    'sightline_requests_total{model="tiny",status="422",verb="explain"}',
                ),
            )
        )

    before = counts()
    passes = server.metric('sightline_passes_total{model="tiny"}')
    (found,) = server.post(EXPLAIN, ASKED).json()["explanations"]
    server.post("/v1/models/made-up:explain", ASKED)
    server.post(EXPLAIN, {})
    assert counts() == tuple(value + more for value, more in zip(before, (1, 2, 1, 1, 1), strict=True))
    assert server.metric('sightline_passes_total{model="tiny"}') == passes + found["passes"]
    text = server.client.get("/metrics").text
    assert "made-up" not in text
    assert 'sightline_ready{model="tiny"} 1.0' in text
    assert "process_resident_memory_bytes" in text


def test_headers_of_every_answer(server: Running) -> None:
    for answer in (server.client.get("/v2"), server.client.get("/x"), server.post(EXPLAIN, ASKED)):
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "server" not in answer.headers
    assert {"queue", "explain", "encode"} == {
        part.partition(";")[0].strip() for part in server.post(EXPLAIN, ASKED).headers["Server-Timing"].split(",")
    }
    image = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [ASKED["instances"][0]["b64"]]}
    inferred = server.post("/v2/models/tiny/infer", {"inputs": [image]})
    assert inferred.headers["Server-Timing"].startswith("queue;dur=")


def test_a_fault_is_told_without_its_trace(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    from sightline.serving import encoding

    def fails(*_: object) -> None:
        raise RuntimeError("a secret path")

    monkeypatch.setattr(encoding, "prediction", fails)
    answer = server.post("/v1/models/tiny:predict", ASKED)
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert answer.json()["id"] == answer.headers["X-Request-ID"]
    monkeypatch.undo()
    assert server.post("/v1/models/tiny:predict", ASKED).status_code == 200


def test_bytes_that_are_no_http(server: Running) -> None:
    host, port = server.server.address
    endless = b"GET " + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n"
    for garbage in (b"\x00" * 64 + b"\r\n\r\n", b"GET /nothing HTTP/9.9\r\n\r\n", endless):
        with socket.create_connection((host, port)) as connection:
            try:
                connection.sendall(garbage)
                said = connection.recv(64)
            except ConnectionError:
                said = b""
        assert said == b"" or said.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4")), said
    assert isinstance(server.client.get("/v2"), httpx.Response)


def test_what_asyncio_says_is_a_line_of_the_log() -> None:
    stream = io.StringIO()
    before = {name: logging.getLogger(name).__dict__.copy() for name in ("sightline", "uvicorn", "asyncio")}
    try:
        logs.install("info", stream)
        logging.getLogger("asyncio").error("Fatal error: protocol.data_received() call failed.")
    finally:
        for name, state in before.items():
            logging.getLogger(name).__dict__.update(state)
    (line,) = stream.getvalue().splitlines()
    assert json.loads(line)["message"].startswith("Fatal error")


def test_whoever_does_not_read_the_answer_holds_nothing(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer of many megabytes, none of it read: the room of the request is given back."""
    monkeypatch.setattr(front, "WRITE_SECONDS", 0.2)
    noise = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (1600, 1600, 3), dtype=np.uint8)).save(noise, "PNG")
    asked = {"instances": [{"b64": b64(noise.getvalue())}], "parameters": {"method": "grad-cam"}}
    body = json.dumps(asked).encode()
    head = (
        f"POST {EXPLAIN} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.JsonLines())
    logger = logging.getLogger("sightline.serving.requests")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        with running([bundle]) as found, socket.create_connection(found.server.address) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.sendall(head.encode() + body)
            while "did not take its answer" not in stream.getvalue():
                pass
            assert not any(found.metric(f'sightline_held{{what="{what}"}}') for what in ("bytes", "pixels", "answers"))
            assert found.post(EXPLAIN, ASKED).status_code == 200
    finally:
        logger.removeHandler(handler)
