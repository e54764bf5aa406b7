"""sightline evaluate: the numbers, the files, resumption after a kill, images that cannot be used."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import sightline
from sightline import metrics
from sightline.cli import contenders, main
from sightline.cli.evaluate import _images
from sightline.errors import MethodError
from sightline.metrics import Annotation, Box
from sightline.metrics.evaluation import Case
from sightline.runtime.explainer import Explainer
from sightline.runtime.image import prepare
from sightline.runtime.method import Method

SIZES = ((32, 32), (60, 40), (20, 50), (33, 31))
METHODS = "sise,rise:passes=20,grad-cam"
BOX = (4, 5, 15, 17)
KILLED = """
import os, signal, sys
from sightline.cli import main
from sightline.metrics.store import Results

keep = Results.add
count = 0

def add(self, key, result):
    global count
    count += 1
    if count > int(sys.argv[1]):
        self._file.seek(0, 2)
        self._file.write(b'{"key": "' + key.encode())  # a line that the kill tears
        self._file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    keep(self, key, result)

Results.add = add
main(sys.argv[2:])
"""


@pytest.fixture
def parts(folder: Path) -> Path:
    """Four pictures of different sizes, and their boxes, in ``boxes.json``."""
    random = np.random.default_rng(2)
    images = folder / "parts"
    images.mkdir()
    known = {}
    for number, size in enumerate(SIZES):
        name = f"part-{number}.png"
        Image.fromarray(random.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)).save(images / name)
        boxes = [{"class": "scratch", "xyxy": list(BOX)}, {"class": "good", "xyxy": [0, 0, 1, 1]}]
        known[name] = {"class": "scratch", "boxes": boxes}
    (folder / "boxes.json").write_text(json.dumps(known))
    return images


@pytest.fixture
def evaluate(bundle: Path, parts: Path) -> Callable[..., int]:
    def run(*options: str, images: str = "parts", annotated: bool = True) -> int:
        known = ["--annotations", "boxes.json"] if annotated else []
        return main(["evaluate", str(bundle), images, *known, "--methods", METHODS, *options])

    return run


@pytest.fixture
def explained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Every image that is explained, with the method."""
    calls: list[tuple[str, str]] = []
    original = Explainer.__call__

    def recorded(self: Explainer, image: Any, *arguments: Any, **options: Any) -> Any:
        calls.append((self.method.name, Path(image).name))
        return original(self, image, *arguments, **options)

    monkeypatch.setattr(Explainer, "__call__", recorded)
    return calls


