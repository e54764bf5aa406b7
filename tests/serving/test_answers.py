"""What is answered, and that every answer is that of its own image."""

from __future__ import annotations

import base64
import io
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sightline import SISE, Explainer, Explanation, demo
from sightline.runtime import rendering
from sightline.runtime.hierarchy import Hierarchy
from sightline.runtime.requests import Request
from tests.runtime import tiny
from tests.serving.running import CHOICES, Running, b64, instance, map_of, opened, picture, running

EXPLAIN, PREDICT, INFER = "/v1/models/tiny:explain", "/v1/models/tiny:predict", "/v2/models/tiny/infer"


def same(answered: dict[str, Any], expected: Explanation) -> None:
    """The facts and the map of an answer are those of an explanation."""
    facts = expected.facts()
    for name in ("target", "label", "method", "parameters", "passes", "image", "layers", "bundle_hash", "engine"):
        assert answered[name] == facts[name], name
    assert answered["score"] == pytest.approx(facts["score"], abs=1e-5)
    assert np.allclose(map_of(answered["saliency"]), expected.saliency, atol=1e-4)


def test_explains_what_was_predicted(server: Running, reference: Explainer) -> None:
    image = opened(picture(0))
    asked = {"instances": [instance(0)], "parameters": {"saliency": True, "layers": True}}
    document = server.post(EXPLAIN, asked).raise_for_status().json()
    expected = reference(image)
    (found,) = document["explanations"]
    same(found, expected)
    for name, layer in expected.layer_maps.items():
        assert np.allclose(map_of(found["layer_maps"][name]), layer, atol=1e-4)
    assert found["regions"][0]["box"] == list(expected.regions()[0].box)
    overlay = np.asarray(opened(base64.b64decode(found["overlay"])), np.int16)
    assert overlay.shape == (30, 40, 3)
    assert abs(overlay - np.asarray(expected.overlay(), np.int16)).max() <= 1
    (prediction,) = document["predictions"]
    assert np.allclose(prediction["probabilities"], reference.probabilities(image), atol=1e-5)
    assert prediction["target"] == expected.target
    assert prediction["label"] == expected.label
    assert found["queued"] >= 0


def test_only_what_is_wanted_is_answered(server: Running) -> None:
    asked = {"instances": [instance(0)], "parameters": {"overlay": False}}
    (found,) = server.post(EXPLAIN, asked).json()["explanations"]
    assert not {"overlay", "saliency", "layer_maps"} & set(found)


def test_maps_as_pictures(server: Running, reference: Explainer) -> None:
    asked = {"instances": [instance(1)], "parameters": {"overlay": False, "saliency": True, "maps": "png"}}
    (found,) = server.post(EXPLAIN, asked).json()["explanations"]
    assert np.allclose(map_of(found["saliency"]), reference(opened(picture(1))).saliency, atol=0.5 / 255 + 1e-4)


def test_several_targets_and_images(server: Running, reference: Explainer) -> None:
    asked = {
        "instances": [instance(2, target=["crack", 0]), instance(3, target="pit"), instance(4)],
        "parameters": {"saliency": True, "method": "ada-sise"},
    }
    found = server.post(EXPLAIN, asked).raise_for_status().json()["explanations"]
    requests = [
        Request(opened(picture(seed)), targets, "ada-sise") for seed, targets in ((2, [3, 0]), (3, [2]), (4, None))
    ]
    expected = [answer.explanations for answer in reference.answer(requests)]
    for answered, explanation in zip(found[0], expected[0], strict=True):
        same(answered, explanation)
    same(found[1], expected[1][0])
    same(found[2], expected[2][0])


def test_a_method_s_settings_and_a_budget(server: Running) -> None:
    asked = {
        "instances": [instance(0)],
        "parameters": {"method": "rise", "settings": {"passes": 30, "seed": 7}, "max_passes": 20},
    }
    (found,) = server.post(EXPLAIN, asked).json()["explanations"]
    assert found["passes"] == 20
    assert (found["method"], found["parameters"]["passes"], found["parameters"]["seed"]) == ("rise", 30, 7)
    assert found["completeness"] == pytest.approx(20 / 30)


