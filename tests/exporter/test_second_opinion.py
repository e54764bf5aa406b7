"""Whole networks against onnx-ad, another differentiator of ONNX graphs: the gradient by the image itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from sightline.exporter import export
from sightline.exporter.gradient import vector_jacobian
from tests.exporter.conftest import relative_error, run
from tests.zoo import FAMILIES, fitted

onnx_ad = pytest.importorskip("onnx_ad", reason="onnx-ad, the second differentiator, is not installed")

SIDE = 128


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "squeezenet1_1"])
def test_a_whole_network_agrees_with_another_differentiator(name: str, tmp_path: Path) -> None:
    (family,) = (family for family in FAMILIES if family.name == name)
    image = family.image()[:, :, :SIDE, :SIDE].contiguous()
    bundle = export(fitted(family.make(), image), tmp_path / "a.sightline", example=image)
    model = onnx.load(bundle.classifier)
    del model.graph.output[1:]
    for value, size in ((model.graph.input[0], 1), (model.graph.output[0], 1)):
        value.type.tensor_type.shape.dim[0].dim_value = size
    del model.graph.value_info[:]
    single = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    seed = np.random.default_rng(0).standard_normal((1, bundle.classes)).astype(np.float32)
    feeds = {bundle.input.name: image.numpy()}
    ours = vector_jacobian(ir.from_proto(single), "logits", [bundle.input.name])
    ir.save(ours, tmp_path / "ours.onnx")
    got = run(tmp_path / "ours.onnx", {**feeds, "seed": seed})[f"gradient.{bundle.input.name}"]
    onnx.save(onnx_ad.reverse(single, layout="onnx"), tmp_path / "theirs.onnx")
    # Its seeds and gradients carry one more axis, the number of seeds.
    theirs = run(tmp_path / "theirs.onnx", {**feeds, "adj_logits": seed[..., None]})[f"adj_{bundle.input.name}"]
    assert np.linalg.norm(got.ravel()) > 0
    assert relative_error(got, theirs[..., 0]) <= 1e-4
