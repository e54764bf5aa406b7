"""The server under load, beside the explainer in one process; killed and started again; and sent what is no request.

*Load*: the same images are explained by ``Explainer.batch`` in this process and by the server in another, in turns, at
the same engine and batch size, a bounded number of clients at once on loopback. The ratio is that of the two rates of
one turn. Every answer is compared with the explanation of its own image, and with how far the others' are away.

*Kill*: the server is killed (SIGKILL) with requests in flight and started again on the same port; what was answered
before and what is answered after must be the same.

*Malformed*: broken pictures, bombs, wrong types, deep and broad JSON, traversal in names; counted by status, with the
server's resident memory before and after; then schemathesis' own cases, where it is installed.

    python benchmarks/serving.py [--parts load,kill,malformed] [--images 12] [--rounds 8] [--clients 8]
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import random
import shutil
import struct
import subprocess
import sys
import time
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import local
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import psutil
import record
from PIL import Image, ImageOps

import sightline
from sightline import demo

NAME = demo.BUNDLE.stem
EXPLAIN, PREDICT = f"/v1/models/{NAME}:explain", f"/v1/models/{NAME}:predict"
INFER, DECOMPOSE = f"/v2/models/{NAME}/infer", f"/v1/models/{NAME}:decompose"
JSON = {"Content-Type": "application/json"}
Figures = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default="load,kill,malformed")
    parser.add_argument("--engine", default="openvino")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--images", type=int, default=12, help="explained in a turn")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--clients", type=int, default=8, help="requests at once")
    parser.add_argument("--requests", type=int, default=10_000, help="malformed ones")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/serving.json")
    arguments = parser.parse_args()
    figures: Figures = {}
    path = arguments.output or record.RESULTS / "serving.json"
    if path.is_file():  # the parts are measured one by one: some need a quiet machine, some take long
        figures = json.loads(path.read_text(encoding="utf-8"))["figures"]
    pictures = varied(arguments.images, arguments.seed)
    for part in arguments.parts.split(","):
        found = {"load": load, "kill": kill, "malformed": malformed}[part](arguments, pictures)
        figures = {key: value for key, value in figures.items() if not key.startswith(f"{part}: ")}
        figures |= {f"{part}: {key}": value for key, value in found.items()}
    parameters = {
        key: getattr(arguments, key)
        for key in ("engine", "batch_size", "images", "rounds", "clients", "requests", "seed")
    }
    record.write("serving", parameters, dict(sorted(figures.items())), arguments.output)


def varied(count: int, seed: int) -> list[bytes]:
    """So many different pictures, made of the demo's six: cut, mirrored, brightened."""
    rng = random.Random(seed)
    found = []
    for i in range(count):
        image = Image.open(demo.samples()[i % 6].image).convert("RGB")
        left, top = rng.randrange(40), rng.randrange(40)
        image = image.crop((left, top, left + 184, top + 184)).resize((224, 224), Image.Resampling.BILINEAR)
        image = ImageOps.mirror(image) if rng.random() < 0.5 else image
        buffer = io.BytesIO()
        image.point([min(255, round(v * rng.uniform(0.95, 1.05))) for v in range(256)] * 3).save(buffer, "PNG")
        found.append(buffer.getvalue())
    return found


@dataclass(frozen=True)
class Serving:
    process: subprocess.Popen[str]
    url: str

    @property
    def memory(self) -> float:
        """Resident, in MiB."""
        return float(psutil.Process(self.process.pid).memory_info().rss) / 2**20

    @property
    def cpu(self) -> float:
        """Seconds of all its threads."""
        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)


@contextmanager
def serving(arguments: argparse.Namespace, port: int = 0, *more: str) -> Iterator[Serving]:
    command = [sys.executable, "-m", "sightline.cli", "serve", str(demo.BUNDLE), "--port", str(port)]
    command += ["--engine", arguments.engine, "--batch-size", str(arguments.batch_size), "--log-level", "error", *more]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield Serving(process, process.stdout.readline().split()[-1])
    finally:
        process.terminate()
        process.wait()


_OF_THREAD = local()