def test_settings_without_a_method_are_of_the_model_s_own(bundle: Path) -> None:
    asked = {"instances": [instance(0)], "parameters": {"settings": {"predict": False}}}
    with running([bundle], choices=replace(CHOICES, method=SISE(mu=0.4))) as server:
        (found,) = server.post(EXPLAIN, asked).json()["explanations"]
        facts = server.client.get("/v1/models/tiny").json()
    assert found["parameters"] == {"mu": 0.4, "predict": False}
    assert facts["settings"] == {"mu": 0.4, "predict": True}


def test_one_picture_and_one_npz(server: Running, reference: Explainer) -> None:
    expected = reference(opened(picture(5)))
    asked = {"instances": [instance(5)]}
    answer = server.post(EXPLAIN, asked, Accept="image/png;q=0.9, text/plain")
    assert answer.headers["content-type"] == "image/png"
    assert opened(answer.content).size == opened(expected.encoded(".png")).size
    assert float(answer.headers["Sightline-Score"]) == pytest.approx(expected.score, abs=1e-5)
    assert int(answer.headers["Sightline-Passes"]) == expected.passes
    answer = server.post(EXPLAIN, {**asked, "parameters": {"format": "npz"}}, Accept="image/png")
    assert answer.headers["content-type"] == "application/x-npz"
    arrays = np.load(io.BytesIO(answer.content))
    assert np.allclose(arrays["saliency"], expected.saliency, atol=1e-4)
    assert json.loads(str(arrays["metadata"]))["image"] == {"width": 40, "height": 30}


def test_predicts(server: Running, reference: Explainer) -> None:
    found = server.post(PREDICT, {"instances": [instance(seed) for seed in range(5)]}).json()["predictions"]
    for seed, prediction in enumerate(found):
        expected = reference.probabilities(opened(picture(seed)))
        assert np.allclose(prediction["probabilities"], expected, atol=1e-6)
        assert prediction["label"] == tiny.LABELS[int(expected.argmax())]


def infer(server: Running, name: str, datatype: str, shape: list[int], data: Any) -> dict[str, np.ndarray[Any, Any]]:
    asked = {
        "id": "x",
        "inputs": [{"name": name, "datatype": datatype, "shape": shape, "data": data}],
        "outputs": [{"name": "saliency"}, {"name": "probabilities"}],
        "parameters": {"target": "pit"},
    }
    document = server.post(INFER, asked).raise_for_status().json()
    assert (document["model_name"], document["id"]) == ("tiny", "x")
    return {one["name"]: np.asarray(one["data"]).reshape(one["shape"]) for one in document["outputs"]}


def test_tensors_of_every_kind(server: Running, reference: Explainer) -> None:
    images = [opened(picture(seed)) for seed in (6, 7)]
    pixels = np.stack([np.asarray(image) for image in images])
    arrays = np.stack([tiny.image(seed) for seed in (6, 7)])
    cases = [
        (images, infer(server, "image", "BYTES", [2], [b64(picture(seed)) for seed in (6, 7)])),
        (images, infer(server, "pixels", "UINT8", list(pixels.shape), pixels.tolist())),
        (images, infer(server, "pixels", "UINT8", list(pixels.shape), pixels.ravel().tolist())),
        (images[:1], infer(server, "pixels", "UINT8", list(pixels.shape[1:]), pixels[0].tolist())),
        (list(arrays), infer(server, "tensor", "FP32", list(arrays.shape), arrays.ravel().tolist())),
    ]
    for asked, found in cases:
        assert found["saliency"].shape == (len(asked), tiny.HEIGHT, tiny.WIDTH)
        for i, image in enumerate(asked):
            assert np.allclose(found["saliency"][i], reference(image, "pit").saliency, atol=1e-4)
            assert np.allclose(found["probabilities"][i], reference.probabilities(image), atol=1e-5)


