"""Results in a file: kept, found again, torn, damaged, begun anew."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from sightline.errors import SaveError
from sightline.metrics.store import Results


def test_what_was_added_is_found_again(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    with Results(path) as results:
        results.add("one", {"value": 1, "image": "Blech-ä-\udcff.png"})
        results.add("two", {"value": 2, "map": "…"})
        results.add("one", {"value": 3})
        assert results["one"]["value"] == 3
    with Results(path) as results:
        assert len(results) == 2
        assert results["one"] == {"key": "one", "value": 3}
        assert results["two"]["value"] == 2
        assert results.has("one")
        assert not results.has("one", map=True)
        assert results.has("two", map=True)
        assert not results.has("three")


def test_the_latest_result_decides_whether_there_is_a_map(tmp_path: Path) -> None:
    with Results(tmp_path / "results.jsonl") as results:
        results.add("one", {"map": "…"})
        results.add("one", {})
        assert results.has("one")
        assert not results.has("one", map=True)


def test_a_torn_last_line_is_cut_off_wherever_it_was_torn(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    with Results(path) as results:
        results.add("one", {"value": 1})
        whole = path.read_bytes()
        results.add("two", {"value": "ä"})
    torn = path.read_bytes()
    for length in range(len(whole), len(torn)):
        path.write_bytes(torn[:length])
        with Results(path) as results:
            assert results.has("one")
            assert not results.has("two")
            results.add("three", {"value": 3})
        with Results(path) as results:
            assert (results["one"]["value"], results["three"]["value"]) == (1, 3)
            assert len(results) == 2


def test_a_damaged_line_costs_only_itself(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "results.jsonl"
    with Results(path) as results:
        for name in ("one", "two", "three"):
            results.add(name, {"value": name})
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"\xff{" + lines[1][2:] + b"[]\n" + lines[2])
    with caplog.at_level(logging.WARNING, "sightline"), Results(path) as results:
        assert [results.has(name) for name in ("one", "two", "three")] == [True, False, True]
        assert results["three"]["value"] == "three"
    assert "line 2 " in caplog.text


def test_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    with Results(path) as results:
        results.add("one", {})
    with Results(path, restart=True) as results:
        assert len(results) == 0


def test_a_file_that_cannot_be_kept(tmp_path: Path) -> None:
    with pytest.raises(SaveError, match="nowhere"):
        Results(tmp_path / "nowhere" / "results.jsonl")
