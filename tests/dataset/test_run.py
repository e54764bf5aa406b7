"""A set from the list of its images to its failures: what is done again, what is not, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

import sightline
from sightline import cache, dataset, demo
from sightline.dataset import recipe, run
from sightline.dataset.watcher import Watcher
from sightline.errors import DatasetError, MethodError, SaveError, TargetError
from tests.dataset.conftest import Explain, draw, written

pytestmark = pytest.mark.usefixtures("at_once")


class Told(Watcher):
    """Everything that a run tells."""

    def __init__(self) -> None:
        self.lists: list[tuple[int, int]] = []
        self.begins: list[tuple[int, int, int]] = []
        self.images: list[dataset.Failure | None] = []

    def listed(self, done: int, total: int) -> None:
        self.lists.append((done, total))

    def began(self, done: int, total: int, workers: int) -> None:
        self.begins.append((done, total, workers))

    def image(self, failure: dataset.Failure | None) -> None:
        self.images.append(failure)


def test_the_whole_of_a_set(explain: Explain, pictures: Path, tmp_path: Path) -> None:
    told = Told()
    outcome = explain(watcher=told)
    assert (outcome.images, outcome.explained, outcome.changed) == (11, 11, True)
    assert [failure.path for failure in outcome.failures] == ["line-0/part-5-torn.png", "line-1/part-6-empty.jpg"]
    assert told.begins == [(0, 11, 1)]
    assert told.lists[-1] == (11, 11)
    assert [failure for failure in told.images if failure] == list(outcome.failures)
    assert len(told.images) == 11
    parts = [f"part-0000{number}.parquet" for number in range(3)]
    assert list(written(tmp_path / "out")) == ["failures.json", *parts, "run.json"]
    failures = json.loads((tmp_path / "out" / "failures.json").read_text())["failures"]
    assert [one["path"] for one in failures] == [one.path for one in outcome.failures]
    assert all(set(one) == {"path", "sha256", "reason"} for one in failures)

    found = dataset.read(tmp_path / "out")
    assert found.complete
    assert len(found) == 9
    assert found.failures == list(outcome.failures)
    assert found.settings["method"] == "grad-cam"
    assert set(found.versions) == {"sightline", "numpy", "pillow", "pyarrow", "onnxruntime-cpu"}
    with sightline.Explainer(demo.BUNDLE, "grad-cam", "onnxruntime-cpu", 16, threads=1) as explainer:
        for row in found:
            explanation = explainer(pictures / row.path)
            assert (row.target, row.label) == (explanation.target, explanation.label)
            assert row.score == pytest.approx(explanation.score)
            assert row.regions == explanation.regions()
            assert row.size == (40, 32)
            assert row.saliency is not None
            assert abs(row.saliency - explanation.saliency).max() <= 0.5 / 255 + 1e-6
    table = found.table()
    assert "map" not in table.column_names
    assert table["path"].to_pylist() == sorted(row.path for row in found)
    assert found.table(["score", "path"]).column_names == ["score", "path"]
    with pytest.raises(DatasetError, match="no column 'saliency'"):
        found.table(["saliency"])


def test_a_second_run_does_nothing(explain: Explain, tmp_path: Path) -> None:
    explain()
    (tmp_path / "out" / "summary.html").write_text("a page")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    (tmp_path / "out" / ".summary.html.abc.part").write_text("half a p")  # of a run that was killed at its very end
    told = Told()
    outcome = explain(watcher=told)
    assert not (tmp_path / "out" / ".summary.html.abc.part").exists()
    assert (outcome.images, outcome.explained, outcome.changed) == (11, 0, False)
    assert len(outcome.failures) == 2
    assert told.begins == []
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir() if path.name != ".work"}
    assert after == {path: time for path, time in before.items() if path.name != ".work"}


def test_an_interrupted_run_goes_on_where_it_stopped(explain: Explain, tmp_path: Path) -> None:
    explain("straight")

    class Interrupting(Told):
        def image(self, failure: dataset.Failure | None) -> None:
            super().image(failure)
            if len(self.images) == 6:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        explain(watcher=Interrupting())
    assert not dataset.read(tmp_path / "out").complete
    assert len(dataset.read(tmp_path / "out")) == 3  # of a shard of four one cannot be read
    (tmp_path / "out" / ".part-00001.parquet.abc.part").write_bytes(b"torn")
    told = Told()
    outcome = explain(watcher=told)
    assert told.begins == [(4, 11, 1)]
    assert outcome.explained == 5
    assert written(tmp_path / "out") == written(tmp_path / "straight")


@pytest.mark.parametrize("change", ["changed", "added", "removed", "repaired"])
def test_what_changes_is_done_again_and_nothing_else(
    change: str, explain: Explain, pictures: Path, tmp_path: Path
) -> None:
    explain()
    (tmp_path / "out" / "summary.html").write_text("of the old set")
    if change == "changed":
        draw(pictures / "line-0" / "part-4.png", 40)
    elif change == "added":
        draw(pictures / "line-0" / "a-new-one.png", 40)  # every later shard is cut elsewhere
    elif change == "removed":
        (pictures / "line-0" / "part-0.png").unlink()
    else:
        draw(pictures / "line-1" / "part-6-empty.jpg", 40)
    told = Told()
    outcome = explain(watcher=told)
    assert outcome.changed
    assert outcome.explained == (0 if change == "removed" else 1)
    assert len(outcome.failures) == (1 if change == "repaired" else 2)
    assert not (tmp_path / "out" / "summary.html").exists()
    explain("straight")
    assert written(tmp_path / "out") == written(tmp_path / "straight")
    assert not explain().changed


def test_a_run_killed_while_it_takes_rows_over_loses_none(explain: Explain, pictures: Path, tmp_path: Path) -> None:
    explain()
    draw(pictures / "line-0" / "a-new-one.png", 40)

    class Killed(Watcher):
        def began(self, done: int, total: int, workers: int) -> None:
            raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            explain(watcher=Killed())
    assert explain().explained == 1
    explain("straight")
    assert written(tmp_path / "out") == written(tmp_path / "straight")


def test_a_limit_is_a_beginning(explain: Explain, tmp_path: Path) -> None:
    assert explain(limit=6).images == 6
    assert len(dataset.read(tmp_path / "out")) == 6 - 1
    outcome = explain()
    assert (outcome.images, outcome.explained) == (11, 5)
    explain("straight")
    assert written(tmp_path / "out") == written(tmp_path / "straight")


def test_a_damaged_shard_is_made_again(explain: Explain, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    explain()
    whole = written(tmp_path / "out")
    path = tmp_path / "out" / "part-00001.parquet"
    path.write_bytes(path.read_bytes()[:500])
    outcome = explain()
    assert outcome.explained == 4
    assert "part-00001.parquet is damaged" in caplog.text
    assert written(tmp_path / "out") == whole


def test_failures_are_tried_again_when_asked(explain: Explain, tmp_path: Path) -> None:
    explain()
    whole = written(tmp_path / "out")
    outcome = explain(retry=True)
    assert (outcome.explained, len(outcome.failures)) == (2, 2)
    assert written(tmp_path / "out") == whole


def test_other_settings_are_named_and_refused(explain: Explain, tmp_path: Path) -> None:
    explain()
    whole = written(tmp_path / "out")
    with pytest.raises(DatasetError) as refused:
        explain(method="layer-cam", max_passes=20, maps="float16", shard_size=5)
    message = str(refused.value)
    for difference in (
        'method was "grad-cam" and is "layer-cam"',
        "max_passes was null and is 20",
        'maps was "uint8" and is "float16"',
        "batch_size was 16 and is 10",
        "shard_size was 4 and is 5",
    ):
        assert difference in message
    assert "engine" not in message
    assert "--restart" in message
    assert written(tmp_path / "out") == whole
    outcome = explain(method="layer-cam", maps="float16", restart=True)
    assert outcome.explained == 11
    assert {row.method for row in dataset.read(tmp_path / "out")} == {"layer-cam"}


def test_other_versions_are_named_and_refused(
    explain: Explain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    explain()
    monkeypatch.setattr(sightline, "__version__", "99.0")
    with pytest.raises(DatasetError, match=r'sightline was "0\.1\.0" and is "99\.0"'):
        explain()


def test_how_many_workers_and_threads_and_which_folder_is_no_setting(
    explain: Explain, pictures: Path, tmp_path: Path
) -> None:
    explain()
    shutil.copytree(pictures, tmp_path / "moved", copy_function=shutil.copy2)
    shutil.rmtree(pictures)
    os.rename(tmp_path / "moved", pictures)
    assert not explain(workers=2, threads=2).changed


def test_two_runs_do_not_write_one_folder(explain: Explain, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with cache.claimed(tmp_path / "out" / ".lock") as held:
        assert held
        with pytest.raises(DatasetError, match="another run is writing"):
            explain()
        assert [path.name for path in (tmp_path / "out").iterdir()] == [".lock"]
    assert explain().changed


def test_a_folder_of_other_things_is_left_alone(explain: Explain, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    for restart in (False, True):
        with pytest.raises(DatasetError, match=r"holds other things \(thesis\.tex\)"):
            explain(restart=restart)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.tex"]
    (tmp_path / "file").write_text("")
    with pytest.raises(SaveError, match="cannot be written"):
        explain("file")


@pytest.mark.parametrize("content", ["", "{}", '{"schema": 1, "settings": 3, "versions": {}}', '{"schema": 2}'])
def test_a_run_that_cannot_be_understood(content: str, explain: Explain, tmp_path: Path) -> None:
    explain()
    (tmp_path / "out" / "run.json").write_text(content)
    with pytest.raises(DatasetError, match=r"run\.json"):
        explain()
    with pytest.raises(DatasetError, match=r"run\.json"):
        dataset.read(tmp_path / "out")


def test_what_is_no_set(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="holds no explained set"):
        dataset.read(tmp_path)


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"shard_size": 0}, DatasetError, "shard_size=0"),
        ({"workers": 0}, DatasetError, "workers=0"),
        ({"limit": 0}, DatasetError, "limit=0"),
        ({"maps": "png"}, DatasetError, "maps='png'"),
        ({"method": "lime"}, MethodError, "'lime'"),
        ({"target": "rust"}, TargetError, "'rust'"),
        ({"max_passes": 0}, MethodError, "max_passes"),
    ],
)
def test_what_is_wrong_is_found_before_anything_is_written(
    options: dict[str, Any], error: type[Exception], said: str, explain: Explain, tmp_path: Path
) -> None:
    with pytest.raises(error, match=said):
        explain(**options)
    assert not (tmp_path / "out").exists()


def test_a_folder_without_images_begins_no_run(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for wrong in ("empty", "nowhere"):
        with pytest.raises(DatasetError, match=wrong):
            dataset.explain_set(demo.BUNDLE, tmp_path / wrong, tmp_path / "out", method="grad-cam")
        assert not (tmp_path / "out" / "run.json").exists()


@pytest.mark.parametrize(("passes", "size"), [(None, 16), (1, 1), (16, 16), (17, 9), (20, 10), (32, 32 // 2), (33, 11)])
def test_a_budget_fills_its_batches(passes: int | None, size: int) -> None:
    assert recipe.batch_size_for("cpu", passes) == size


def test_several_targets_are_rows_of_their_own(explain: Explain, tmp_path: Path) -> None:
    explain(target=["crack", 1], limit=2, maps="none")
    found = list(dataset.read(tmp_path / "out"))
    assert [(row.path, row.target) for row in found] == [
        ("line-0/part-0.png", 3),
        ("line-0/part-0.png", 1),
        ("line-0/part-2.png", 3),
        ("line-0/part-2.png", 1),
    ]
    assert all(row.saliency is None and row.probabilities is None for row in found)


def test_results_among_the_images_are_no_images(explain: Explain, pictures: Path) -> None:
    explain("pictures/out")
    draw(pictures / "out" / "map.png", 1)
    assert not explain("pictures/out").changed


def test_the_lock_file_is_the_only_thing_beside_the_results(explain: Explain, tmp_path: Path) -> None:
    explain()
    hidden = sorted(path.name for path in (tmp_path / "out").iterdir() if path.name.startswith("."))
    assert hidden == [run._LOCK, ".work"]
    assert [path.name for path in (tmp_path / "out" / ".work").iterdir()] == ["images.json"]
