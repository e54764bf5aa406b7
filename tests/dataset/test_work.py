"""A shard made: what its rows say, what fails and why, and what is not done twice."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import sightline
from sightline import demo
from sightline.dataset import attempts, listing, rows, work
from sightline.dataset.attempts import Attempt
from sightline.dataset.recipe import Recipe
from sightline.dataset.shards import Shard
from sightline.dataset.work import Done, Explaining, Place
from sightline.errors import EngineError, ImageError, UngatedError
from sightline.runtime.explainer import Explainer
from tests.dataset.conftest import ENGINE, draw

BUNDLE = sightline.load(demo.BUNDLE)


@pytest.fixture
def place(pictures: Path, tmp_path: Path) -> Place:
    (tmp_path / "out").mkdir()
    recipe = Recipe(
        bundle=BUNDLE.path,
        bundle_hash=BUNDLE.hash,
        method=sightline.GradCAM(),
        targets=(None,),
        max_passes=None,
        engine=ENGINE,
        precision="fp32",
        batch_size=1,
        maps="uint8",
        probabilities=False,
        threads=1,
    )
    return Place(pictures, tmp_path / "out", recipe)


def shard_of(place: Place, *names: str) -> Shard:
    entries = listing.listed(place.images, place.out / "known.json", place.out)
    return Shard(0, tuple(entry for entry in entries if not names or Path(entry.path).name in names))


Make = Callable[..., tuple[list[Done], rows.Contents, dict[Any, list[rows.Row]]]]


@pytest.fixture
def make(place: Place) -> Make:
    def making(shard: Shard, again: Place = place) -> tuple[list[Done], rows.Contents, dict[Any, list[rows.Row]]]:
        done: list[Done] = []
        with Explaining(again) as explaining:
            work.make(shard, attempts.fresh(place.out, shard.name), explaining, done.append)
        path = place.out / shard.name
        contents = rows.contents(path)
        return done, contents, rows.rows_of(path, contents.images)

    return making


@pytest.fixture
def explained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every picture that is explained, by its first pixel."""
    calls: list[str] = []
    original = Explainer.__call__

    def recorded(self: Explainer, image: Any, *arguments: Any, **options: Any) -> Any:
        calls.append(str(image.getpixel((0, 0))))
        return original(self, image, *arguments, **options)

    monkeypatch.setattr(Explainer, "__call__", recorded)
    return calls


def test_the_rows_are_what_the_explainer_says(place: Place, make: Make) -> None:
    asked = {"method": sightline.SISE(mu=0.5), "targets": (None, 3), "max_passes": 3, "batch_size": 3}
    recipe = replace(place.recipe, **asked, probabilities=True)  # type: ignore[arg-type]
    shard = shard_of(place)
    done, contents, found = make(shard, Place(place.images, place.out, recipe))
    assert contents.images == [entry.key for entry in shard.entries]
    assert [one.index for one in done] == list(range(11))
    assert [Path(failure.path).name for failure in contents.failures] == ["part-5-torn.png", "part-6-empty.jpg"]
    assert [one.failure for one in done if one.failure] == contents.failures
    with sightline.Explainer(BUNDLE, sightline.SISE(mu=0.5), ENGINE, 16, threads=1) as explainer:
        for entry in shard.entries:
            if entry.key not in found:
                continue
            path = place.images / entry.path
            (probabilities,) = explainer.classify([path])
            for row, explanation in zip(found[entry.key], explainer(path, (None, 3), max_passes=3), strict=True):
                assert (row["target"], row["label"]) == (explanation.target, explanation.label)
                assert row["score"] == pytest.approx(explanation.score, abs=1e-6)
                assert row["passes"] == explanation.passes == 3
                map = rows.unpacked(row["map"], row["map_shape"], row["map_dtype"])
                np.testing.assert_allclose(map, explanation.saliency, atol=0.5 / 255 + 1e-5)
                assert row["probabilities"] == pytest.approx(probabilities[0].tolist(), abs=1e-6)
                assert [r["mass"] for r in row["regions"]] == pytest.approx([r.mass for r in explanation.regions()])
    assert len(found) == 9
    assert attempts.all_of(place.out) == set()