def test_without_outputs_nothing_is_explained(server: Running) -> None:
    before = server.metric('sightline_passes_total{model="tiny"}')
    asked = {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": [b64(picture(0))]}]}
    (output,) = server.post(INFER, asked).json()["outputs"]
    assert (output["name"], output["shape"]) == ("probabilities", [1, tiny.CLASSES])
    assert server.metric('sightline_passes_total{model="tiny"}') == before


def test_every_answer_is_that_of_its_own_image(server: Running, reference: Explainer) -> None:
    """Many clients at once, with all that can differ between requests."""
    methods = ("sise", "grad-cam", "ada-sise", "score-cam", None)
    maps: dict[int, Explanation] = {}
    for seed in range(120):
        request = Request(opened(picture(seed)), [seed % tiny.CLASSES], methods[seed % len(methods)])
        (answer,) = reference.answer([request])
        (found,) = answer.explanations
        if all(abs(found.saliency - other.saliency).max() > 1e-2 for other in maps.values()):
            maps[seed] = found  # unlike all others: else mixing them up would not be seen
    seeds = list(maps)
    assert len(seeds) > 40

    def ask(seed: int) -> dict[str, Any]:
        parameters: dict[str, Any] = {"saliency": True, "overlay": seed % 2 == 0, "deadline": 600 if seed % 3 else None}
        if method := methods[seed % len(methods)]:
            parameters["method"] = method
        asked = {"instances": [instance(seed, target=seed % tiny.CLASSES)], "parameters": parameters}
        (answered,) = server.post(EXPLAIN, asked).raise_for_status().json()["explanations"]
        assert isinstance(answered, dict)
        return answered

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(ask, seeds))
    for seed, answered in zip(seeds, answers, strict=True):
        same(answered, maps[seed])


def test_a_large_picture_is_overlaid_strip_by_strip(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    image = opened(picture(8, 150, 131))
    with_strips = {"instances": [{"b64": b64(picture(8, 150, 131))}]}
    (whole,) = server.post(EXPLAIN, with_strips).json()["explanations"]
    monkeypatch.setattr(rendering, "_STRIP", 150 * 9)
    (strips,) = server.post(EXPLAIN, with_strips).json()["explanations"]
    assert opened(base64.b64decode(strips["overlay"])).size == image.size
    assert strips["overlay"] == whole["overlay"]


def test_decomposes() -> None:
    sample = demo.samples()[0]
    asked = {"instances": [{"b64": b64(sample.image.read_bytes()), "target": "pit"}], "parameters": {"depth": 2}}
    with running([demo.BUNDLE]) as server:
        path = "/v1/models/surface:decompose"
        text = server.post(path, asked).raise_for_status().text
        hierarchy = Hierarchy.from_json(text)
        assert (hierarchy.label, hierarchy.settings["depth"]) == ("pit", 2)
        assert [level.name for level in hierarchy.levels] == ["decision", "stages.3", "stages.1"]
        page = server.post(path, asked, Accept="text/html")
        assert page.headers["content-type"].startswith("text/html")
        assert "pit, taken apart layer by layer" in page.text
        asked["parameters"] = {"unit": "stages.3:9999:0,0"}
        asked["instances"] = [{"b64": b64(sample.image.read_bytes())}]
        refused = server.post(path, asked)
        assert (refused.status_code, "stages.3" in refused.json()["error"]) == (422, True)
        facts = server.client.get("/v1/models/surface").json()
        assert facts["hierarchy"] is True
        assert facts["labels"] == ["good", "scratch", "pit", "crack", "stain"]


def test_a_model_without_stages_does_not_decompose(server: Running) -> None:
    refused = server.post("/v1/models/tiny:decompose", {"instances": [instance(0)]})
    assert refused.status_code == 422
    assert "stages" in refused.json()["error"]


def test_pictures_of_every_format(server: Running, reference: Explainer) -> None:
    image = opened(picture(9))
    for form in ("PNG", "BMP", "TIFF", "WEBP", "JPEG"):
        buffer = io.BytesIO()
        image.save(buffer, form, **({"lossless": True} if form == "WEBP" else {}))
        asked = {"instances": [{"b64": b64(buffer.getvalue())}]}
        (found,) = server.post(PREDICT, asked).raise_for_status().json()["predictions"]
        expected = reference.probabilities(Image.open(io.BytesIO(buffer.getvalue())))
        assert np.allclose(found["probabilities"], expected, atol=1e-6), form
