"""The quality benchmark reads what it says, computes what its formulas say, and its page shows what was recorded."""

from __future__ import annotations

import importlib
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import sightline
from sightline import demo, metrics
from sightline.metrics.evaluation import Contender
from sightline.runtime.cam import GradCAM

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "quality.md"
CRACK = next(sample.image for sample in demo.samples() if sample.label == "crack")


@pytest.fixture(autouse=True)
def _benchmarks_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def module(name: str) -> Any:
    return importlib.import_module(name)


@pytest.fixture
def neu_det() -> Path:
    path = Path(os.environ.get("SIGHTLINE_NEU_DET", ROOT.parent / "shared" / "data" / "neu-det"))
    if not path.is_dir():
        pytest.skip("NEU-DET is not here: set SIGHTLINE_NEU_DET")
    return path


def folder_with(tmp_path: Path, part: str, boxes: dict[str, list[tuple[str, list[int]]]]) -> Path:
    """A set of that form: black pictures named <class>_<number>.jpg."""
    facts = {}
    (tmp_path / part).mkdir()
    for name, found in boxes.items():
        Image.new("L", (20, 10)).save(tmp_path / part / name)
        facts[name] = {
            "class": name.rsplit("_", 1)[0],
            "boxes": [{"class": label, "xyxy": corners} for label, corners in found],
        }
    (tmp_path / f"{part}.json").write_text(json.dumps(facts))
    return tmp_path


def test_boxes_of_the_pictures_own_class_are_the_truth_far_edge_included(tmp_path: Path) -> None:
    data = folder_with(
        tmp_path,
        "eval",
        {"patches_1.jpg": [("patches", [2, 3, 4, 3]), ("patches", [4, 3, 5, 9]), ("scratches", [10, 0, 19, 9])]},
    )
    (picture,) = module("quality.neu_det").read(data, "eval")
    expected = np.zeros((10, 20), bool)
    expected[3, 2:5] = True
    expected[3:10, 4:6] = True
    assert picture.mask.tolist() == expected.tolist()
    assert module("quality.neu_det").LABELS[picture.label] == "patches"


def test_a_set_that_is_not_there_is_said_to_be_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SIGHTLINE_NEU_DET", raising=False)
    folder = module("quality.neu_det").folder
    with pytest.raises(SystemExit, match="SIGHTLINE_NEU_DET"):
        folder(None)
    with pytest.raises(SystemExit, match=r"lacks train, train\.json, eval, eval\.json"):
        folder(tmp_path)
    monkeypatch.setenv("SIGHTLINE_NEU_DET", str(tmp_path))
    with pytest.raises(SystemExit, match=re.escape(str(tmp_path))):
        folder(None)


def test_what_is_tuned_on_is_not_fitted_on(tmp_path: Path) -> None:
    names = [f"{label}_{number}.jpg" for label in ("crazing", "patches") for number in range(5)]
    data = folder_with(tmp_path, "train", {name: [(name.rsplit("_", 1)[0], [0, 0, 1, 1])] for name in names})
    neu = module("quality.neu_det")
    fitted, left = neu.held_out(neu.read(data, "train"), 2)
    assert sorted(picture.name for picture in left) == [names[3], names[4], names[8], names[9]]
    assert sorted(picture.name for picture in [*fitted, *left]) == names
    subject = module("quality.subjects").neu_det(data, demo.BUNDLE, None, part="train", last=2)
    assert {case.name for case in subject.cases} == {picture.name for picture in left}
    assert [case.annotation.label for case in subject.cases] == ["crazing", "patches"] * 2
    at = module("quality.subjects").at
    assert at(subject, "0:1,2:").cases == [subject.cases[0], *subject.cases[2:]]
    assert at(subject, ":").cases == subject.cases


def test_the_real_set_is_read_whole(neu_det: Path) -> None:
    neu = module("quality.neu_det")
    pictures = neu.read(neu_det, "eval")
    assert [sum(picture.label == label for picture in pictures) for label in range(6)] == [30] * 6
    cases = {case.name: case for case in module("quality.subjects").neu_det(neu_det, demo.BUNDLE, None).cases}
    for picture in pictures:
        assert picture.pixels.shape == (neu.SIZE, neu.SIZE)
        region = cases[picture.name].annotation.region((neu.SIZE, neu.SIZE), neu.LABELS[picture.label])
        assert region is not None
        assert (region[:199, :199] == picture.mask[:199, :199]).all(), picture.name


