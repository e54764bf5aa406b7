"""The gate of lower precisions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sightline import Explainer, Request
from sightline.bindings import Engine, open_engine
from sightline.bindings.engine import Precision
from sightline.bindings.table import ENGINES, Variant
from sightline.bundle import PROBABILITIES, Bundle
from sightline.errors import PrecisionError, UngatedError
from sightline.runtime.gate import Gate, pearson
from tests.runtime import tiny

BOTH: Mapping[Precision, Variant] = {"fp32": "fp32", "bf16": "fp32"}


def test_pearson() -> None:
    random = np.random.default_rng(0)
    one, other = random.normal(size=(2, 30, 20))
    assert pearson(one, other) == pytest.approx(np.corrcoef(one.ravel(), other.ravel())[0, 1])
    assert pearson(one, 3 * one + 1) == pytest.approx(1)
    assert pearson(one, np.ones_like(one)) == 0
    assert pearson(np.zeros((3, 3)), np.ones((3, 3))) == 1


def test_the_worst_image_decides() -> None:
    gate = Gate("bf16", "openvino", "onnxruntime-cpu", (0.999, 0.981, 1.0), 0.98)
    assert gate.require() is gate
    assert Gate.from_facts(gate.facts()) == gate
    refused = Gate("bf16", "openvino", "onnxruntime-cpu", (0.999, 0.979, 1.0), 0.98)
    with pytest.raises(PrecisionError, match=r"refused: .* 0\.9790 at worst.*precision='fp32'"):
        refused.require()


def spoiled(engine: Engine, noise: float) -> Engine:
    """An engine that computes in float32 and then spoils the scores, as a low precision would."""
    run, random = engine.run, np.random.default_rng(0)

    def run_spoiled() -> None:
        run()
        scores = engine.buffers[PROBABILITIES]
        scores *= np.exp(noise * random.normal(size=scores.shape)).astype(np.float32)

    engine.precision, engine.run = "bf16", run_spoiled  # type: ignore[misc, method-assign]
    return engine


@pytest.fixture
def lower(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], str]:
    """An engine of the table that has bf16, by its name; how good that is, may be said again and again."""
    entry, given = ENGINES["onnxruntime-cpu"], 0.0
    monkeypatch.setitem(ENGINES, entry_name := "onnxruntime-cpu", replace(entry, precisions=BOTH))

    def opened(path: Path, name: str, *, precision: Precision = "fp32", **options: Any) -> Engine:
        engine = open_engine(path, name, **options)
        return spoiled(engine, given) if precision == "bf16" else engine

    def spoiling(noise: float) -> str:
        nonlocal given
        given = noise
        return entry_name

    monkeypatch.setattr("sightline.runtime.engines.open_engine", opened)
    return spoiling


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGHTLINE_CACHE", str(tmp_path / "cache"))


def test_a_precision_that_agrees_is_accepted_and_remembered(bundle: Bundle, lower: Callable[[float], str]) -> None:
    images = [tiny.image(seed) for seed in range(3)]
    with pytest.raises(UngatedError, match=r"gate=\[images\]"):
        Explainer(bundle, engine=lower(1e-4), batch_size=8, precision="bf16")
    with Explainer(bundle, engine=lower(1e-4), batch_size=8, precision="bf16", gate=images) as explainer:
        assert explainer.gate is not None
        assert len(explainer.gate.correlations) == 3
        assert 0.99 < min(explainer.gate.correlations) < 1
        assert explainer(images[0]).precision == "bf16"
    with Explainer(bundle, engine=lower(1e-4), batch_size=8, precision="bf16") as again:
        assert again.gate == explainer.gate
    with pytest.raises(PrecisionError, match="refused"):  # what was accepted at 0.98 is not at a stricter threshold
        Explainer(bundle, engine=lower(1e-4), batch_size=8, precision="bf16", gate_threshold=1.0)
    with pytest.raises(UngatedError):  # another method makes other maps
        Explainer(bundle, "ada-sise", engine=lower(1e-4), batch_size=8, precision="bf16")


def test_a_request_for_another_method_needs_that_method_s_gate(bundle: Bundle, lower: Callable[[float], str]) -> None:
    images = [tiny.image(seed) for seed in range(2)]
    with Explainer(bundle, engine=lower(1e-4), batch_size=8, precision="bf16", gate=images) as explainer:
        fine, refused = explainer.answer([Request(images[0]), Request(images[0], method="ada-sise")])
        assert fine.error is None
        assert isinstance(refused.error, UngatedError)
        assert "ada-sise" in str(refused.error)
        with Explainer(bundle, "ada-sise", lower(1e-4), 8, precision="bf16", gate=images):
            pass  # what it remembers, the other one learns
        (answer,) = explainer.answer([Request(images[0], method="ada-sise")])
        assert answer.error is None


def test_a_precision_that_does_not_agree_is_refused_and_not_remembered(
    bundle: Bundle, lower: Callable[[float], str]
) -> None:
    images = [tiny.image(seed) for seed in range(3)]
    with pytest.raises(PrecisionError, match="refused"):
        Explainer(bundle, engine=lower(3.0), batch_size=8, precision="bf16", gate=images)
    with pytest.raises(UngatedError):
        Explainer(bundle, engine=lower(3.0), batch_size=8, precision="bf16")


def test_an_engine_of_one_s_own_is_compared_every_time(bundle: Bundle) -> None:
    """Nobody can tell it from the next one."""

    def own(noise: float) -> Callable[[int], Engine]:
        def open_batch(size: int) -> Engine:
            shapes = {bundle.input.name: (size, *bundle.input.shape)}
            return spoiled(open_engine(bundle.classifier, "onnxruntime-cpu", shapes=shapes), noise)

        return open_batch

    images = [tiny.image(seed) for seed in range(2)]
    with Explainer(bundle, engine=own(1e-4), batch_size=8, precision="bf16", gate=images) as explainer:
        assert explainer.gate is not None
        (other,) = explainer.answer([Request(images[0], method="ada-sise")])
        assert "open an Explainer with ada-sise and gate" in str(other.error)
    for noise in (1e-4, 3.0):
        with pytest.raises(UngatedError, match="an engine of your own"):
            Explainer(bundle, engine=own(noise), batch_size=8, precision="bf16")


def test_a_gate_without_images(bundle: Bundle, lower: Callable[[float], str]) -> None:
    with pytest.raises(PrecisionError, match="at least one image"):
        Explainer(bundle, engine=lower(0), batch_size=8, precision="bf16", gate=[])


def test_float32_needs_no_gate(bundle: Bundle) -> None:
    with Explainer(bundle, batch_size=8) as explainer:
        assert explainer.gate is None
        assert explainer.precision == "fp32"
