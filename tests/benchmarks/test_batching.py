"""The benchmark of shared batches and deadlines counts what it says, on an explainer whose time is known."""

from __future__ import annotations

import argparse
import importlib
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def batching(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("batching")


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


class Found:
    passes = 12
    completeness = 0.5


class Fake:
    """Explains 12 masks an image: 3 s each alone, 2 s each in a shared batch; under a deadline, as told."""

    batch_size = 4
    engine = "fake"

    def __init__(self, clock: Clock, progress: Callable[[int, int], None] | None, late: Iterator[float]) -> None:
        self.clock, self.progress, self.late = clock, progress or (lambda *_: None), late

    def __enter__(self) -> Fake:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __call__(self, image: int, *, max_passes: int | None = None, deadline: float | None = None) -> Found:
        if deadline is None:
            self.clock.now += 3 * 12 if max_passes is None else 3 * max_passes
            return Found()
        began = self.clock.now
        for took in (1.0, 4.0, 6.0):  # the first has no beginning of its own
            self.clock.now += took
            self.progress(0, 0)
        self.clock.now = began + deadline + next(self.late)
        return Found()

    def batch(self, images: Iterable[int], *, max_passes: int | None = None) -> Iterator[Found]:
        for number, _ in enumerate(images, 1):
            self.clock.now += 2 * 12
            self.progress(12 * number, 0)
            yield Found()


@pytest.fixture
def clock(batching: Any, monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(batching, "time", clock)
    return clock


def fake(batching: Any, monkeypatch: pytest.MonkeyPatch, clock: Clock, late: Iterable[float] = ()) -> None:
    lateness = iter(late)

    def opened(*_: object, progress: Callable[[int, int], None] | None = None, **__: object) -> Fake:
        return Fake(clock, progress, lateness)

    monkeypatch.setattr(batching.sightline, "Explainer", opened)


def test_ratios_are_of_times_per_mask_in_one_stretch(
    batching: Any, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    fake(batching, monkeypatch, clock)
    raw = {4: 2.0, 8: 1.6, 16: 4.0}
    monkeypatch.setattr(batching, "open_raw", lambda _bundle, _engine, _precision, size, _threads: nullcontext(size))
    monkeypatch.setattr(batching, "stretch", lambda size, _seconds: raw[size])
    load = batching.Load("demo", "all masks", rounds=2, shared=4, alone=3)
    found = batching.sharing(None, list(range(6)), load, "fake", 1.0, None)
    assert (found["batch_size"], found["raw_batch_size"], found["masks_per_image"]) == (4, 8, 12)
    medians = {name: value["median"] for name, value in found.items() if isinstance(value, dict)}
    assert medians == pytest.approx(
        {
            "shared": 2,
            "alone": 3,
            "raw": 1.6,
            "shared over alone": 2 / 3,
            "shared over raw": 2 / 1.6,
            "alone over raw": 3 / 1.6,
        }
    )
    assert found["shared"]["repeats"] == 4  # stretches of four images and of the two left, in two rounds
    assert found["raw"]["repeats"] == 6


def test_late_is_what_comes_after_the_deadline(batching: Any, monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    monkeypatch.setattr(batching, "LONGEST", 50.0)
    whole = [0.0, 0.0, 0.0]
    fake(batching, monkeypatch, clock, [*whole, -1, -0.25, 4.5, 5.5, 6.5, -2])
    found = batching.deadlines(None, list(range(9)), "fake", 6, None, 0)
    assert (found["runs"], found["deadline low"], found["deadline high"]) == (6, 3, 50)
    assert found["batch"]["median"] == 5
    assert found["longest batch"] == 6
    assert found["latest"] == pytest.approx(6.5)
    kept = [found[name] for name in ("kept", "kept to a median batch", "kept to the longest batch")]
    assert kept == [3, 4, 5]


def test_what_was_measured_is_kept_and_the_record_holds_all_of_it(
    batching: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    measured: list[str] = []

    def measure(name: str, value: float) -> dict[str, float]:
        measured.append(name)
        return {"value": value}

    def settings(arguments: argparse.Namespace, bundles: Path) -> Iterator[tuple[str, Callable[[], dict[str, float]]]]:
        for number, name in enumerate(("one, a", "two, a", "two, b")):
            yield name, partial(measure, name, float(number))

    monkeypatch.setattr(batching, "settings", settings)
    output = tmp_path / "record.json"

    def run(*words: str) -> dict[str, Any]:
        monkeypatch.setattr("sys.argv", ["batching.py", "--work", str(tmp_path), "--output", str(output), *words])
        batching.main()
        return dict(json.loads(output.read_text())["figures"])

    assert run("--only", "two,b") == {"two, b: value": 2}
    assert run("--only", "a") == {"one, a: value": 0, "two, a: value": 1, "two, b: value": 2}
    assert measured == ["two, b", "one, a", "two, a"]
    run("--seed", "1")  # measured anew
    assert len(measured) == 6