def test_reasons_name_no_memory_address_and_no_path_of_this_machine(place: Place, make: Make) -> None:
    (place.images / "line-0" / "part-7-text.png").write_text("no picture at all")
    _, contents, _ = make(shard_of(place, "part-5-torn.png", "part-6-empty.jpg", "part-7-text.png"))
    assert len(contents.failures) == 3
    for failure in contents.failures:
        assert failure.reason.startswith("it is damaged or no picture that Pillow knows: ")
        assert " at 0x" not in failure.reason
        assert str(place.images) not in failure.reason


def test_an_image_has_the_same_rows_whatever_its_neighbours(place: Place, make: Make) -> None:
    _, _, together = make(shard_of(place))
    (place.out / "part-00000.parquet").unlink()
    _, _, alone = make(shard_of(place, "part-4.png"))
    (key,) = alone
    assert alone[key] == together[key]


def test_what_an_attempt_has_explained_is_not_explained_again(
    place: Place, make: Make, explained: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = shard_of(place)
    make(shard)
    path = place.out / shard.name
    whole = path.read_bytes()
    path.unlink()
    assert len(explained) == 9
    explained.clear()

    def interrupted(one: Done) -> None:
        if one.index == 5:
            raise KeyboardInterrupt

    with Explaining(place) as explaining, pytest.raises(KeyboardInterrupt):
        work.make(shard, attempts.fresh(place.out, shard.name), explaining, interrupted)
    assert not path.exists()
    first = len(explained)
    done, _, _ = make(shard)
    assert len(explained) == 9
    assert 0 < first < 9
    assert len(done) == 11
    assert path.read_bytes() == whole


def test_a_file_that_is_there_is_not_made_again(place: Place, make: Make, explained: list[str]) -> None:
    shard = shard_of(place)
    first, _, _ = make(shard)
    explained.clear()
    second, _, _ = make(shard)  # its writer died before it could tell
    assert explained == []
    assert [(one.index, one.failure) for one in second] == [(one.index, one.failure) for one in first]


def test_rows_of_earlier_shards_are_taken_over(
    place: Place, make: Make, explained: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = shard_of(place)
    make(shard)
    old = place.out / ".work" / "old"
    old.mkdir(parents=True)
    (place.out / shard.name).replace(old / "part-00007.parquet")
    draw(place.images / "line-0" / "part-0.png", 99)
    explained.clear()
    changed = shard_of(place)
    done, contents, found = make(Shard(0, changed.entries, ("part-00007.parquet",)))
    assert len(explained) == 1
    assert len(done) == 11
    assert len(found) == 9
    assert len(contents.failures) == 2
    # With 'retry' what failed is tried once more.
    (place.out / shard.name).replace(old / "part-00007.parquet")
    tried: list[str] = []
    original = work._picture

    def recorded(key: listing.Key, content: bytes) -> Image.Image:
        tried.append(key[0])
        return original(key, content)

    monkeypatch.setattr(work, "_picture", recorded)
    again = Shard(0, changed.entries, ("part-00007.parquet",))
    make(again, replace(place, retry=True))
    assert tried == ["line-0/part-5-torn.png", "line-1/part-6-empty.jpg"]


def test_an_image_that_changes_after_it_was_listed_is_told_as_it_was_read(place: Place, make: Make) -> None:
    shard = shard_of(place, "part-0.png", "part-1.png")
    draw(place.images / "line-0" / "part-0.png", 55)
    (place.images / "line-1" / "part-1.png").unlink()
    _, contents, found = make(shard)
    assert contents.images[0] == shard_of(place, "part-0.png").entries[0].key != shard.entries[0].key
    assert list(found) == contents.images[:1]
    assert contents.images[1] == ("line-1/part-1.png", "")
    assert contents.failures[0].reason == "it cannot be read: No such file or directory"


def test_an_image_on_which_workers_die_is_given_up(place: Place, make: Make, explained: list[str]) -> None:
    shard = shard_of(place, "part-0.png", "part-1.png")
    key = shard.entries[0].key
    for times in range(1, work.DEATHS + 1):
        attempt = attempts.fresh(place.out, shard.name)
        with Attempt(attempt) as notes:
            notes.begin(key)
        if times < work.DEATHS:
            assert attempts.past(place.out, shard.name).deaths[key] == times
    attempts.died(attempt, "killed by SIGSEGV")
    for path in attempts.all_of(place.out) - {attempt}:
        attempts.died(path, "killed by SIGSEGV")
    done, contents, found = make(shard)
    assert len(explained) == 1
    assert list(found) == [shard.entries[1].key]
    assert contents.failures == [done[0].failure]
    assert contents.failures[0].reason == "workers died on it 3 times, the last one killed by SIGSEGV"


def test_two_deaths_are_forgiven(place: Place, make: Make) -> None:
    shard = shard_of(place, "part-0.png")
    for _ in range(work.DEATHS - 1):
        with Attempt(attempts.fresh(place.out, shard.name)) as notes:
            notes.begin(shard.entries[0].key)
    _, contents, _ = make(shard)
    assert contents.failures == []


def test_an_engine_that_fails_is_opened_anew(place: Place, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    original, failing = Explainer.__call__, [True, False, True, True]
    opened: list[Explainer] = []

    def broken(self: Explainer, *arguments: Any, **options: Any) -> Any:
        opened.append(self)
        if failing and failing.pop(0):
            raise EngineError("the device is gone")
        return original(self, *arguments, **options)

    monkeypatch.setattr(Explainer, "__call__", broken)
    _, contents, found = make(shard_of(place, "part-0.png", "part-1.png", "part-2.png"))
    assert [failure.reason for failure in contents.failures] == ["the device is gone"]
    assert len(found) == 2
    assert len({id(one) for one in opened}) == 3


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ImageError("it is too dark"), "it is too dark"),
        (MemoryError(), "there is not enough memory for it"),
        (ZeroDivisionError("division"), "an unexpected error, please report it: ZeroDivisionError: division"),
    ],
)
def test_what_goes_wrong_with_one_image_costs_no_other(
    error: Exception, reason: str, place: Place, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, failing = Explainer.__call__, [False, True, False]

    def broken(self: Explainer, *arguments: Any, **options: Any) -> Any:
        if failing.pop(0):
            raise error
        return original(self, *arguments, **options)

    monkeypatch.setattr(Explainer, "__call__", broken)
    _, contents, found = make(shard_of(place, "part-0.png", "part-1.png", "part-2.png"))
    assert [failure.reason for failure in contents.failures] == [reason]
    assert len(found) == 2


def test_an_explainer_that_cannot_be_opened_is_no_failure_of_an_image(place: Place, make: Make, tmp_path: Path) -> None:
    recipe = replace(place.recipe, bundle=tmp_path / "nowhere.sightline")
    with pytest.raises(sightline.SightlineError, match=r"nowhere\.sightline"):
        make(shard_of(place), Place(place.images, place.out, recipe))
    assert not (place.out / "part-00000.parquet").exists()


def test_a_lower_precision_proves_itself_on_images_of_the_set(
    place: Place, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    gates: list[Any] = []
    original = Explainer

    def ungated(*arguments: Any, gate: Any, **options: Any) -> Explainer:
        gates.append(gate)
        if gate is None:
            raise UngatedError("pass gate")
        return original(*arguments, gate=None, **options)

    monkeypatch.setattr(work, "Explainer", ungated)
    _, contents, _ = make(shard_of(place, "part-0.png"), replace(place, gate=("line-0/part-0.png",)))
    assert gates == [None, [place.images / "line-0" / "part-0.png"]]
    assert contents.failures == []


@pytest.mark.skipif(os.name == "nt", reason="names are Unicode there")
def test_a_name_that_is_no_text(place: Place, make: Make) -> None:
    name = os.fsdecode(b"part-\xff.png")
    draw(place.images / name, 3)
    _, contents, _ = make(shard_of(place, name))
    assert "not UTF-8" in contents.failures[0].reason


def test_upright_as_a_camera_means_it(place: Place, make: Make) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    with Image.open(place.images / "line-0" / "part-0.png") as picture:
        picture.save(place.images / "turned.jpg", exif=exif)
    _, _, found = make(shard_of(place, "turned.jpg"))
    ((first,),) = found.values()
    assert (first["width"], first["height"]) == (32, 40)
