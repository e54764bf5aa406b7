"""What a stream showed, as recorded and as docs/streams.md says it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
WAYS = ("classifier", "attribution pass", "batch of masked passes")
HELD = "classifier's engine, MiB"
RUNS = ("80 %", "200 % back-pressure", "200 % drop-oldest")


@pytest.fixture(scope="module")
def figures() -> dict[str, Any]:
    return dict(json.loads((ROOT / "benchmarks" / "results" / "stream.json").read_text())["figures"])


def row(figures: dict[str, Any], run: str) -> str:
    """A line of the table in docs/streams.md."""

    def of(name: str) -> float:
        return float(figures[f"{run}: {name}"])

    latency = " / ".join(f"{of(f'latency {share} s'):.2f}" for share in ("p50", "p90", "p99"))
    cells = [run, f"{of('offered frames/s'):.2f}", f"{of('explained frames/s'):.2f}", f"{of('dropped'):.0f}"]
    cells += [f"{100 * of('completeness'):.0f} %", latency, f"{of('worst overrun s'):.2f}"]
    cells += [f"{of('overruns beyond one batch'):.0f}", f"{of('first batch after the deadline'):.0f}"]
    return f"| {' | '.join(cells)} |"


def test_the_page_states_what_was_measured(figures: dict[str, Any]) -> None:
    page = (ROOT / "docs" / "streams.md").read_text()
    for run in RUNS:
        assert row(figures, run) in page
    assert f"{figures['80 %: explained']:.0f} frames in {figures['80 %: seconds'] / 60:.0f} minutes" in page
    start, end = (figures[f"80 %: resident MiB, {when}"] for when in ("beginning", "end"))
    assert f"{start:.0f} MiB at its beginning and {end:.0f} MiB at its end" in page
    for phase in ("capacity", "80 %"):
        assert f"{figures[f'{phase}: batch p50 s']:.3f} s" in page, "by which the page says what 80 % was"


@pytest.mark.parametrize("run", RUNS)
def test_nothing_is_out_of_order_or_begun_after_its_deadline(figures: dict[str, Any], run: str) -> None:
    assert figures[f"{run}: out of order"] == 0
    assert figures[f"{run}: failed"] == 0
    assert figures[f"{run}: overruns beyond one batch"] == 0


def test_for_ten_minutes_everything_is_explained_and_memory_is_flat(figures: dict[str, Any]) -> None:
    assert figures["80 %: seconds"] >= 600
    assert figures["80 %: dropped"] == 0
    start, end = (figures[f"80 %: resident MiB, {when}"] for when in ("beginning", "end"))
    assert end <= 1.02 * start + 2


def test_an_overload_is_held_back_or_dropped_and_counted() -> None:
    found = json.loads((ROOT / "benchmarks" / "results" / "stream-overload.json").read_text())["figures"]
    offered = found["wait: offered frames/s"] * found["wait: seconds"]
    assert found["wait: dropped"] == 0
    assert found["wait: drawn"] < 0.7 * offered, "the source waited"
    assert found["drop-oldest: dropped"] > 0.3 * found["drop-oldest: drawn"]
    for run in ("wait", "drop-oldest"):
        left = found[f"{run}: drawn"] - found[f"{run}: dropped"] - found[f"{run}: explained"]
        assert 0 <= left <= 10, "what was under way when it was stopped"
        assert found[f"{run}: out of order"] == found[f"{run}: failed"] == 0
    page = (ROOT / "docs" / "streams.md").read_text()
    assert f"explained {found['drop-oldest: explained']:.0f} and dropped {found['drop-oldest: dropped']:.0f}" in page


def test_the_page_states_what_classifying_costs() -> None:
    found = json.loads((ROOT / "benchmarks" / "results" / "classifying.json").read_text())["figures"]
    networks = {"the demo": "demo", "MobileNetV3": "mobilenet_v3_large", "ResNet-50": "resnet50"}
    page = (ROOT / "docs" / "streams.md").read_text()
    for name, network in networks.items():
        for engine in ("onnxruntime-cpu", "openvino"):

            def of(what: str, key: str = f"{network}, {engine}") -> Any:
                value = found[f"{key}: {what}"]
                return value["median"] if isinstance(value, dict) else value

            passes = [1000 * of(f"one image by the {way}") for way in WAYS]
            streams = [of(f"stream by the {way}") for way in WAYS[:2]]
            cells = [name, engine, *(f"{each:.1f}" for each in passes), *(f"{each:.3g}" for each in streams)]
            assert f"| {' | '.join([*cells, f'{of(HELD):.0f}'])} |" in page
            assert streams[0] > 1.5 * streams[1]
