"""What an explanation shows and writes."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sightline import Explanation
from sightline.errors import SaveError
from sightline.runtime import rendering


@pytest.fixture
def explanation() -> Explanation:
    """A bright spot in the middle of an image that is larger than the network's input."""
    y, x = np.mgrid[-1:1:24j, -1:1:32j]
    saliency = np.exp(-8 * (y**2 + x**2)).astype(np.float32)
    saliency = (saliency - saliency.min()) / np.ptp(saliency)
    return Explanation(
        saliency=saliency,
        target=3,
        label="crack",
        score=0.987,
        method="sise",
        parameters={"mu": 0.0},
        layer_maps={"layer/1": saliency, "layer/2": saliency[::-1]},
        passes=42,
        completeness=1.0,
        timings={"passes": 0.5, "total": 0.6},
        bundle_hash="abc",
        engine="onnxruntime-cpu",
        precision="fp32",
        picture=Image.new("RGB", (96, 60), (90, 100, 110)),
    )


def test_saliency_at_the_size_of_the_image(explanation: Explanation) -> None:
    full = explanation.image_saliency
    assert full.shape == (60, 96)
    assert full.dtype == np.float32
    assert 0 <= full.min() <= full.max() <= 1
    assert full[30, 48] > 0.95
    assert np.asarray(explanation).tolist() == explanation.saliency.tolist()


def test_overlay_marks_the_spot_and_leaves_the_rest(explanation: Explanation) -> None:
    overlay = np.asarray(explanation.overlay(), np.int64)
    assert overlay.shape == (60, 96, 3)
    assert overlay[0, 0].tolist() == [90, 100, 110]
    assert abs(overlay[30, 48] - (90, 100, 110)).max() > 80


def test_a_png_holds_the_overlay_over_a_caption(explanation: Explanation, tmp_path: Path) -> None:
    explanation.save(tmp_path / "a.png")
    saved = np.asarray(Image.open(tmp_path / "a.png"))
    overlay = np.asarray(explanation.overlay())
    factor = saved.shape[1] // 96
    assert saved.shape[1] >= 320  # a small image is enlarged, so that its caption can be read
    np.testing.assert_array_equal(saved[: 60 * factor : factor, ::factor], overlay)
    caption = saved[60 * factor :]
    assert (caption < 100).any()
    replace(explanation, label="stain").save(tmp_path / "b.png")
    assert (np.asarray(Image.open(tmp_path / "b.png"))[60 * factor :] != caption).any()


@pytest.mark.parametrize("size", [(1, 65_000), (16, 20_000), (2, 3)])
def test_a_narrow_picture_stands_beside_paper(size: tuple[int, int]) -> None:
    """Enlarged until it is as wide as a caption, the first one would have 6.6 milliards of pixels."""
    caption = rendering.captioned(Image.new("RGB", size), "crack", "note")
    assert caption.width >= 320
    assert caption.height < size[1] * 320
    assert (np.asarray(caption)[: min(size[1], 40), 160] == 0).all()  # the picture itself is in the middle


def test_an_overlay_is_the_same_strip_by_strip(explanation: Explanation, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = np.asarray(explanation.overlay())
    monkeypatch.setattr(rendering, "_STRIP", 96 * 7)
    np.testing.assert_array_equal(np.asarray(explanation.overlay()), whole)


def test_a_name_as_long_as_names_can_be(explanation: Explanation, tmp_path: Path) -> None:
    name = "p" * 250 + ".json"
    explanation.save(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    for wrong in (tmp_path / name / "x.json", tmp_path / ("p" * 260 + ".json")):
        with pytest.raises(SaveError, match="could not be written"):
            explanation.save(wrong)


def test_a_long_label_is_shortened() -> None:
    title = "a label that goes on and on " * 10
    caption = rendering.captioned(Image.new("RGB", (400, 20)), title, "note")
    assert caption.width == 400
    assert (np.asarray(caption)[20:, -4:] == 255).all()


def test_npz(explanation: Explanation, tmp_path: Path) -> None:
    explanation.save(tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as saved:
        np.testing.assert_array_equal(saved["saliency"], explanation.saliency)
        np.testing.assert_array_equal(saved["image_saliency"], explanation.image_saliency)
        np.testing.assert_array_equal(saved["layer_maps/layer/2"], explanation.layer_maps["layer/2"])
        assert json.loads(str(saved["metadata"]))["label"] == "crack"


def test_json(explanation: Explanation, tmp_path: Path) -> None:
    explanation.save(tmp_path / "a.json")

    def refuse(constant: str) -> Any:
        raise AssertionError(constant)

    document = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"), parse_constant=refuse)
    assert (document["target"], document["label"], document["score"]) == (3, "crack", 0.987)
    assert document["image"] == {"width": 96, "height": 60}
    [region] = document["regions"]
    x0, y0, x1, y1 = region["box"]
    assert x0 < 48 < x1
    assert y0 < 30 < y1
    assert 0 < region["mass"] <= 1


def test_json_never_holds_nan(explanation: Explanation, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        replace(explanation, score=float("nan")).save(tmp_path / "a.json")
    assert list(tmp_path.iterdir()) == []


def test_a_map_of_zeros_has_no_regions(explanation: Explanation) -> None:
    assert replace(explanation, saliency=np.zeros((24, 32), np.float32)).regions() == []


@pytest.mark.parametrize("name", ["a.jpg", "a", "a.png.gz"])
def test_an_unknown_suffix_is_an_error(explanation: Explanation, tmp_path: Path, name: str) -> None:
    with pytest.raises(SaveError, match=rf"{name}.*\.png, \.npz, \.json"):
        explanation.save(tmp_path / name)


def test_a_failed_save_leaves_what_was_there(
    explanation: Explanation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    path.write_text("before")

    def full(file: Path, content: bytes) -> int:
        file.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(SaveError, match=r"a\.json.*No space left"):
        explanation.save(path)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_is_an_error(explanation: Explanation, tmp_path: Path) -> None:
    with pytest.raises(SaveError, match="No such file"):
        explanation.save(tmp_path / "missing" / "a.png")


def test_the_content_of_a_file_without_the_file(explanation: Explanation, tmp_path: Path) -> None:
    explanation.save(tmp_path / "a.png")
    assert explanation.encoded(".PNG") == (tmp_path / "a.png").read_bytes()
    with np.load(io.BytesIO(explanation.encoded(".npz"))) as found:
        np.testing.assert_array_equal(found["saliency"], explanation.saliency)
    assert json.loads(explanation.encoded(".json")) == json.loads(json.dumps(explanation.facts()))
    with pytest.raises(SaveError, match=r"'\.bmp' does not say how"):
        explanation.encoded(".bmp")
