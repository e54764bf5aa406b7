"""Whole explanations on a real GPU, on every engine that can be used, against the CPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from sightline import SISE, Explainer, bundle, demo
from sightline.bindings import available
from sightline.bindings.engine import Precision
from sightline.runtime.gate import pearson

ENGINES = [
    entry.name for entry in available() if entry.device == "cuda" and entry.usable and entry.name != "torch-cuda"
]

on_a_gpu = pytest.mark.skipif(not ENGINES, reason="no engine can use a GPU here")


@on_a_gpu
@pytest.mark.parametrize("engine", ENGINES)
def test_the_map_is_that_of_the_cpu(engine: str) -> None:
    with (
        Explainer(demo.BUNDLE, SISE(), engine, 16) as gpu,
        Explainer(demo.BUNDLE, SISE(), "onnxruntime-cpu", 16) as cpu,
    ):
        for sample in demo.samples():
            found, expected = gpu(sample.image), cpu(sample.image)
            assert found.target == expected.target
            assert found.passes == expected.passes
            assert pearson(found, expected) >= 0.999


@on_a_gpu
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("precision", ["tf32", "fp16"])
def test_lower_precisions_pass_the_gate(engine: str, precision: Precision, tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="fp16 needs a graph of its own, which onnx makes")
    from sightline import add_precision

    copy = tmp_path / "copy.sightline"
    copy.mkdir()
    for file in demo.BUNDLE.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    opened = bundle.load(copy) if precision == "tf32" else add_precision(copy, "fp16")
    images = [sample.image for sample in demo.samples()]
    with Explainer(opened, SISE(), engine, 16, precision=precision, gate=images, gate_threshold=0.99) as explainer:
        assert explainer.precision == precision


def test_torch_under_a_cuda_graph(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("torch has no GPU here")
    from sightline.bindings.engine import Engine
    from sightline.bindings.torch import TorchEngine
    from tests.runtime import tiny

    def open_batch(size: int) -> Engine:
        shapes = {tiny.INPUT.name: (size, *tiny.INPUT.shape)}
        return TorchEngine.from_module(tiny.Tiny(), shapes, activation="softmax", device="cuda")

    written = tiny.write(tmp_path / "b")
    with (
        Explainer(written, SISE(), open_batch, 8) as gpu,
        Explainer(written, SISE(), "onnxruntime-cpu", 8) as cpu,
    ):
        for seed in range(3):
            assert pearson(gpu(tiny.image(seed)), cpu(tiny.image(seed))) >= 0.999
