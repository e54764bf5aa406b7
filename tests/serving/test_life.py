"""From the first request to the last: starting, waiting clients, stopping gently, dying, coming back."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from sightline import Explainer
from sightline.errors import EngineError, ServingError
from sightline.serving import models
from sightline.serving.limits import Limits
from sightline.serving.server import Server
from tests.serving.running import CHOICES, Running, b64, held, instance, map_of, opened, picture, running

EXPLAIN = "/v1/models/tiny:explain"
ASKED = {"instances": [instance(0)], "parameters": {"saliency": True}}
ENDLESS = {"instances": [instance(0)], "parameters": {"method": "rise", "settings": {"passes": 10000, "cells": 32}}}


def until(condition: Any) -> None:
    while not condition():
        pass


@pytest.fixture
def slow(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Running, Any]]:
    """A server of a queue of 2 that explains nothing before it is let to."""
    kind = held()
    monkeypatch.setattr(models, "Explainer", kind)
    with running([bundle], limits=Limits(queue=2)) as found:
        yield found, kind
        kind.go.set()


def test_a_full_queue(slow: tuple[Running, Any]) -> None:
    server, kind = slow
    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(server.post, EXPLAIN, ASKED)]
        kind.drawn.wait()
        waiting += [pool.submit(server.post, EXPLAIN, ASKED) for _ in range(2)]
        until(lambda: server.metric('sightline_queue_length{model="tiny"}') == 2)
        refused = server.post(EXPLAIN, ASKED)
        assert refused.status_code == 429
        assert int(refused.headers["Retry-After"]) >= 1
        assert server.client.get("/v2/health/ready").status_code == 200
        kind.go.set()
        assert [one.result().status_code for one in waiting] == [200] * 3
    assert server.post(EXPLAIN, ASKED).status_code == 200


def test_a_deadline_in_the_queue(slow: tuple[Running, Any]) -> None:
    server, kind = slow
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(server.post, EXPLAIN, ASKED)
        kind.drawn.wait()
        late = server.post(EXPLAIN, {"instances": [instance(1)], "parameters": {"deadline": 1e-3}})
        assert late.status_code == 504  # at once, though the first one is still in hand
        kind.go.set()
        assert first.result().status_code == 200
    assert server.metric('sightline_images_total{method="sise",model="tiny"}') == 1


def test_the_server_s_deadline_counts_for_everyone(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = held()
    monkeypatch.setattr(models, "Explainer", kind)
    with running([bundle], limits=Limits(deadline=1e-3)) as server, ThreadPoolExecutor(1) as pool:
        first = pool.submit(server.post, EXPLAIN, ASKED)
        answers = [server.post(EXPLAIN, {**ASKED, "parameters": {"deadline": 600}}) for _ in range(1)]
        kind.go.set()
        assert {answer.status_code for answer in (*answers, first.result())} <= {200, 504}
        assert 504 in {answer.status_code for answer in answers}


def test_a_client_that_left_is_not_computed(slow: tuple[Running, Any]) -> None:
    server, kind = slow
    host, port = server.server.address
    body = json.dumps({"instances": [instance(1)]}).encode()
    request = (
        f"POST {EXPLAIN} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(server.post, EXPLAIN, ASKED)
        kind.drawn.wait()
        with socket.create_connection((host, port)) as leaving:
            leaving.sendall(request + body)
            until(lambda: server.metric('sightline_queue_length{model="tiny"}') == 1)
        until(lambda: server.metric('sightline_queue_length{model="tiny"}') == 0)
        kind.go.set()
        assert first.result().status_code == 200
    assert server.post(EXPLAIN, ASKED).status_code == 200
    assert server.metric('sightline_images_total{method="sise",model="tiny"}') == 2
    assert server.metric('sightline_drops_total{model="tiny",reason="gone"}') == 1
    assert server.metric('sightline_requests_total{model="tiny",status="499",verb="explain"}') == 1


def test_stopping_finishes_what_was_begun_and_begins_nothing(slow: tuple[Running, Any]) -> None:
    server, kind = slow
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(server.post, EXPLAIN, ASKED)]
        kind.drawn.wait()
        waiting += [pool.submit(server.post, EXPLAIN, ASKED)]
        until(lambda: server.metric('sightline_queue_length{model="tiny"}') == 1)
        server.server.stop()
        until(lambda: server.client.get("/v2/health/ready").status_code == 503)
        assert server.client.get("/v2/models/tiny/ready").json() == {"name": "tiny", "ready": False}
        assert server.client.get("/v2/health/live").status_code == 200
        refused = server.post(EXPLAIN, ASKED)
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
        kind.go.set()
        assert [one.result().status_code for one in waiting] == [200, 200]
    server.joined()
    with pytest.raises(httpx.ConnectError):
        server.client.get("/v2/health/live")


def test_stopping_does_not_wait_for_ever(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = held()
    monkeypatch.setattr(models, "Explainer", kind)
    monkeypatch.setattr("sightline.serving.server.LAST", 0.1)
    server = Running(Server([bundle], port=0, choices=CHOICES, look=None, grace=1e-3))
    with ThreadPoolExecutor(1) as pool:
        stuck = pool.submit(server.post, EXPLAIN, ASKED)
        kind.drawn.wait()
        server.server.stop()
        server.joined()
        kind.go.set()
        cut_off(stuck.result())


def cut_off(answer: httpx.Response) -> None:
    assert answer.status_code == 503
    assert answer.headers["Retry-After"] == "1"
    assert answer.json() == {
        "error": "the server is stopping: send the request again.",
        "status": 503,
        "id": answer.headers["X-Request-ID"],
    }


def test_a_body_on_its_way_is_cut_off(bundle: Path) -> None:
    server = Running(Server([bundle], port=0, choices=CHOICES, look=None))
    head = f"POST {EXPLAIN} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{{"
    with socket.create_connection(server.server.address) as slow:
        slow.sendall(head.encode())
        until(lambda: not server.server._front.idle.is_set())
        server.server.stop()
        until(lambda: server.client.get("/v2/health/ready").status_code == 503)
        server.server.stop()
        server.joined()
        assert slow.recv(1000).startswith(b"HTTP/1.1 503 ")


def test_an_explanation_whose_client_left_ends(bundle: Path) -> None:
    with running([bundle]) as server:
        with pytest.raises(httpx.TimeoutException):
            httpx.post(str(server.client.base_url) + EXPLAIN, json=ENDLESS, timeout=0.3)
        until(lambda: server.metric('sightline_drops_total{model="tiny",reason="gone"}') == 1)
        assert server.metric('sightline_passes_total{model="tiny"}') < 10_000
        assert server.post(EXPLAIN, ASKED).status_code == 200


def test_a_model_that_cannot_be_opened_ends_the_server(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: object, **__: object) -> None:
        raise EngineError("no such device")

    monkeypatch.setattr(models, "Explainer", refuses)
    with pytest.raises(EngineError, match="no such device"):
        Server([bundle], port=0, choices=CHOICES).run()


def test_a_model_that_is_not_open_yet_is_not_ready(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = held()

    class Opening(Explainer):
        def __init__(self, *arguments: Any, **named: Any) -> None:
            kind.go.wait()
            super().__init__(*arguments, **named)

    monkeypatch.setattr(models, "Explainer", Opening)
    server = Server([bundle], port=0, choices=CHOICES, look=None)
    host, port = server.address
    with ThreadPoolExecutor(1) as pool, httpx.Client(base_url=f"http://{host}:{port}", timeout=None) as client:
        serving = pool.submit(server.run)
        try:
            assert client.get("/v2/health/live").status_code == 200
            assert client.get("/v2/health/ready").status_code == 503
            refused = client.post(EXPLAIN, json=ASKED)
            assert (refused.status_code, "Retry-After" in refused.headers) == (503, True)
            kind.go.set()
            until(lambda: client.get("/v2/health/ready").status_code == 200)
            assert client.post(EXPLAIN, json=ASKED).status_code == 200
        finally:
            kind.go.set()
            server.stop()
        serving.result()


def test_a_port_that_is_taken(server: Running, bundle: Path) -> None:
    host, port = server.server.address
    with pytest.raises(ServingError, match=f"{port}.*another --host or --port"):
        Server([bundle], host=host, port=port)


@contextmanager
def process(bundle: Path, port: int = 0, *more: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """``sightline serve``, and its address."""
    command = [sys.executable, "-m", "sightline.cli", "serve", str(bundle), "--port", str(port), *more]
    command += ["--engine", "onnxruntime-cpu", "--threads", "1", "--batch-size", "4"]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert running.stdout is not None
        said = running.stdout.readline()
        assert said.startswith("serving tiny on http://127.0.0.1:"), said
        yield running, said.split()[-1]
    finally:
        if running.poll() is None:
            running.kill()
        running.communicate()


def test_the_command_line_serves_logs_and_stops(bundle: Path, tmp_path: Path, reference: Explainer) -> None:
    keys = tmp_path / "keys.txt"
    keys.write_text("# of the line\ncorrect-horse\n")
    with process(bundle, 0, "--api-key-file", str(keys), "--methods", "sise,grad-cam") as (serving, url):
        with httpx.Client(base_url=url, timeout=None) as client:
            assert client.post(EXPLAIN, json=ASKED).status_code == 401
            client.headers["Authorization"] = "Bearer correct-horse"
            found = client.post(EXPLAIN, json=ASKED, headers={"X-Request-ID": "part-17"}).json()["explanations"][0]
            assert np.allclose(map_of(found["saliency"]), reference(opened(picture(0))).saliency, atol=1e-4)
            assert client.get("/v1/models/tiny").json()["methods"] == ["sise", "grad-cam"]
        serving.send_signal(signal.SIGTERM)
        _, errors = serving.communicate()
    assert serving.returncode == 0
    lines = [json.loads(line) for line in errors.splitlines()]
    (line,) = (line for line in lines if line.get("id") == "part-17")
    assert (line["status"], line["model"], line["verb"], line["images"]) == (200, "tiny", "explain", 1)
    assert line["passes"] == found["passes"]
    assert {"queue", "explain", "encode", "seconds", "received", "sent"} <= set(line)
    assert "correct-horse" not in errors
    assert b64(picture(0))[:40] not in errors


def stops(client: httpx.Client) -> bool:
    """Whether the server refuses what is new, or is gone."""
    try:
        return client.get("/v2/health/ready").status_code != 200
    except httpx.TransportError:
        return True


@pytest.mark.parametrize(("options", "signals"), [(("--grace", "0.5"), 1), (("--grace", "3600"), 2)])
def test_what_does_not_end_is_cut_off(bundle: Path, options: tuple[str, ...], signals: int) -> None:
    """After the grace, or at once on a second signal: between two batches, answered, and in good order."""
    with process(bundle, 0, *options) as (serving, url), ThreadPoolExecutor(2) as pool:
        with httpx.Client(base_url=url, timeout=None) as client:
            asked = [pool.submit(httpx.post, url + EXPLAIN, json=ENDLESS, timeout=None) for _ in range(2)]
            until(lambda: 'sightline_images_in_hand{model="tiny"} 1.0' in client.get("/metrics").text)
            until(lambda: 'sightline_queue_length{model="tiny"} 1.0' in client.get("/metrics").text)
            for _ in range(signals):
                serving.send_signal(signal.SIGINT)
                until(lambda: stops(client))  # before that, a second signal would be the same one
        _, errors = serving.communicate()
        assert serving.returncode == 0
        for one in asked:
            cut_off(one.result())
    assert "trace" not in errors
    assert all(json.loads(line)["level"] in ("info", "warning") for line in errors.splitlines())


def test_killed_and_started_again(bundle: Path) -> None:
    """What was in flight is lost, and nothing else: the next process answers on the same port."""
    with ThreadPoolExecutor(1) as pool:
        with process(bundle) as (serving, url), httpx.Client(base_url=url, timeout=None) as client:
            before = client.post(EXPLAIN, json=ASKED).json()["explanations"]
            lost = pool.submit(httpx.post, url + EXPLAIN, json=ENDLESS, timeout=None)
            until(lambda: 'sightline_images_in_hand{model="tiny"} 1.0' in client.get("/metrics").text)
            serving.kill()
            with pytest.raises(httpx.TransportError):
                lost.result()
        with process(bundle, int(url.rpartition(":")[2])) as (_, again):
            assert again == url
            after = httpx.post(url + EXPLAIN, json=ASKED, timeout=None).json()["explanations"]
    for one in (*before, *after):
        del one["timings"], one["queued"]
    assert after == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["none.sightline"], "no bundle"),
        (["none.sightline", "--port", "99999"], "is not a port"),
        (["none.sightline", "--methods", "lime"], "'lime' is none of"),
        (["none.sightline", "--deadline", "-1"], "number of seconds above 0"),
        (["none.sightline", "--max-pixels", "999999999"], "max_pixels"),
        (["none.sightline", "--api-key-file", "none.txt"], "none.txt"),
    ],
)
def test_a_wrong_command_line(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    from sightline.cli import main

    try:
        code = main(["serve", *arguments])
    except SystemExit as end:
        code = int(str(end.code))
    assert code in (1, 2)
    assert said in capsys.readouterr().err


def test_a_bundle_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "sightline.cli", "serve", str(tmp_path / "nothing.sightline"), "--port", "0"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("sightline: error: ")