def test_the_network_is_the_one_described() -> None:
    torch = pytest.importorskip("torch")
    net = module("quality.network").build()
    shapes: list[tuple[int, ...]] = []
    for layer in (net.stem, *net.stages):
        layer.register_forward_hook(lambda _layer, _input, output: shapes.append(tuple(output.shape[1:])))
    with torch.inference_mode():
        assert net(torch.zeros(1, 1, 200, 200)).shape == (1, 6)
    assert shapes == [(32, 100, 100), (32, 50, 50), (64, 25, 25), (128, 13, 13), (256, 7, 7)]


def a_block(variants: Any, **fields: Any) -> Any:
    facts = {
        "maps": np.array([[[0.0, 2.0]], [[4.0, 0.0]]]),
        "low": np.zeros(2),
        "high": np.array([2.0, 4.0]),
        "sums": np.array([2.0, 2.0]),
        "alpha": np.array([3.0, 1.0]),
        "kept": np.array([0.5, 0.25]),
        "removed": np.array([0.3, 0.9]),
        "grad_cam": np.array([[0.0, 1.0]]),
        "layer_cam": np.array([[1.0, 0.0]]),
    }
    return variants.Block(**{**facts, **fields})


def test_weights_are_what_their_names_say() -> None:
    variants = module("quality.variants")
    block = a_block(variants)
    image = variants.Image((1, 4), 0.8, [block])
    found = {name: weights(image, block) for name, weights in variants.WEIGHTS.items()}
    expected = {
        "kept": [0.5, 0.25],
        "kept·gradient": [3.0, 1.0],
        "gradient": [6.0, 4.0],
        "removed": [0.5, 0.0],
        "removed·gradient": [3.0, 0.0],
        "kept + removed": [1.0, 0.15],
        "kept − removed": [0.2, 0.0],
        "kept, centred": [0.125, -0.125],
        "removed, centred": [0.25, -0.25],
        "removed·gradient, centred": [1.5, -1.5],
        "kept + removed, centred": [0.425, -0.425],
    }
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, atol=1e-12, err_msg=name)
    counts = {name: variants.passes(image, name) for name in ("kept", "removed, centred", "gradient", "kept + removed")}
    assert counts == {"kept": 2, "removed, centred": 2, "gradient": 0, "kept + removed": 4}


def test_fusions_are_what_their_names_say() -> None:
    variants = module("quality.variants")
    first, second = np.array([[0.0, 0.4, 1.0]]), np.array([[0.0, 1.0, 0.9]])
    t = variants.otsu(second)
    assert 0 < t <= 0.9
    np.testing.assert_allclose(variants.hard([first, second]), [[0, 1.4 / 1.9, 1]])
    np.testing.assert_allclose(variants.product([first, second]), [[0, 1.4 / 1.71, 1]])
    np.testing.assert_allclose(variants.total([first, second]), [[0, 1.4 / 1.9, 1]])
    gates = 1 / (1 + np.exp(-(second - t) / 0.1))
    np.testing.assert_allclose(variants.soft(0.1)([first, second]), variants.stretched((first + second) * gates))
    np.testing.assert_allclose(variants.soft(1e-4)([first, second]), variants.hard([first, second]), atol=1e-6)
    gap = np.array([[0.0, 0.1, 1.0]]), np.array([[0.0, 0.2, 1.0]])
    assert variants.hard(gap)[0, 1] == 0 < variants.with_remainder(gap)[0, 1]