def lines(path: str = "evaluation.results.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def values(path: str = "all.json") -> list[Any]:
    """What a run found, without times."""
    found = json.loads(Path(path).read_text())
    for method in found["methods"]:
        for result in (method, *method["results"]):
            del result["seconds"]
    return [found["methods"], found["failures"], found["images"]]


def test_the_numbers_are_those_of_the_library(evaluate: Callable[..., int], bundle: Path) -> None:
    assert evaluate("--json", "all.json") == 0
    found = json.loads(Path("all.json").read_text())
    assert [method["label"] for method in found["methods"]] == METHODS.split(",")
    assert list(found["metrics"]) == list(metrics.METRICS)
    given: tuple[Method, ...] = (sightline.SISE(), sightline.RISE(passes=20), sightline.GradCAM())
    for method, asked in zip(found["methods"], given, strict=True):
        expected: dict[str, list[float]] = {name: [] for name in metrics.METRICS}
        with sightline.Explainer(bundle, asked, batch_size=7) as explainer:
            for number, size in enumerate(SIZES):
                path = f"parts/part-{number}.png"
                explanation = explainer(path, "scratch")
                # By hand: the box in pixels, the far edge included, onto the grid as the image goes.
                mask = np.zeros(size[::-1], np.bool_)
                mask[BOX[1] : BOX[3] + 1, BOX[0] : BOX[2] + 1] = True
                region = metrics.region_on_grid(mask, (32, 32))
                subject = metrics.Subject(prepare(path, explainer.bundle.input).array, explanation.saliency, 1)
                (faithful,) = metrics.faithfulness([subject], explainer.classify)
                for name, value in (
                    ("ebpg", metrics.energy_pointing_game(explanation.saliency, region)),
                    ("miou", metrics.intersection_over_union(explanation.saliency, region)),
                    ("bbox", metrics.bounding_box_score(explanation.saliency, region)),
                    ("drop", faithful.drop),
                    ("increase", faithful.increase),
                    ("deletion", faithful.deletion),
                    ("insertion", faithful.insertion),
                ):
                    assert value is not None
                    expected[name].append(value)
        for name, column in expected.items():
            found_column = [result["values"][name] for result in method["results"]]
            assert found_column == pytest.approx(column, abs=1e-5), (asked, name)
            estimate = metrics.bootstrap(column)
            assert method["metrics"][name]["mean"] == pytest.approx(estimate.mean, abs=1e-5)
            assert method["metrics"][name]["low"] == pytest.approx(estimate.low, abs=1e-5)
            assert method["metrics"][name]["count"] == 4
        assert len(method["curves"]["deletion"]) == 51
    first, second, _ = found["methods"]
    assert first["minus_first"] == {}
    differences = [
        b["values"]["ebpg"] - a["values"]["ebpg"] for a, b in zip(first["results"], second["results"], strict=True)
    ]
    paired = metrics.bootstrap(differences)
    assert second["minus_first"]["ebpg"] == pytest.approx(
        {"mean": paired.mean, "low": paired.low, "high": paired.high, "count": 4}
    )
    assert second["passes"] == 20


def test_the_table_and_the_csv_say_what_the_json_says(
    evaluate: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate("--json", "all.json", "--csv", "table.csv", "-o", "page.html") == 0
    said = capsys.readouterr().out
    found = json.loads(Path("all.json").read_text())
    rows = list(csv.DictReader(Path("table.csv").read_text().splitlines()))
    assert [row["label"] for row in rows] == METHODS.split(",")
    for row, method in zip(rows, found["methods"], strict=True):
        for name, metric in metrics.METRICS.items():
            estimate = method["metrics"][name]
            assert float(row[name]) == estimate["mean"]
            assert float(row[f"{name}_high"]) == estimate["high"]
            digits, factor = (1, 100) if metric.percent else (3, 1)
            cell = f"{factor * estimate['mean']:.{digits}f} [{factor * estimate['low']:.{digits}f}, "
            assert re.search(rf"^{re.escape(method['label'])} .*{re.escape(cell)}", said, re.MULTILINE)
        if method is not found["methods"][0]:
            assert float(row["ebpg_minus_first_low"]) == method["minus_first"]["ebpg"]["low"]
    assert rows[0]["ebpg_minus_first"] == ""
    assert "4 images; 4 with a true region" in said
    assert Path("page.html").is_file()
    assert len(lines("page.results.jsonl")) == 12


@pytest.mark.parametrize("whole", [0, 1, 6])
def test_a_killed_run_goes_on_where_it_stopped(
    whole: int, evaluate: Callable[..., int], bundle: Path, explained: list[tuple[str, str]]
) -> None:
    assert evaluate("--json", "straight.json", "-o", "straight.html") == 0
    explained.clear()
    words = ["evaluate", str(bundle), "parts", "--annotations", "boxes.json", "--methods", METHODS]
    killed = subprocess.run([sys.executable, "-c", KILLED, str(whole), *words], capture_output=True, env=os.environ)
    assert killed.returncode == -signal.SIGKILL
    torn = Path("evaluation.results.jsonl").read_bytes()
    assert not torn.endswith(b"\n")
    assert torn.count(b"\n") == whole
    assert evaluate("--json", "all.json") == 0
    assert Path("evaluation.results.jsonl").read_bytes().startswith(torn[: torn.rindex(b"\n") + 1 if whole else 0])
    order = [(name, f"part-{number}.png") for name in ("sise", "rise", "grad-cam") for number in range(4)]
    assert explained == order[whole:]
    keys = [line["key"] for line in lines()]
    assert len(keys) == len(set(keys)) == 12
    assert values("all.json") == values("straight.json")


def test_what_did_not_change_is_not_made_again(
    evaluate: Callable[..., int], parts: Path, explained: list[tuple[str, str]]
) -> None:
    assert evaluate() == 0
    explained.clear()
    assert evaluate("--json", "all.json", "--csv", "table.csv", "--resume") == 0
    assert explained == []
    # A picture and the truth about another one change.
    Image.new("RGB", (32, 32), "red").save(parts / "part-0.png")
    known = json.loads(Path("boxes.json").read_text())
    known["part-1.png"]["boxes"][0]["xyxy"] = [0, 0, 3, 3]
    Path("boxes.json").write_text(json.dumps(known))
    assert evaluate() == 0
    assert {name for _, name in explained} == {"part-0.png", "part-1.png"}
    assert len(explained) == 6
    for options in (("--steps", "60"), ("--metrics", "ebpg"), ("--target", "predicted"), ("--restart",)):
        explained.clear()
        assert evaluate(*options) == 0
        assert len(explained) == 12, options
    explained.clear()
    assert evaluate("--methods", "sise:mu=0.3,sise,sise:max_passes=3") == 0
    assert [name for name, _ in explained] == ["sise"] * 8


def test_a_larger_gallery_makes_the_maps_it_lacks(
    evaluate: Callable[..., int], explained: list[tuple[str, str]]
) -> None:
    assert evaluate("--gallery", "1") == 0
    assert Path("evaluation.html").read_text().count("<article") == 1
    explained.clear()
    assert evaluate("--gallery", "3") == 0
    assert Path("evaluation.html").read_text().count("<article") == 3
    assert len(explained) == 6  # one of the three has its maps
    assert evaluate("--gallery", "0") == 0
    assert Path("evaluation.html").read_text().count("<article") == 0


def test_two_copies_of_an_image_are_two_images(evaluate: Callable[..., int], parts: Path) -> None:
    shutil.copy(parts / "part-0.png", parts / "part-9.png")
    assert evaluate("--json", "all.json", annotated=False) == 0
    found = json.loads(Path("all.json").read_text())
    results = found["methods"][0]["results"]
    assert [result["image"] for result in results] == [*(f"part-{i}.png" for i in range(4)), "part-9.png"]
    assert results[0]["values"] == results[4]["values"]


def test_bad_images_are_named_and_left_out(
    evaluate: Callable[..., int], parts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (parts / "part-5.png").write_text("no picture")
    known = json.loads(Path("boxes.json").read_text())
    known["part-3.png"]["boxes"][0]["xyxy"] = [500, 500, 600, 600]
    Path("boxes.json").write_text(json.dumps(known))
    assert evaluate("--json", "all.json") == 1
    said = capsys.readouterr()
    assert len(said.err.splitlines()) == 2, "each once, not once per method"
    assert "part-5.png is no image" in said.err
    assert "part-3.png" in said.err
    assert "33×31" in said.err
    assert "3 images, 2 left out" in said.out
    found = json.loads(Path("all.json").read_text())
    assert sorted(found["failures"]) == ["part-3.png", "part-5.png"]
    assert all(len(method["results"]) == 3 for method in found["methods"])
    assert "part-5.png is no image" in Path("evaluation.html").read_text()


def test_nothing_left_is_an_error(
    evaluate: Callable[..., int], parts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for image in parts.iterdir():
        image.write_text("no picture")
    assert evaluate() == 1
    assert "not one of 4 images could be evaluated" in capsys.readouterr().err
    assert not Path("evaluation.html").exists()
    for image in parts.iterdir():
        image.unlink()
    assert evaluate() == 1
    assert "holds no pictures" in capsys.readouterr().err


def test_without_the_truth(evaluate: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate("--json", "all.json", annotated=False) == 0
    assert "EBPG" not in capsys.readouterr().out
    found = json.loads(Path("all.json").read_text())
    assert list(found["metrics"]) == ["drop", "increase", "deletion", "insertion"]
    with pytest.raises(SystemExit, match="2"):
        evaluate("--metrics", "ebpg", annotated=False)
    assert "ebpg needs the truth" in capsys.readouterr().err


def test_the_class_explained(evaluate: Callable[..., int], bundle: Path) -> None:
    explainer = sightline.Explainer(bundle, "grad-cam")
    predicted = [explainer(f"parts/part-{number}.png").label for number in range(4)]
    (other,) = {"good", "scratch"} - {predicted[0]}
    known = json.loads(Path("boxes.json").read_text())
    for entry in known.values():
        entry["class"] = other
    known["part-0.png"]["boxes"] = [{"class": other, "xyxy": BOX}]
    Path("boxes.json").write_text(json.dumps(known))

    def results(*options: str) -> list[dict[str, Any]]:
        assert evaluate("--metrics", "ebpg", "--methods", "grad-cam", "--json", "all.json", *options) == 0
        found: list[dict[str, Any]] = json.loads(Path("all.json").read_text())["methods"][0]["results"]
        return found

    assert [result["label"] for result in results()] == [other] * 4
    assert all(result["values"]["ebpg"] is not None for result in results())
    found = results("--target", "predicted")
    assert [result["label"] for result in found] == predicted
    # The region is that of the class explained: none where no box is of it.
    assert [result["values"]["ebpg"] is None for result in found] == [
        label not in {box["class"] for box in known[f"part-{number}.png"]["boxes"]}
        for number, label in enumerate(predicted)
    ]
    assert found[0]["values"]["ebpg"] is None
    assert json.loads(Path("all.json").read_text())["located"] == sum(r["values"]["ebpg"] is not None for r in found)


def test_classes_by_number(evaluate: Callable[..., int], bundle: Path) -> None:
    options = ("--methods", "grad-cam", "--metrics", "ebpg")
    assert evaluate(*options, "--json", "names.json") == 0
    text = Path("boxes.json").read_text()
    Path("boxes.json").write_text(text.replace('"scratch"', "1").replace('"good"', "0"))
    assert evaluate(*options, "--json", "numbers.json") == 0
    assert values("numbers.json") == values("names.json")
    # So they are where the network has no labels; what names mean cannot be told there, and any of them counts.
    known = sightline.load(bundle)
    nameless = replace(known, manifest=replace(known.manifest, labels=None))
    boxes = (Box(0, 0, 1, 1, "1"), Box(4, 0, 6, 1, "2"), Box(8, 0, 12, 1, "rust"))
    region = Case(Path("a.png"), "a", Annotation(boxes=boxes)).region(nameless, (32, 32), 1)
    assert region is not None
    assert region.sum() == 1 + 4


def test_only_pictures_of_a_folder(parts: Path) -> None:
    for name in ("report.pdf", "._part-0.png", "line.mpg", "notes.txt"):
        (parts / name).write_bytes(b"x")
    assert [path.name for path in _images([parts])] == [f"part-{number}.png" for number in range(4)]


def test_masks(evaluate: Callable[..., int], bundle: Path, parts: Path) -> None:
    Path("masks").mkdir()
    for number, size in enumerate(SIZES):
        mask = np.zeros(size[::-1], np.uint8)
        mask[BOX[1] : BOX[3] + 1, BOX[0] : BOX[2] + 1] = 255
        Image.fromarray(mask).save(f"masks/part-{number}.png")
    options = ["--methods", "sise", "--metrics", "ebpg,bbox", "--target", "predicted"]
    assert main(["evaluate", str(bundle), "parts", "--annotations", "masks", *options, "--json", "masks.json"]) == 0
    known = {f"part-{number}.png": {"boxes": [{"xyxy": BOX}]} for number in range(4)}
    Path("boxes.json").write_text(json.dumps(known))
    assert evaluate(*options, "--json", "boxes-of-any-class.json") == 0
    assert values("masks.json") == values("boxes-of-any-class.json")


def test_a_limit_takes_the_same_images_and_a_larger_one_more(evaluate: Callable[..., int]) -> None:
    def taken(*options: str) -> set[str]:
        assert evaluate("--metrics", "ebpg", "--methods", "grad-cam", "--json", "all.json", *options) == 0
        return {result["image"] for result in json.loads(Path("all.json").read_text())["methods"][0]["results"]}

    assert taken("--limit", "2") == taken("--limit", "2")
    assert taken("--limit", "2") < taken("--limit", "3")
    assert len(taken("--limit", "9")) == 4
    assert len({frozenset(taken("--limit", "1", "--seed", str(seed))) for seed in range(8)}) > 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"other.png": {"class": "scratch"}}, "knows none of the 4 images"),
        ({"part-0.png": {"class": "rust"}}, "no class labelled 'rust'"),
        ("no json", "is no JSON"),
    ],
)
def test_annotations_that_do_not_fit(
    change: object, said: str, evaluate: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("boxes.json").write_text(change if isinstance(change, str) else json.dumps(change))
    assert evaluate() == 1
    message = capsys.readouterr().err
    assert said in message
    assert message.count("\n") == 1
    assert "boxes.json" in message


def test_a_place_that_does_not_exist_is_found_before_the_work(
    evaluate: Callable[..., int], capsys: pytest.CaptureFixture[str], explained: list[tuple[str, str]]
) -> None:
    for option in ("--csv", "--json", "-o"):
        assert evaluate(option, "nowhere/file") == 1
        assert "no folder nowhere" in capsys.readouterr().err
        for given in ("parts", ""):
            assert evaluate(option, given) == 1
            assert "is a folder" in capsys.readouterr().err
    assert explained == []


@pytest.mark.parametrize(
    "options",
    [
        ["--metrics", "roar"],
        ["--metrics", ","],
        ["--steps", "49"],
        ["--gallery", "-1"],
        ["--seed", "-1"],
        ["--resume", "--restart"],
    ],
)
def test_a_wrong_command_line(options: list[str], evaluate: Callable[..., int]) -> None:
    with pytest.raises(SystemExit, match="2"):
        evaluate(*options)


def test_methods_with_parameters() -> None:
    found = contenders.parse("sise, rise:passes=1000:share=0.25, sise:mu=0.3:max_passes=40,score-cam")
    assert [contender.label for contender in found] == [
        "sise",
        "rise:passes=1000:share=0.25",
        "sise:mu=0.3:max_passes=40",
        "score-cam",
    ]
    assert [contender.method for contender in found[:3]] == [
        sightline.SISE(),
        sightline.RISE(passes=1000, share=0.25),
        sightline.SISE(mu=0.3),
    ]
    assert [contender.max_passes for contender in found] == [None, None, 40, None]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lime", "no method 'lime'"),
        ("sise:nu=3", "'nu=3' is no parameter of sise: choose of mu=…"),
        ("sise:mu", "'mu' is no parameter"),
        ("sise:mu=high", "'mu=high' needs a number"),
        ("sise:mu=1.5", "mu=1.5 is out of range"),
        ("rise:passes=1.5", "needs a number"),
        ("sise:max_passes=0", "max_passes=0 is out of range"),
        ("rise:passes=3000000000", "passes=3000000000 is out of range"),
        ("sise:mu=0.1:mu=0.2", "twice"),
        ("sise,sise", "twice"),
        (" ,", "no method was named"),
    ],
)
def test_methods_that_do_not_exist(text: str, said: str) -> None:
    with pytest.raises(MethodError, match=re.escape(said)):
        contenders.parse(text)
