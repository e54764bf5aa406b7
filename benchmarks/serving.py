"""The server under load, beside the explainer in one process; killed and started again; and sent what is no request.

*Load*: the same images are explained by ``Explainer.batch`` in this process, by the same with the decoding of the files
and the encoding of the answers between, and by the server in another process, in turns, at the same engine and batch
size, a bounded number of clients at once on loopback. The ratios are those of the rates of one turn. Every answer is
compared with the explanation of its own image, and with how far the others' are away.

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
import subprocess
import sys
import tempfile
import time
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
from malformed import EXPLAIN, JSON, Case, Kinds, asking
from PIL import Image, ImageOps

import sightline
from sightline import demo
from sightline.serving.encoding import Wanted, dumped, explained

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


KINDS: dict[str, dict[str, Any]] = {
    "picture and map": {"saliency": True},
    "facts": {"overlay": False},
    "16 passes, picture and map": {"saliency": True, "max_passes": 16},
}
"""What is asked: all masks, with picture and map or without; and few masks, where all the rest weighs most."""
SIDES = ("in process", "from file to answer", "served")


def load(arguments: argparse.Namespace, pictures: Sequence[bytes]) -> Figures:
    """Rates in turns: the explainer alone; with decoding and encoding, one after the other; the server."""
    images = [decoded(picture) for picture in pictures]
    figures: Figures = {}
    with (
        sightline.Explainer(demo.BUNDLE, engine=arguments.engine, batch_size=arguments.batch_size) as explainer,
        serving(arguments) as server,
        ThreadPoolExecutor(arguments.clients) as pool,
    ):
        for kind, parameters in KINDS.items():
            budget = parameters.get("max_passes")
            wanted = Wanted(**{key: value for key, value in parameters.items() if key != "max_passes"})
            repeats = 4 if budget else 1  # a turn of a second tells little
            bodies = [asking(picture, **parameters) for picture in pictures] * repeats
            expected = list(explainer.batch(images, max_passes=budget))
            list(pool.map(lambda body: post(server.url, body), bodies[: arguments.clients]))
            rates: dict[str, list[float]] = {side: [] for side in SIDES}
            busy: dict[str, list[float]] = {side: [] for side in SIDES}
            seconds: list[float] = []
            for turn in range(arguments.rounds):
                found: list[tuple[float, bytes]] = []
                for side in SIDES[:: 1 if turn % 2 else -1]:
                    began, used = time.perf_counter(), (time.process_time(), server.cpu)
                    if side == "served":
                        found = list(pool.map(lambda body: post(server.url, body), bodies))
                    elif side == "in process":
                        list(explainer.batch(images * repeats, max_passes=budget))
                    else:
                        for one in explainer.batch(map(decoded, [*pictures] * repeats), max_passes=budget):
                            dumped(explained(one, wanted, 0.0))
                    rates[side].append(len(bodies) / (time.perf_counter() - began))
                    cpu = server.cpu - used[1] if side == "served" else time.process_time() - used[0]
                    busy[side].append(cpu / len(bodies))
                seconds += [one for one, _ in found]
                for (_, content), explanation in zip(found, expected * repeats, strict=True):
                    compare(json.loads(content), explanation, expected, arguments.seed)
            for side in SIDES:
                figures[f"{kind}, {side}"] = record.spread(rates[side], "explanations/s")
                figures[f"{kind}, CPU, {side}"] = record.spread(busy[side], "CPU seconds per explanation")
            for side in SIDES[:2]:
                ratios = [served / one for served, one in zip(rates["served"], rates[side], strict=True)]
                figures[f"{kind}, served over {side}"] = record.spread(ratios, "")
                print(kind, f"served over {side}", round(float(np.median(ratios)), 3))
            p50, p99 = np.percentile(seconds, (50, 99)).tolist()
            figures |= {f"{kind}, p50 in s": p50, f"{kind}, p99 in s": p99, f"{kind}, answers checked": len(seconds)}
            medians = {side: round(float(np.median(values)), 3) for side, values in rates.items()}
            spent = {side: round(float(np.median(values)), 4) for side, values in busy.items()}
            print(kind, medians, "CPU s", spent, f"p50 {p50:.2f} s, p99 {p99:.2f} s", flush=True)
    return figures


def decoded(picture: bytes) -> Image.Image:
    return Image.open(io.BytesIO(picture)).convert("RGB")


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
    with tempfile.TemporaryDirectory() as folder:  # it keeps its crashes where it is run
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
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


if __name__ == "__main__":
    main()