def test_the_search_computes_what_the_product_does() -> None:
    search, variants = module("quality.search"), module("quality.variants")
    bundle = sightline.load(demo.BUNDLE)
    spec = bundle.input
    attribution = search.open_engine(bundle.attribution, shapes={spec.name: (1, *spec.shape)})
    attribute = search.AttributionPass(bundle, attribution)
    with sightline.Explainer(bundle) as explainer:
        pixels = search.prepare(CRACK, spec).array
        sise = explainer(CRACK)
        found = search._image(pixels, sise.target, explainer, attribute)
    assert variants.passes(found, "kept") == sise.passes
    ours = variants.map_of(found, "kept", "hard")
    # A pixel at a threshold may fall to either side of it: that of float32 or float64.
    assert np.mean(np.abs(ours - sise.saliency) > 1e-3) < 1e-3
    assert np.corrcoef(ours.ravel(), sise.saliency.ravel())[0, 1] > 0.999
    with sightline.Explainer(bundle, "remise") as explainer:
        remise = explainer(CRACK, sise.target).saliency
    np.testing.assert_allclose(variants.map_of(found, "removed·gradient", "soft 0.05"), remise, atol=1e-3)
    with sightline.Explainer(bundle, "grad-cam") as explainer:
        cam = explainer(CRACK, sise.target).saliency
    last = variants.stretched(variants.upsampled(found.blocks[-1].grad_cam, (spec.height, spec.width)))
    np.testing.assert_allclose(last, cam, atol=1e-3)
    # What a mask keeps and what it leaves are not the same question.
    assert any((block.kept != block.removed).any() for block in found.blocks)


def test_an_evaluation_goes_on_where_it_stopped_and_compares_with_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, subjects, baselines = module("quality.run"), module("quality.subjects"), module("quality.baselines")
    subject = subjects.surface(tmp_path / "drawn", 1, 2)
    chosen = [Contender("grad-cam", GradCAM()), Contender("centre blob", baselines.CentreBlob())]
    summary, agreement = run.evaluated(subject, chosen, tmp_path / "kept.jsonl")
    found = run.figures(subject, summary)
    assert found["grad-cam: passes"] == 0
    masks = [np.asarray(Image.open(case.annotation.mask)) > 0 for case in subject.cases]
    blob = baselines.CentreBlob().drawn(masks[0].shape)
    expected = 100 * np.mean([metrics.energy_pointing_game(blob, mask) for mask in masks])
    assert found["centre blob: ebpg"] == pytest.approx(expected, rel=1e-4)
    difference = found["centre blob: ebpg"] - found["grad-cam: ebpg"]
    assert found["centre blob minus grad-cam: ebpg"] == pytest.approx(difference)
    assert -1 <= agreement["centre blob"] < 1

    def no_more(*_: Any, **__: Any) -> None:
        raise AssertionError("a result that was kept is made again")

    monkeypatch.setattr(sightline, "Explainer", no_more)
    again, _ = run.evaluated(subject, chosen, tmp_path / "kept.jsonl")
    assert run.figures(subject, again) == found


def test_a_verdict_knows_which_way_is_better() -> None:
    verdict = module("quality.document").verdict
    assert verdict("ebpg", 0.1, 0.2) == verdict("deletion", -0.2, -0.1) == verdict("drop", -2, -1) == " better"
    assert verdict("ebpg", -0.2, -0.1) == verdict("deletion", 0.1, 0.2) == " worse"
    assert verdict("insertion", -0.1, 0.1) == ""


def test_a_table_replaces_the_one_at_its_mark_and_nothing_else() -> None:
    placed = module("quality.document").placed
    page = "a\n<!-- table one -->\nold\n<!-- end -->\nb\n<!-- table two -->\nkept\n<!-- end -->\n"
    assert placed(page, "one", ["x", "y"]) == page.replace("old", "x\ny")
    with pytest.raises(SystemExit, match="three"):
        placed(page, "three", [])


def test_the_page_shows_what_is_on_record() -> None:
    document = module("quality.document")
    page = PAGE.read_text(encoding="utf-8")
    records = sorted(RESULTS.glob("quality-*.json"))
    assert records, "nothing is on record"
    for path in records:
        record = json.loads(path.read_text(encoding="utf-8"))
        search = path.stem.startswith("quality-search-")
        tables = {path.stem: document.variants(record)} if search else document.tables(record)
        for name, lines in tables.items():
            assert document.placed(page, name, lines) == page, f"{name}: run benchmarks/quality/document.py"
