"""Rows and the file of a shard: what goes in comes out, and the bytes are always the same."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import sightline
from sightline import demo
from sightline.dataset import rows
from sightline.dataset.recipe import Maps
from sightline.dataset.rows import Failure
from sightline.errors import DatasetError

KEYS = [("a/x.png", "0" * 64), ("ä.png", "1" * 64), ("z.png", "")]


@pytest.fixture(scope="module")
def explanation() -> sightline.Explanation:
    picture = Image.open(demo.samples()[0].image).resize((300, 180))
    with sightline.Explainer(demo.BUNDLE, "grad-cam", "onnxruntime-cpu", 1, threads=1) as explainer:
        return explainer(picture)


@pytest.mark.parametrize(("maps", "error"), [("uint8", 0.5 / 255), ("float16", 2**-12)])
def test_maps_come_back_as_exact_as_they_are_kept(maps: Maps, error: float) -> None:
    saliency = np.random.default_rng(0).random((7, 11), np.float32)
    saliency[0, :2] = 0, 1
    content = rows.packed(saliency, maps)
    assert len(content) == saliency.size * (1 if maps == "uint8" else 2)
    back = rows.unpacked(content, saliency.shape, maps)
    assert back.dtype == np.float32
    assert abs(back - saliency).max() <= error
    assert abs(back - saliency).max() > error / 10
    assert back[0, :2].tolist() == [0, 1]


def test_a_row_holds_what_the_explanation_holds(explanation: sightline.Explanation, tmp_path: Path) -> None:
    row = rows.row(KEYS[0], explanation, "float16", [0.25, 0.75])
    failure = Failure(*KEYS[2], "it is damaged")
    (tmp_path / "part.parquet").write_bytes(rows.parquet(KEYS, [row], [failure]))
    (back,) = rows.rows_of(tmp_path / "part.parquet", KEYS)[KEYS[0]]
    assert back == row
    facts = explanation.facts()
    assert {
        name: back[name] for name in ("target", "label", "score", "method", "passes", "completeness", "engine")
    } == {name: facts[name] for name in ("target", "label", "score", "method", "passes", "completeness", "engine")}
    assert (back["width"], back["height"]) == (300, 180)
    assert json.loads(back["parameters"]) == facts["parameters"]
    assert back["bundle"] == sightline.load(demo.BUNDLE).hash
    assert [[region[name] for name in ("x0", "y0", "x1", "y1")] for region in back["regions"]] == [
        list(region["box"]) for region in facts["regions"]
    ]
    assert [region["mass"] for region in back["regions"]] == [region["mass"] for region in facts["regions"]]
    assert back["regions"]
    map = rows.unpacked(back["map"], back["map_shape"], back["map_dtype"])
    np.testing.assert_allclose(map, explanation.saliency, atol=2**-12)
    contents = rows.contents(tmp_path / "part.parquet")
    assert contents.images == KEYS
    assert contents.failures == [failure]
    assert rows.failed_in(contents, KEYS) == {KEYS[2]: "it is damaged"}
    assert rows.failed_in(contents, KEYS[:2]) == {}


def test_the_same_rows_make_the_same_bytes(explanation: sightline.Explanation) -> None:
    row = rows.row(KEYS[0], explanation, "uint8")
    backwards = dict(reversed(row.items()))
    assert rows.parquet(KEYS, [row], []) == rows.parquet(KEYS, [backwards], [])
    assert rows.parquet(KEYS, [row], []) != rows.parquet(KEYS, [row | {"score": 0.5}], [])


def test_without_maps_and_without_rows(explanation: sightline.Explanation, tmp_path: Path) -> None:
    row = rows.row(KEYS[0], explanation, "none")
    (tmp_path / "part.parquet").write_bytes(rows.parquet(KEYS, [row], []))
    (back,) = rows.rows_of(tmp_path / "part.parquet", KEYS)[KEYS[0]]
    assert (back["map"], back["map_shape"], back["map_dtype"]) == (None, None, None)
    (tmp_path / "part.parquet").write_bytes(rows.parquet(KEYS, [], [Failure(*key, "no") for key in KEYS]))
    assert rows.rows_of(tmp_path / "part.parquet", KEYS) == {}
    assert len(rows.contents(tmp_path / "part.parquet").failures) == 3


def test_a_damaged_file_is_named(explanation: sightline.Explanation, tmp_path: Path) -> None:
    path = tmp_path / "part.parquet"
    whole = rows.parquet(KEYS, [rows.row(KEYS[0], explanation, "uint8")], [])
    for content in (b"", b"PAR1", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(DatasetError, match=r"part\.parquet"):
            rows.contents(path)
        with pytest.raises(DatasetError, match=r"part\.parquet"):
            rows.rows_of(path, KEYS)
