"""Which files are images of a set, in which order, and when they are read again."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from sightline.dataset import listing
from sightline.errors import DatasetError
from tests.dataset.conftest import draw

LONG_AGO = 1_000_000_000 * 10**9


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, name in enumerate(("b.png", "a/z.JPG", "a/b.tif", "B.bmp", "a.png")):
        draw(tmp_path / "set" / name, number)
        os.utime(tmp_path / "set" / name, ns=(LONG_AGO, LONG_AGO))
    for name in (".hidden.png", "notes.txt", ".thumbs/a.png", "out/map.png", "report.pdf", "line.mpg"):
        (tmp_path / "set" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "set" / name).write_bytes(b"x")
    return tmp_path / "set"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every file that is read."""
    calls: list[str] = []
    original = listing._hash

    def recorded(path: Path) -> str:
        calls.append(path.name)
        return original(path)

    monkeypatch.setattr(listing, "_hash", recorded)
    return calls


def listed(folder: Path, limit: int | None = None) -> list[listing.Entry]:
    return listing.listed(folder, folder.parent / "known.json", folder / "out", limit)


def test_the_images_by_path_with_size_and_hash(folder: Path) -> None:
    found = listed(folder)
    assert [entry.path for entry in found] == ["B.bmp", "a.png", "a/b.tif", "a/z.JPG", "b.png"]
    for entry in found:
        content = (folder / entry.path).read_bytes()
        assert (entry.size, entry.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert listed(folder, 2) == found[:2]
    assert listed(folder, 99) == found


def test_what_did_not_change_is_not_read_again(folder: Path, read: list[str]) -> None:
    first = listed(folder)
    assert len(read) == 5
    read.clear()
    assert listed(folder) == first
    assert read == []
    draw(folder / "a.png", 77)
    second = listed(folder)
    assert read == ["a.png"]
    assert [one.path for one, two in zip(first, second, strict=True) if one != two] == ["a.png"]


def test_a_file_changed_just_before_it_was_read_is_not_trusted(folder: Path, read: list[str]) -> None:
    draw(folder / "new.png", 8)
    listed(folder)
    read.clear()
    listed(folder)
    assert read == ["new.png"]  # within the resolution of its time stamp it may have changed once more


def test_a_damaged_listing_is_made_anew(folder: Path, read: list[str]) -> None:
    first = listed(folder)
    for content in (b"{", b'{"a.png": 3}', b"[]"):
        (folder.parent / "known.json").write_bytes(content)
        read.clear()
        assert listed(folder) == first
        assert len(read) == 5


def test_an_interrupted_listing_keeps_what_it_has(
    folder: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "_AT_ONCE", 1)

    def interrupted(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        listing.listed(folder, folder.parent / "known.json", folder / "out", hashed=interrupted)
    read.clear()
    listed(folder)
    assert sorted(read) == ["b.png", "z.JPG"]


def test_a_file_that_cannot_be_read_stays_in_the_list(folder: Path, read: list[str]) -> None:
    (folder / "c.png").symlink_to(folder / "nowhere.png")
    (entry,) = (entry for entry in listed(folder) if entry.path == "c.png")
    assert entry.sha256 == listing.UNREADABLE
    draw(folder / "nowhere.png", 1)
    (entry,) = (entry for entry in listed(folder) if entry.path == "c.png")
    assert len(entry.sha256) == 64


def test_no_images(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="there is no folder"):
        listed(tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="holds no pictures"):
        listed(tmp_path / "empty")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes")
def test_a_pipe_is_no_image_and_a_link_to_nowhere_is_told(folder: Path) -> None:
    """Reading the pipe would never end."""
    os.mkfifo(folder / "pipe.png")
    (folder / "link.png").symlink_to("nowhere.png")
    found = {entry.path: entry for entry in listed(folder)}
    assert "pipe.png" not in found
    assert "link.png" in found
