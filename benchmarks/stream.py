"""Does a stream keep its deadlines, its order and its memory, at 80 % and at 200 % of what the machine can do?

The capacity is measured first: frames of the demo back to back, all masks. Then, each frame with a deadline of some
times what it takes at capacity, counted from its arrival:

- at 80 % of the capacity, for minutes: overruns, order, latency, and the resident memory at the beginning and the end;
- at 200 %, once with back-pressure and once dropping the oldest: what is drawn, explained and dropped.

A deadline absorbs an overload: frames are explained by fewer masks, and a queue that is long enough never fills. So the
part ``overload``, a record of its own, has no deadline: at 200 % of a capacity measured right before each run, what is
drawn, explained and dropped. What other processes take may change between the measurement and the run, and with it what
80 % and 200 % mean: compare the capacities, the batches and the share of the time that passes took.

A frame overruns beyond one batch if a batch with masks of it began after its deadline and was not its first. (An
overrun within one batch is what a deadline allows: a batch under way is finished.)

    python benchmarks/stream.py [--parts deadline,overload] [--seconds 600] [--beside "what else ran"]
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import record
from contenders import resident

import sightline
from sightline import Answer, Frame, Request, demo
from sightline.bundle import Bundle
from sightline.runtime.explaining import Settings
from sightline.runtime.percentiles import Percentiles
from sightline.runtime.stream import Stream
from sightline.serving.sources import Paced

SETTLING = 0.1
"""Share of a run after which its memory counts as steady."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default="deadline,overload", help="any of deadline, overload (both)")
    parser.add_argument("--seconds", type=float, default=600.0, help="at 80 %% (600)")
    parser.add_argument("--overload-seconds", type=float, default=40.0, help="at 200 %%, each (40)")
    parser.add_argument("--capacity-seconds", type=float, default=20.0, help="to measure the capacity (20)")
    parser.add_argument("--deadline", type=float, default=2.0, help="in times what a frame takes at capacity (2)")
    parser.add_argument("--queue", type=int, default=4)
    parser.add_argument("--engine", default="onnxruntime-cpu")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--seed", type=int, default=0, help="of nothing: the frames are the demo's, in turn")
    parser.add_argument("--beside", default="", help="what else ran on the machine, for the record")
    parser.add_argument("--output", type=Path, help="a folder (default: benchmarks/results)")
    arguments = parser.parse_args()
    with sightline.Explainer(
        demo.BUNDLE, "sise", arguments.engine, arguments.batch_size, threads=arguments.threads
    ) as explainer:
        watched = Watched(explainer)
        run(watched, Endless(), Settings(queue=arguments.queue), arguments.capacity_seconds / 3)  # warm
        for part in arguments.parts.split(","):
            figures = with_deadline(watched, arguments) if part == "deadline" else overloaded(watched, arguments)
            report("stream" if part == "deadline" else "stream-overload", figures, arguments)


def with_deadline(watched: Watched, arguments: argparse.Namespace) -> dict[str, Any]:
    """At 80 % and at 200 %, every frame with a deadline."""
    capacity = run(watched, Endless(), Settings(queue=arguments.queue), arguments.capacity_seconds)
    rate = capacity.explained / capacity.seconds
    deadline = arguments.deadline / rate
    figures: dict[str, Any] = {"capacity frames/s": rate, "deadline s": deadline}
    figures |= named("capacity", capacity, watched)
    for name, share, when_full, seconds in (
        ("80 %", 0.8, "wait", arguments.seconds),
        ("200 % back-pressure", 2.0, "wait", arguments.overload_seconds),
        ("200 % drop-oldest", 2.0, "drop-oldest", arguments.overload_seconds),
    ):
        settings = Settings(deadline=deadline, queue=arguments.queue, when_full=when_full)  # type: ignore[arg-type]
        found = run(watched, Paced(Endless(), share * rate), settings, seconds)
        figures |= {f"{name}: offered frames/s": share * rate, **named(name, found, watched)}
    return figures


def overloaded(watched: Watched, arguments: argparse.Namespace) -> dict[str, Any]:
    """At 200 %, all masks of every frame."""
    figures: dict[str, Any] = {}
    for name in ("wait", "drop-oldest"):
        settings = Settings(queue=arguments.queue, when_full=name)
        capacity = run(watched, Endless(), Settings(queue=arguments.queue), arguments.capacity_seconds)
        rate = capacity.explained / capacity.seconds
        found = run(watched, Paced(Endless(), 2 * rate), settings, arguments.overload_seconds)
        figures |= {f"{name}: capacity frames/s": rate, f"{name}: offered frames/s": 2 * rate}
        figures |= named(name, found, watched)
    return figures


def report(name: str, figures: dict[str, Any], arguments: argparse.Namespace) -> None:
    asked = ("seconds", "overload_seconds", "capacity_seconds", "deadline", "queue", "engine", "batch_size", "threads")
    parameters = {key: getattr(arguments, key) for key in (*asked, "seed", "beside")}
    path = record.write(name, parameters, figures, arguments.output and arguments.output / f"{name}.json")
    print(json.dumps(json.loads(path.read_text(encoding="utf-8"))["figures"], indent=2), flush=True)