def client(url: str) -> httpx.Client:
    """One connection a thread."""
    if getattr(_OF_THREAD, "url", None) != url:
        _OF_THREAD.url, _OF_THREAD.client = url, httpx.Client(base_url=url, timeout=None)
    found = _OF_THREAD.client
    assert isinstance(found, httpx.Client)
    return found


def asking(picture: bytes, **parameters: Any) -> bytes:
    return json.dumps({"instances": [{"b64": text(picture)}], "parameters": parameters}).encode()


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def load(arguments: argparse.Namespace, pictures: Sequence[bytes]) -> Figures:
    """Rates in turns: all masks, with picture and map or without; and few masks, where all the rest weighs most."""
    kinds: dict[str, dict[str, Any]] = {
        "picture and map": {"saliency": True},
        "facts": {"overlay": False},
        "16 passes, picture and map": {"saliency": True, "max_passes": 16},
    }
    images = [Image.open(io.BytesIO(picture)).convert("RGB") for picture in pictures]
    figures: Figures = {}
    with (
        sightline.Explainer(demo.BUNDLE, engine=arguments.engine, batch_size=arguments.batch_size) as explainer,
        serving(arguments) as server,
        ThreadPoolExecutor(arguments.clients) as pool,
    ):
        for kind, parameters in kinds.items():
            budget = parameters.get("max_passes")
            repeats = 4 if budget else 1  # a turn of a second tells little
            bodies = [asking(picture, **parameters) for picture in pictures] * repeats
            expected = list(explainer.batch(images, max_passes=budget))
            list(pool.map(lambda body: post(server.url, body), bodies[: arguments.clients]))
            rates: dict[str, list[float]] = {"in process": [], "served": [], "ratio": []}
            busy: dict[str, list[float]] = {"in process": [], "served": []}
            seconds: list[float] = []
            for turn in range(arguments.rounds):
                found: list[tuple[float, bytes]] = []
                for side in ("in process", "served")[:: 1 if turn % 2 else -1]:
                    began, used = time.perf_counter(), (time.process_time(), server.cpu)
                    if side == "served":
                        found = list(pool.map(lambda body: post(server.url, body), bodies))
                    else:
                        list(explainer.batch(images * repeats, max_passes=budget))
                    rates[side].append(len(bodies) / (time.perf_counter() - began))
                    cpu = server.cpu - used[1] if side == "served" else time.process_time() - used[0]
                    busy[side].append(cpu / len(bodies))
                rates["ratio"].append(rates["served"][-1] / rates["in process"][-1])
                seconds += [one for one, _ in found]
                for (_, content), explanation in zip(found, expected * repeats, strict=True):
                    compare(json.loads(content), explanation, expected, arguments.seed)
            figures[f"{kind}, in process"] = record.spread(rates["in process"], "explanations/s")
            figures[f"{kind}, served"] = record.spread(rates["served"], "explanations/s")
            figures[f"{kind}, ratio"] = record.spread(rates["ratio"], "")
            for side, values in busy.items():
                figures[f"{kind}, CPU, {side}"] = record.spread(values, "CPU seconds per explanation")
            p50, p99 = np.percentile(seconds, (50, 99)).tolist()
            figures |= {f"{kind}, p50 in s": p50, f"{kind}, p99 in s": p99, f"{kind}, answers checked": len(seconds)}
            medians = {key: round(float(np.median(values)), 3) for key, values in rates.items()}
            spent = {key: round(float(np.median(values)), 4) for key, values in busy.items()}
            print(kind, medians, "CPU s", spent, f"p50 {p50:.2f} s, p99 {p99:.2f} s", flush=True)
    return figures


def post(url: str, body: bytes) -> tuple[float, bytes]:
    """How long it took, and what was answered."""
    began = time.perf_counter()
    answer = client(url).post(EXPLAIN, content=body, headers=JSON).raise_for_status()
    return time.perf_counter() - began, answer.content


