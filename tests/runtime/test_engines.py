"""One explanation on every engine of the CPU, and on an engine of the caller's own."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

import sightline
from sightline import RISE, SISE, Explainer
from sightline.bindings import Engine, open_engine
from sightline.bindings.engine import FACTOR, Precision
from sightline.bundle import Bundle, Layout
from sightline.errors import EngineError, ExportError, PrecisionError
from sightline.runtime.gate import pearson
from sightline.runtime.method import Method
from tests.runtime import tiny


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """With the torch program in it."""
    path = tmp_path_factory.mktemp("exported") / "tiny.sightline"
    return sightline.export(tiny.Tiny().eval(), path, input_shape=tiny.INPUT.shape, torch_program=True)


@pytest.mark.parametrize("engine", ["onnxruntime-cpu", "openvino", "torch"])
def test_every_engine_gives_the_same_map(engine: str, exported: Bundle) -> None:
    with (
        Explainer(exported, engine=engine, batch_size=4) as explainer,
        Explainer(exported, engine="onnxruntime-cpu", batch_size=4) as reference,
    ):
        assert explainer.engine == engine
        for seed in range(4):
            found, expected = explainer(tiny.image(seed)), reference(tiny.image(seed))
            assert (found.target, found.passes) == (expected.target, expected.passes)
            assert pearson(found, expected) >= 0.9999


@pytest.mark.parametrize("engine", ["openvino", "torch"])
def test_bf16_passes_the_gate(engine: str, exported: Bundle) -> None:
    images = [tiny.image(seed) for seed in range(3)]
    try:
        opened = Explainer(exported, "sise", engine, 4, precision="bf16", gate=images, gate_threshold=0.9)
    except PrecisionError as error:
        if "refused" in str(error):
            raise
        pytest.skip(str(error))  # a CPU without bf16
    with opened as explainer, Explainer(exported, "sise", engine, 4) as full:
        assert explainer.precision == explainer(images[0]).precision == "bf16"
        assert (explainer(images[0]).saliency != full(images[0]).saliency).any()  # it did compute in bf16


def test_an_engine_of_the_caller_s_own(bundle: Bundle, explainer: Explainer) -> None:
    from sightline.bindings.torch import TorchEngine

    def open_batch(size: int) -> Engine:
        shapes = {bundle.input.name: (size, *bundle.input.shape)}
        return TorchEngine.from_module(tiny.Tiny(), shapes, activation="softmax")

    with Explainer(bundle, engine=open_batch) as own:
        assert own.engine == "torch"
        assert pearson(own(tiny.image()), explainer(tiny.image())) >= 0.9999


@pytest.mark.parametrize("layout", get_args(Layout))
@pytest.mark.parametrize("method", [SISE(), RISE(40)])
def test_masks_multiplied_by_the_engine_give_the_same_bytes(layout: Layout, method: Method, tmp_path: Path) -> None:
    bundle = tiny.write(tmp_path / "b", layout=layout)

    def plain(size: int) -> Engine:
        channels, height, width = bundle.input.shape
        shape = (channels, height, width) if layout == "NCHW" else (height, width, channels)
        return open_engine(bundle.graph("fp32"), "openvino", shapes={bundle.input.name: (size, *shape)})

    with Explainer(bundle, method, "openvino", 4) as multiplying, Explainer(bundle, method, plain, 4) as masked:
        assert FACTOR in multiplying._engines.passes.engine.buffers
        assert FACTOR not in masked._engines.passes.engine.buffers
        for seed in range(3):
            found, expected = multiplying(tiny.image(seed)), masked(tiny.image(seed))
            assert expected.saliency.any()
            np.testing.assert_array_equal(found.saliency, expected.saliency)


def test_what_auto_took_and_why_is_logged(bundle: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "sightline")
    with Explainer(bundle, batch_size=4) as explainer:
        assert f"engine auto: {explainer.engine}" in caplog.text
    assert "passed over" in caplog.text
    assert "memory plan:" in caplog.text


def test_what_is_missing_is_said(bundle: Bundle, tmp_path: Path) -> None:
    wrong: list[tuple[str, Precision, type[Exception], str]] = [
        ("onnxruntime-cpu", "fp16", PrecisionError, "fp16"),
        ("onnxruntime-cpu", "int8", PrecisionError, "sightline build"),
        ("torch", "fp32", PrecisionError, "torch_program"),
        ("onnxruntime-cuda", "fp32", EngineError, "CUDA|GPU|gpu"),
    ]
    for engine, precision, error, said in wrong:
        with pytest.raises((error, sightline.errors.MissingPackageError), match=said):
            Explainer(bundle, engine=engine, batch_size=4, precision=precision, gate=[tiny.image()])
    with pytest.raises(ExportError, match="torch module"):
        sightline.export(tmp_path / "model.onnx", tmp_path / "b", torch_program=True)