class Endless:
    """The demo's pictures in turn, for ever."""

    def __init__(self) -> None:
        self._stopped = False

    def __iter__(self) -> Iterator[Frame]:
        for sample in cycle(demo.samples()):
            if self._stopped:
                return
            yield Frame(sample.image)

    def stop(self) -> None:
        self._stopped = True


class Watched:
    """An explainer whose batches are timed, on the thread that runs them."""

    def __init__(self, explainer: sightline.Explainer) -> None:
        self._explainer = explainer
        self._began = 0.0
        engine = explainer._passes.engine  # the passes alone are nobody else's business
        inner = engine.run

        def timed() -> None:
            self._began = time.perf_counter()
            inner()
            self.passing += (took := time.perf_counter() - self._began)
            self.batches.add(took)

        engine.run = timed  # type: ignore[method-assign]
        self.forget()

    def forget(self) -> None:
        self.batches, self.passing = Percentiles(), 0.0
        self.beyond = self.late = 0

    @property
    def bundle(self) -> Bundle:
        return self._explainer.bundle

    def answer(
        self, requests: Iterable[Request | None], *, progress: Callable[[int, int], None] | None = None
    ) -> Iterator[Answer]:
        for answer in self._explainer.answer(requests, progress=progress):
            request = answer.request
            if request.deadline is not None and self._began > request.began + request.deadline:
                first = answer.explanations[0].passes <= self._explainer.batch_size
                self.late += first
                self.beyond += not first
            yield answer


@dataclass
class Run:
    """What a run showed, in memory that does not grow with it."""

    explained: int = 0
    drawn: int = 0
    dropped: int = 0
    failed: int = 0
    out_of_order: int = 0
    seconds: float = 0.0
    overruns: int = 0
    worst_overrun: float = 0.0
    completeness: float = 0.0
    latency: Percentiles = field(default_factory=Percentiles)
    resident: list[float] = field(default_factory=list)
    """MiB, once a second."""
    others: float = 0.0
    """Share of the machine's time that other processes took."""


def run(watched: Watched, source: Any, settings: Settings, seconds: float) -> Run:
    found = Run()
    watched.forget()
    last, completeness = -1, 0.0
    before = busy()
    began = sampled = time.perf_counter()
    with Stream(watched, source, settings) as stream:
        for result in stream:
            now = time.perf_counter()
            found.out_of_order += result.number <= last or result.number - last - 1 != result.dropped
            last = result.number
            found.explained += result.state == "explained"
            found.failed += result.state == "failed"
            if result.explanation is not None:
                completeness += result.explanation.completeness
                found.overruns += result.overrun > 0
                found.worst_overrun = max(found.worst_overrun, result.overrun)
                found.latency.add(result.latency)
            if now - sampled >= 1:
                found.resident.append(resident.now())
                sampled = now
            if now - began >= seconds:
                break
        found.seconds = time.perf_counter() - began
        statistics = stream.statistics
    found.drawn, found.dropped = statistics.frames, statistics.dropped
    found.completeness = completeness / max(1, found.explained)
    mine, all_of_it, whole = (after - earlier for after, earlier in zip(busy(), before, strict=True))
    found.others = max(0.0, all_of_it - mine) / whole
    return found


def named(name: str, found: Run, watched: Watched) -> dict[str, float]:
    tenth = max(1, len(found.resident) // 10)
    steady = found.resident[int(SETTLING * len(found.resident)) :] or [resident.now()]
    start, end = float(np.median(steady[:tenth])), float(np.median(steady[-tenth:]))
    figures = {
        "seconds": found.seconds,
        "explained": found.explained,
        "drawn": found.drawn,
        "dropped": found.dropped,
        "failed": found.failed,
        "out of order": found.out_of_order,
        "explained frames/s": found.explained / found.seconds,
        "overruns": found.overruns,
        "overruns beyond one batch": watched.beyond,
        "first batch after the deadline": watched.late,
        "worst overrun s": found.worst_overrun,
        "batch p50 s": watched.batches.quantile(0.5),
        "batch p99 s": watched.batches.quantile(0.99),
        "batch longest s": watched.batches.largest,
        "passes, share of the time": watched.passing / found.seconds,
        "completeness": found.completeness,
        **{f"latency p{share * 100:g} s": found.latency.quantile(share) for share in (0.5, 0.9, 0.99)},
        "latency longest s": found.latency.largest,
        "resident MiB, beginning": start,
        "resident MiB, end": end,
        "other processes, share of the machine": found.others,
    }
    return {f"{name}: {key}": value for key, value in figures.items()}


def busy() -> tuple[float, float, float]:
    """Seconds of CPU time: of this process, of all, and of all with idling."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    tick = os.sysconf("SC_CLK_TCK")
    return sum(os.times()[:2]), (sum(ticks) - ticks[3] - ticks[4]) / tick, sum(ticks) / tick


if __name__ == "__main__":
    main()