def compare(
    document: dict[str, Any],
    expected: sightline.Explanation,
    all_expected: Sequence[sightline.Explanation],
    seed: int,
) -> None:
    """An answer is that of its own image, and of no other."""
    (answered,) = document["explanations"]
    assert answered["target"] == expected.target
    assert answered["passes"] == expected.passes
    distances = [abs(answered["score"] - one.score) for one in all_expected]
    assert abs(answered["score"] - expected.score) < 1e-5
    if "saliency" in answered:
        found = saliency(answered)
        distances = [float(abs(found - one.saliency).max()) for one in all_expected]
        assert float(abs(found - expected.saliency).max()) < 1e-2, "the map of another image"
    assert all_expected[int(np.argmin(distances))] is expected


def saliency(answered: dict[str, Any]) -> npt.NDArray[np.float32]:
    encoded = answered["saliency"]
    return np.frombuffer(base64.b64decode(encoded["data"]), "<f4").reshape(encoded["height"], encoded["width"])


def kill(arguments: argparse.Namespace, pictures: Sequence[bytes]) -> Figures:
    """SIGKILL with requests in flight, and the same port again."""
    bodies = [asking(picture, saliency=True, overlay=False) for picture in pictures]

    def attempt(url: str, body: bytes) -> bytes | None:
        try:
            return post(url, body)[1]
        except httpx.TransportError:
            return None

    with ThreadPoolExecutor(arguments.clients) as pool:
        with serving(arguments) as server:
            waiting = [pool.submit(attempt, server.url, body) for body in bodies]
            waiting[len(bodies) // 2].result()
            server.process.kill()
            before = [one.result() for one in waiting]
        # Those that had not been sent were refused a connection: only what the server had taken in can have been lost.
        port = int(server.url.rpartition(":")[2])
        began = time.perf_counter()
        with serving(arguments, port) as again:
            back = time.perf_counter() - began
            after = [post(again.url, body)[1] for body in bodies]
    answered = [one for one in before if one is not None]
    for former, latter in zip(before, after, strict=True):
        if former is not None:
            (one,), (other,) = json.loads(former)["explanations"], json.loads(latter)["explanations"]
            assert abs(saliency(one) - saliency(other)).max() < 1e-2
            assert one["target"] == other["target"]
    print(f"{len(answered)} of {len(bodies)} answered before the kill, all after it; back in {back:.1f} s")
    return {
        "requests": len(bodies),
        "answered before": len(answered),
        "answered after": len(after),
        "seconds until it served again": back,
    }


def malformed(arguments: argparse.Namespace, pictures: Sequence[bytes]) -> Figures:
    """What is no request, ten thousand times, and what the server makes of it."""
    rng = random.Random(arguments.seed)
    kinds = Kinds(rng, pictures[0])
    statuses: Counter[str] = Counter()
    slowest = 0.0
    figures: Figures = {}
    with serving(arguments) as server, ThreadPoolExecutor(arguments.clients) as pool:

        def send(case: Case) -> tuple[int, float]:
            began = time.perf_counter()
            try:
                answer = client(server.url).request(case.method, case.path, content=case.body, headers=case.headers)
                status = answer.status_code
            except httpx.TransportError:
                status = 0  # the connection was closed on it
            return status, time.perf_counter() - began

        step = arguments.requests // 10
        for part in range(10):
            cases = [kinds.next() for _ in range(step)]
            for case, (status, seconds) in zip(cases, pool.map(send, cases), strict=True):
                statuses[str(status)] += 1
                slowest = max(slowest, seconds)
                if status >= 500 or status == 0:
                    print(f"{status}: {case.method} {case.path} {case.kind} {case.body[:200]!r}")
            figures[f"memory after {(part + 1) * step}, MiB"] = server.memory
            print(part, dict(statuses), f"{server.memory:.0f} MiB", flush=True)
        assert client(server.url).post(EXPLAIN, content=asking(pictures[0]), headers=JSON).status_code == 200
        figures |= {f"status {status}": count for status, count in sorted(statuses.items())}
        figures["5xx"] = sum(count for status, count in statuses.items() if status[0] in "05")
        figures["slowest in s"] = slowest
        figures |= schemathesis(server, arguments.seed)
        figures["memory at the end, MiB"] = server.memory
    return figures


def schemathesis(server: Serving, seed: int) -> Figures:
    """Its cases for every path, counted by the server itself."""
    program = shutil.which("schemathesis")
    if program is None:
        print("schemathesis is not installed: left out")
        return {}
    before = counts(server.url)
    command = [program, "run", f"{server.url}/openapi.json", "--checks", "not_a_server_error", "--seed", str(seed)]
    command += ["--phases", "examples,coverage,fuzzing", "--max-examples", "50", "--continue-on-failure"]
    done = subprocess.run(command, capture_output=True, text=True)
    print(done.stdout[-1500:])
    after = counts(server.url)
    found = {status: after[status] - before[status] for status in after}
    return {
        "schemathesis, requests": sum(found.values()),
        "schemathesis, 5xx but 504": sum(n for status, n in found.items() if status[0] == "5" and status != "504"),
        "schemathesis, 504 to deadlines that it set itself": found.get("504", 0),
    }


def counts(url: str) -> Counter[str]:
    """Requests by status, as the server has counted them."""
    found: Counter[str] = Counter()
    for line in httpx.get(f"{url}/metrics", timeout=None).text.splitlines():
        if line.startswith("sightline_requests_total{"):
            labels, _, value = line.rpartition(" ")
            found[labels.split('status="')[1][:3]] += int(float(value))
    return found


@dataclass(frozen=True)
class Case:
    kind: str
    body: bytes
    path: str = EXPLAIN
    method: str = "POST"
    headers: dict[str, str] | None = None


class Kinds:
    """Malformed requests of every kind, in equal shares."""

    def __init__(self, rng: random.Random, picture: bytes) -> None:
        self._rng, self._picture = rng, picture
        self._makers = (
            self._flipped,
            self._cut,
            self._bomb,
            self._noise,
            self._field,
            self._parameter,
            self._tensor,
            self._deep,
            self._broken_json,
            self._name,
            self._headers,
        )

    def next(self) -> Case:
        case = self._rng.choice(self._makers)()
        return Case(case.kind, case.body, case.path, case.method, {**JSON, **(case.headers or {})})

    def _flipped(self) -> Case:
        """A file of any format with some bytes changed. Now and then it still is a picture."""
        buffer = io.BytesIO()
        image = Image.open(io.BytesIO(self._picture)).resize((48, 48))
        image.save(buffer, self._rng.choice(("PNG", "JPEG", "BMP", "TIFF", "WEBP")))
        data = bytearray(buffer.getvalue())
        for _ in range(self._rng.randint(1, 20)):
            data[self._rng.randrange(len(data))] = self._rng.randrange(256)
        return Case("flipped", asking(bytes(data)), PREDICT)

    def _cut(self) -> Case:
        return Case("cut", asking(self._picture[: self._rng.randrange(len(self._picture))]))

    def _bomb(self) -> Case:
        """A small file that claims, or unpacks to, very much."""
        side = self._rng.choice((6000, 20_000, 65_000, 2**31 - 1))
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, self._rng.choice((1, side)), 8, 0, 0, 0, 0))
        inside = chunk(b"IDAT", zlib.compress(b"\0" * 1_000_000))
        if self._rng.random() < 0.2:
            header = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0))
            inside = chunk(b"zTXt", b"x\0\0" + zlib.compress(b"\0" * 20_000_000)) + inside
        return Case("bomb", asking(b"\x89PNG\r\n\x1a\n" + header + inside + chunk(b"IEND", b"")))

    def _noise(self) -> Case:
        return Case("noise", asking(self._rng.randbytes(self._rng.randint(0, 4000))))

    def _any(self, depth: int = 0) -> Any:
        plain: tuple[Any, ...] = (
            None,
            True,
            -1,
            2**63,
            1.5,
            1e308,
            "",
            "x",
            "../..",
            "\x00",
            "🔥" * 9,
            [],
            {},
            [[]],
            {"b64": 1},
            "A" * 9999,
        )
        if depth < 3 and self._rng.random() < 0.3:
            return [self._any(depth + 1) for _ in range(3)] if self._rng.random() < 0.5 else {"k": self._any(depth + 1)}
        return self._rng.choice(plain)

    def _field(self) -> Case:
        document: dict[str, Any] = {"instances": [{"b64": text(self._picture)}], "parameters": {}}
        place = self._rng.randrange(5)
        if place == 0:
            document["instances"] = self._any()
        elif place == 1:
            document["instances"][0]["b64"] = self._any()
        elif place == 2:
            document["instances"][0]["target"] = self._rng.choice(
                (True, 1.5, 99, -1, "nothing", [], {}, [None], [0, "x"])
            )
        elif place == 3:
            document[self._rng.choice(("x", "inputs", "signature_name"))] = self._any()
        else:
            document["parameters"] = self._rng.choice((1, "x", [1], None, True))
        return Case("field", json.dumps(document).encode(), self._rng.choice((EXPLAIN, PREDICT, DECOMPOSE)))

    def _parameter(self) -> Case:
        name = self._rng.choice(
            (
                "method",
                "settings",
                "max_passes",
                "deadline",
                "overlay",
                "saliency",
                "layers",
                "maps",
                "format",
                "x",
                "top_k",
            )
        )
        value = self._rng.choice(
            (0, -1, -1.5, "3", "lime", [1], {"mu": 2}, {"x": 1}, float("nan"), float("inf"), {"passes": 10**9})
        )
        path = self._rng.choice((EXPLAIN, DECOMPOSE))
        return Case("parameter", asking(self._picture, **{name: value}), path)

    def _tensor(self) -> Case:
        tensor: dict[str, Any] = {"name": "pixels", "datatype": "UINT8", "shape": [1, 2, 2, 1], "data": [1, 2, 3, 4]}
        key = self._rng.choice(tuple(tensor))
        tensor[key] = self._rng.choice(
            (
                self._any(),
                [1, 2, 2, 3],
                [-1],
                [2**31] * 4,
                [0.5] * 4,
                [300] * 4,
                ["a"] * 4,
                [[1, 2], [3]],
                "FP32",
                "tensor",
                "image",
            )
        )
        if tensor == {"name": "pixels", "datatype": "UINT8", "shape": [1, 2, 2, 1], "data": [1, 2, 3, 4]}:
            tensor["data"] = None
        return Case("tensor", json.dumps({"inputs": [tensor]}).encode(), INFER)

    def _deep(self) -> Case:
        count = self._rng.choice((1000, 100_000, 1_000_000))
        body = self._rng.choice(
            (
                b'{"instances": ' + b"[" * count,
                b'{"x":' * count,
                b'{"instances": [' + b"{}," * count + b"{}]}",
                b'{"instances": [{"b64": "' + b"A" * count * 4 + b'"}]}',
                b'{"instances": [{"target": 1' + b"0" * count + b"}]}",
                b" " * 17 * 2**20,
            )
        )
        return Case("deep or broad", body, self._rng.choice((EXPLAIN, INFER)))

    def _broken_json(self) -> Case:
        body = bytearray(asking(self._picture[:300]))
        for _ in range(self._rng.randint(1, 5)):
            body[self._rng.randrange(30)] = self._rng.randrange(256)
        return Case("broken JSON", bytes(body[: self._rng.randrange(len(body))]))

    def _name(self) -> Case:
        name = self._rng.choice(
            (
                "..",
                "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
                "../../etc/passwd",
                "surface%00",
                "%FF",
                "a" * 3000,
                "surface/..",
                "~root",
                "*",
            )
        )
        place = self._rng.choice(
            ("/v1/models/{}:explain", "/v2/models/{}/infer", "/v2/repository/models/{}/load", "/{}")
        )
        return Case(
            "name", asking(self._picture), place.format(name), self._rng.choice(("POST", "GET", "PUT", "DELETE"))
        )

    def _headers(self) -> Case:
        headers = self._rng.choice(
            (
                {"Content-Type": "text/plain"},
                {"Content-Type": "multipart/form-data"},
                {"Content-Encoding": "gzip"},
                {"Accept": "x" * 5000, "Content-Type": ""},
                {"X-Request-ID": "a b" * 50, "Content-Type": "x"},
            )
        )
        return Case("headers", asking(self._picture), headers=headers)


def chunk(kind: bytes, data: bytes) -> bytes:
    """Of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


if __name__ == "__main__":
    main()
