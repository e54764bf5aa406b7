"""sightline bench: its scopes, its figures, its doubts, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from sightline.bench import Spread, kernel
from sightline.bench.report import doubts
from sightline.bindings.onnxruntime import OnnxRuntimeCpu
from sightline.bundle import load
from sightline.cli import main
from sightline.runtime.explainer import Explainer
from sightline.runtime.sise import SISE
from tests.fakes import cuda
from tests.fakes import cupy as fake_cupy
from tests.fakes.cuda import State

QUICK = ["--engine", "onnxruntime-cpu", "--iterations", "3", "--threads", "1"]


@pytest.fixture(autouse=True)
def short_stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the raw engine: a test needs no steady figures."""
    monkeypatch.setattr("time.perf_counter", _Clock())


class _Clock:
    """A second passes at every look."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


def results(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    document = json.loads(capsys.readouterr().out)
    assert document["bundle"]["name"] == "small.sightline"
    return list(document["results"])


def test_end_to_end(bundle: Path, images: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    command = ["bench", str(bundle), *QUICK, "--batch-size", "4", "--image", str(images[0]), "--percentile", "50,95"]
    assert main([*command, "--json", "-"]) == 0
    (found,) = results(capsys)
    assert (found["scope"], found["batch_size"], found["engine"]) == ("end-to-end", 4, "onnxruntime-cpu")
    figures = found["figures"]
    assert {"p50", "p95", "median", "quartiles"} <= figures["latency"].keys()
    assert figures["latency"]["repeats"] == 3
    with Explainer(bundle, engine="onnxruntime-cpu", batch_size=4) as explainer:
        assert figures["passes"] == explainer(images[0]).passes
    # The clock ticks once at every look, so the ratio follows from how often it is looked at, not from this machine.
    raw = figures["raw_engine_per_image"]["median"]
    assert figures["overhead_ratio"]["median"] == pytest.approx(
        figures["latency"]["median"] / (figures["passes"] * raw), rel=1e-6
    )
    assert figures["pearson_between_iterations"] == pytest.approx(1)
    assert figures["peak_memory_bytes"] > 1 << 24


def test_a_method_without_masked_passes_has_no_overhead(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", str(bundle), *QUICK, "--method", "grad-cam", "--json", "-"]) == 0
    figures = results(capsys)[0]["figures"]
    assert figures["passes"] == 0
    assert "overhead_ratio" not in figures
    assert figures["explanations_per_second"] > 0


def test_forward_at_several_batch_sizes(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", str(bundle), *QUICK, "--scope", "forward", "--batch-size", "1,4", "--json", "-"]) == 0
    one, four = results(capsys)
    assert [found["batch_size"] for found in (one, four)] == [1, 4]
    assert one["figures"]["latency"]["repeats"] == 3
    assert four["figures"]["passes_per_second"] == pytest.approx(1 / four["figures"]["seconds_per_pass"])


def test_kernels(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--engine", "onnxruntime-cpu", "--iterations", "2", "--scope", "kernel", "--batch-size", "3"]
    assert main(["bench", str(bundle), *options, "--json", "-"]) == 0
    (found,) = results(capsys)
    assert {"copy", "mask_into 16x16", "extrema 8x8", "aggregate 8x8"} <= found["figures"].keys()
    assert found["figures"]["mask_into 16x16 of copy"] > 0


def test_kernels_of_a_gpu_are_timed_in_graphs(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_cupy.install(monkeypatch)
    monkeypatch.setitem(kernel.__globals__, "_COPY_BYTES", 1 << 12)
    monkeypatch.setattr(cuda, "get_elapsed_time", lambda began, ended: 2.0)
    copied = kernel(load(bundle), "cuda", "fp16", 3, iterations=2).figures["copy"]
    assert isinstance(copied, Spread)
    assert copied.median == pytest.approx(2 * (1 << 12) * 20 / 2e-3 / 1e9)
    runs = [name for name, _ in State.launches if name.startswith("mask")]
    assert len(runs) == 2 * (3 + 20)  # two blocks: three calls that warm it up, and twenty captured


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--scope", "forward", "--image", "part.png"], "--image does not belong to --scope forward"),
        (["--scope", "forward", "--method", "rise"], "--method does not belong"),
        (["--scope", "forward", "--passes", "5"], "--passes does not belong"),
        (["--scope", "kernel", "--threads", "1"], "--threads does not belong to --scope kernel"),
    ],
)
def test_what_a_scope_would_ignore_is_refused(
    words: list[str], said: str, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["bench", str(bundle), *words])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_the_table_and_the_file(bundle: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", str(bundle), *QUICK, "--json", "bench.json"]) == 0
    said = capsys.readouterr().out
    assert "overhead_ratio" in said
    assert "p99" in said
    assert json.loads((folder / "bench.json").read_text())["results"]
    assert [file.name for file in folder.iterdir()] == ["bench.json"]


@pytest.mark.parametrize("command", ["bench", "features", "decompose"])
@pytest.mark.parametrize(("name", "said"), [("none/x", "there is no folder none"), ("taken", "is a folder")])
def test_a_place_that_cannot_be_written_is_said_before_the_work(
    command: str, name: str, said: str, bundle: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suffix = {"bench": ".json"}.get(command, ".html")
    (folder / f"taken{suffix}").mkdir()
    words = {"bench": [str(bundle), "--json"], "features": [str(bundle), "no-images", "--layer", "block1", "-o"]}
    assert main([command, *words.get(command, [str(bundle), "no-image.png", "-o"]), name + suffix]) == 1
    assert said in capsys.readouterr().err
    assert [file.name for file in folder.iterdir()] == [f"taken{suffix}"]


def test_a_setting_that_cannot_be_measured_does_not_stop_the_others(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--scope", "forward", "--batch-size", "1", "--iterations", "2", "--json", "-"]
    assert main(["bench", str(bundle), "--engine", "warp,onnxruntime-cpu", *options]) == 1
    said = capsys.readouterr()
    assert "'warp'" in said.err
    document = json.loads(said.out)
    assert len(document["results"]) == len(document["failed"]) == 1


def test_maps_that_change_between_iterations_are_no_measurement(
    bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(0)
    run = OnnxRuntimeCpu.run

    def unsteady(self: OnnxRuntimeCpu) -> None:
        run(self)
        buffers: Mapping[str, npt.NDArray[Any]] = getattr(self, "_buffers", {})  # none yet while it is opened
        if set(buffers) == {"image", "logits", "probabilities"}:  # a masked pass, not the attribution pass
            buffers["probabilities"][:] = random.uniform(size=buffers["probabilities"].shape)

    monkeypatch.setattr(OnnxRuntimeCpu, "run", unsteady)
    assert main(["bench", str(bundle), *QUICK, "--json", "-"]) == 1
    said = capsys.readouterr()
    assert "differ from one iteration to the next" in said.err
    assert json.loads(said.out)["results"][0]["valid"] is False


def test_what_does_not_hold_still_is_said() -> None:
    steady, unsteady = Spread((1.0, 1.01, 1.02, 1.01), "s"), Spread((1.0, 2.0, 1.0, 3.0), "s")
    assert doubts({"latency": steady}) == []
    (said,) = doubts({"latency": unsteady})
    assert "latency is unstable" in said
    assert steady.facts([50])["p50"] == steady.median == 1.01


def test_the_default_image_gives_every_block_something(bundle: Path) -> None:
    import sightline
    from sightline.bench.end_to_end import smooth_noise

    loaded = sightline.load(bundle)
    with Explainer(loaded, SISE(), engine="onnxruntime-cpu", batch_size=4) as explainer:
        assert explainer(smooth_noise(loaded)).layer_maps.keys() == {block.name for block in loaded.blocks}
