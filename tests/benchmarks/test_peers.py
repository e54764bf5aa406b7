"""The comparison with peers: what holds whether or not any peer is installed."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
PEER, OURS = "plain torch SISE", "Sightline SISE (onnxruntime)"


@pytest.fixture(autouse=True)
def _benchmarks_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def module(name: str) -> Any:
    return importlib.import_module(name)


@pytest.fixture
def case(tmp_path: Path) -> Any:
    case = module("contenders.contender").Case(tmp_path, "tiny", 6, 0.3, 1, 0, 2, ("layer",))
    np.save(tmp_path / "image.npy", np.zeros((3, 8, 8), np.float32))
    case.save()
    return case


def fake_contender(values: Sequence[float], *, counted: bool = True, **fields: Any) -> Any:
    """A contender that sends its passes in batches of 4 and answers with the given values as a 2×2 map."""
    contender = module("contenders.contender")

    def opened(case: Any) -> Any:
        class Network:
            def forward(self, images: list[int]) -> int:
                return len(images)

        network, counter = Network(), contender.Counter()
        if counted:
            module("contenders.counting").count_calls(network, "forward", counter, len)

        def explain() -> Any:
            for first in range(0, case.passes, 4):
                network.forward(list(range(first, min(first + 4, case.passes))))
            return np.reshape(values, (2, 2))

        return contender.Opened(explain, counter, "torch")

    return contender.Contender(**{"name": "fake", "needs": ("json",), "settings": "", "open": opened, **fields})


@pytest.fixture
def idle_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module("contenders.raw"), "open_raw", lambda _engine, _case, _batch: lambda: None)


def test_a_case_reads_back_as_it_was_saved(case: Any) -> None:
    assert type(case).load(case.folder) == case


@pytest.mark.usefixtures("idle_engine")
def test_a_measurement_counts_the_images_and_not_the_parameter(case: Any) -> None:
    found = module("contenders.measure").measure(case, fake_contender([0.0, 1.0, 2.0, 3.0]), 0.0)
    assert found["passes"] == 6  # of this explanation alone: the cold one is not in it
    assert found["seconds"] >= 0
    assert [set(stretch) for stretch in found["raw"]] == [{1, 8, 16}] * 2
    assert found["map"].shape == (2, 2)
    assert "MiB beyond imports" in found


@pytest.mark.usefixtures("idle_engine")
def test_a_slow_contender_is_measured_without_a_cold_explanation(case: Any) -> None:
    found = module("contenders.measure").measure(case, fake_contender([0.0] * 4), 0.0, warm_up=False)
    assert found["passes"] == 6
    assert "MiB beyond imports" not in found


@pytest.mark.usefixtures("idle_engine")
@pytest.mark.parametrize(("values", "counted"), [([np.nan, 0, 0, 0], True), ([0.0, 1.0, 2.0, 3.0], False)])
def test_a_measurement_of_nothing_is_none(case: Any, values: Sequence[float], counted: bool) -> None:
    with pytest.raises(AssertionError, match=r"no map|not a single pass"):
        module("contenders.measure").measure(case, fake_contender(values, counted=counted), 0.0)


def test_a_package_that_is_missing_makes_a_contender_unavailable(case: Any) -> None:
    unavailable = module("contenders.contender").UnavailableError
    with pytest.raises(unavailable, match="no_such_peer is not installed"):
        module("contenders.measure").measure(case, fake_contender([0.0] * 4, needs=("no_such_peer",)), 0.0)


def test_torch_passes_are_counted_where_they_enter_the_network() -> None:
    import torch

    counter = module("contenders.contender").Counter()
    network = torch.nn.Flatten()
    module("contenders.counting").count_module(network, counter)
    network(torch.zeros(5, 3))
    network(torch.zeros(2, 3))
    assert counter.take() == 7
    assert counter.take() == 0


def test_every_round_holds_every_name_in_an_order_of_its_own() -> None:
    plan = module("contenders.summary").plan
    names = list("abcdefgh")
    rounds = plan(names, 4, seed=1)
    assert all(sorted(order) == names for order in rounds)
    assert len({tuple(order) for order in rounds}) > 1
    assert rounds == plan(names, 4, seed=1) != plan(names, 4, seed=2)


def test_ratios_hold_against_the_best_batch_size_of_the_same_process() -> None:
    rounds = [synthetic(PEER, "torch", 2.0), synthetic(PEER, "torch", 4.0)]
    figures = module("contenders.summary").figures(rounds, [PEER])
    # 100 passes; torch takes 10 ms an image at batch 8 before, 30 ms after; onnxruntime 5 ms.
    assert figures[f"{PEER}: raw batch size"] == 8
    assert figures[f"{PEER}: over its engine"]["median"] == pytest.approx(1.5)
    assert figures["fastest engine"] == "onnxruntime"
    assert figures[f"{PEER}: over the fastest engine"]["median"] == pytest.approx(6.0)
    assert figures[f"{PEER}: MiB beyond the model"] == pytest.approx(300 - 100)


@pytest.fixture
def recorded(case: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """The record of a run in which the fake measuring processes lack one contender and fail on another."""
    peers = module("peers")

    def measure(_case: Any, name: str, _python: str, options: Sequence[str]) -> dict[str, Any]:
        asked.append((name, "--no-warm-up" in options))
        if name == "dianna RISE":
            return {"skipped": "dianna is not installed"}
        if name == "torch-cam Score-CAM" and len(asked) > 8:
            return {"skipped": "failed with RuntimeError"}
        alone = name in ("torch", "onnxruntime", "openvino fp32", "openvino bf16")
        engine = name if alone else ("onnxruntime" if name == OURS else "torch")
        found: dict[str, Any] = synthetic(name, engine, 2.0)[name]
        return found

    asked: list[tuple[str, bool]] = []
    monkeypatch.setattr(peers, "measure", measure)
    monkeypatch.setattr(sys, "argv", ["/somewhere/peers.py", "--rounds", "2"])
    arguments = argparse.Namespace(
        network="tiny",
        passes=6,
        mu=0.3,
        rounds=2,
        threads=1,
        stretch=0.0,
        seed=0,
        python=[],
        output=tmp_path / "r.json",
    )
    path = peers.run(case, [PEER, OURS, "dianna RISE", "torch-cam Score-CAM"], arguments)
    assert [name for name, _ in asked].count("dianna RISE") == 1  # asked for once, then left out
    assert [cold for name, cold in asked if name == PEER] == [False, True]  # slow: warmed up in the first round only
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def test_a_record_follows_the_schema_and_names_what_is_missing(recorded: dict[str, Any]) -> None:
    jsonschema.validate(recorded, json.loads((ROOT / "benchmarks" / "schema.json").read_text(encoding="utf-8")))
    assert recorded["parameters"]["contenders"] == [PEER, OURS]
    assert sorted(recorded["parameters"]["skipped"]) == [
        "dianna RISE: dianna is not installed",
        "torch-cam Score-CAM: failed with RuntimeError",
    ]
    assert not [name for name in recorded["figures"] if name.startswith(("dianna", "torch-cam"))]
    assert recorded["parameters"]["packages"] == ["json 1.0"]


def test_the_table_shows_every_contender_once_the_best_first(recorded: dict[str, Any]) -> None:
    pytest.importorskip("matplotlib")
    lines = module("plot").table(recorded).splitlines()
    rows = [line for line in lines if line.startswith(("| plain", "| **Sight"))]
    assert [row.split(" | ")[0].strip("| *") for row in rows] == [PEER, OURS]  # 1.0 over torch, 4.0 over onnxruntime
    assert {line.count("|") for line in lines if line.startswith("|")} == {9}
    assert lines[-1].startswith("Left out: ")
    assert "dianna RISE: dianna is not installed" in lines[-1]


def test_the_picture_is_the_same_for_the_same_records(recorded: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plot = module("plot")
    for name in ("a.svg", "b.svg"):
        plot.draw([recorded, recorded], tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert (tmp_path / "a.svg").read_text(encoding="utf-8").startswith("<?xml")


def test_contenders_and_interpreters_are_chosen_by_part_of_a_name() -> None:
    peers = module("peers")
    assert PEER in peers.chosen(None)
    assert peers.chosen(["openvino_xai"]) == ["openvino_xai RISE", "openvino_xai AISE"]
    assert peers.chosen(["nothing like it"]) == []
    choices = ["/a/python", "dianna=/b/python"]
    assert peers.interpreter("dianna RISE", choices) == "/b/python"
    assert peers.interpreter(PEER, choices) == "/a/python"
    assert peers.interpreter(PEER, []) == sys.executable


def test_a_reason_names_no_folder_of_this_machine() -> None:
    assert (
        module("peers").without_folders("/somewhere/else/net.sightline has 3/4 of it") == "net.sightline has 3/4 of it"
    )


def synthetic(name: str, engine: str, seconds: float) -> dict[str, Any]:
    """What one process writes, and beside it the raw engines alone."""

    def alone(raw: str, seconds: float) -> dict[str, Any]:
        stretch = {"1": 2 * seconds, "8": seconds, "16": 1.5 * seconds}
        return {"engine": raw, "versions": {"json": "1.0"}, "raw": [stretch], "MiB beyond imports": 100.0}

    def stretch(best: float) -> dict[str, float]:
        return {"1": 2 * best, "8": best, "16": 1.5 * best}

    measured = {raw: alone(raw, 0.01 if raw == "torch" else 0.005) for raw in ("torch", "onnxruntime")}
    if name in ("openvino fp32", "openvino bf16"):
        measured[name] = alone(name, 0.02)
    if name not in measured:
        measured[name] = {
            "engine": engine,
            "versions": {"json": "1.0"},
            "cold seconds": 60.0,
            "MiB beyond imports": 300.0,
            "seconds": seconds,
            "passes": 100,
            "raw": [stretch(0.01), stretch(0.03)] if engine == "torch" else [stretch(0.005)] * 2,
        }
    return measured
