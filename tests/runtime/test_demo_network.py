"""The packaged network and images: the whole of SISE and Ada-SISE at full size against the float64 torch reference."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from model import SurfaceNet
from onnx import numpy_helper

from sightline import SISE, AdaSISE, Explainer, demo, load
from sightline.runtime.image import prepare
from tests import reference

TAPS = ("stem", "stages.0", "stages.1", "stages.3")


@pytest.fixture(scope="module")
def network() -> SurfaceNet:
    """The torch module with the weights of the bundle, whose batch normalisations the exporter folded away."""
    graph = onnx.load(load(demo.BUNDLE).classifier).graph
    weights = {tensor.name: torch.from_numpy(numpy_helper.to_array(tensor).copy()) for tensor in graph.initializer}
    network = SurfaceNet()
    state = network.state_dict()
    norms = {"stem.0": "stem.1", "conv1": "bn1", "conv2": "bn2", "shortcut.0": "shortcut.1"}
    for name in [name for name in weights if name in state]:
        state[name] = weights[name]
        if f"{name}_bias" in weights:
            convolution = name.removesuffix(".weight")
            (norm,) = (convolution.removesuffix(end) + of for end, of in norms.items() if convolution.endswith(end))
            state[f"{norm}.bias"] = weights[f"{name}_bias"]
            state[f"{norm}.running_var"] = torch.full_like(state[f"{norm}.running_var"], 1 - 1e-5)
    network.load_state_dict(state)
    return network.double().eval().requires_grad_(False)


@pytest.mark.parametrize("name", ["scratch", "pit-cluster"])
@pytest.mark.parametrize("method", [SISE(), SISE(mu=0.3), AdaSISE()], ids=repr)
def test_the_demo_agrees_with_the_reference(network: SurfaceNet, name: str, method: SISE | AdaSISE) -> None:
    (sample,) = (sample for sample in demo.samples() if sample.name == name)
    with Explainer(demo.BUNDLE, method) as explainer:
        got = explainer(sample.image)
        image = torch.from_numpy(prepare(sample.image, explainer.bundle.input).array)[None]
    assert got.target is not None
    mu = method.mu if isinstance(method, SISE) else 0.0
    want = reference.explain(network, image, got.target, TAPS, mu=mu, adaptive=isinstance(method, AdaSISE))
    assert got.passes == want.passes > 20
    for tap, layer in zip(TAPS, want.layers, strict=True):
        assert layer.map is not None
        np.testing.assert_allclose(got.layer_maps[tap], layer.map.numpy(), atol=1e-4, err_msg=tap)
    fused = want.fused.numpy()
    assert np.corrcoef(got.saliency.ravel(), fused.ravel())[0, 1] >= 0.9999
    assert np.mean(np.abs(got.saliency - fused) > 1e-3) <= 1e-3
