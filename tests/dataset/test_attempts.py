"""What attempts leave behind: rows that count, deaths and whom they are held against."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sightline.dataset import attempts
from sightline.dataset.attempts import Attempt
from sightline.errors import SaveError

A, B, C = (("a.png", "1"), ("b.png", "2"), ("c.png", "3"))
ROW = {"path": "a.png", "score": 0.1 + 0.2, "map": bytes(range(256)), "regions": [{"x0": 1}]}


@pytest.fixture
def attempt(tmp_path: Path) -> Path:
    path = attempts.fresh(tmp_path, "part")
    with Attempt(path) as notes:
        notes.begin(A)
        notes.explained(A, [ROW, {**ROW, "map": None}])
        notes.begin(B)
        notes.failed(B, "it is damaged")
        notes.begin(C)
    return path


def test_what_is_noted_is_known(attempt: Path, tmp_path: Path) -> None:
    past = attempts.past(tmp_path, "part")
    assert past.of(A) == [ROW, {**ROW, "map": None}]
    assert past.of(B) == "it is damaged"
    assert past.of(C) is None
    assert past.deaths == {C: 1}
    assert attempts.past(tmp_path, "other").of(A) is None


def test_deaths_add_up_over_attempts_and_the_last_cause_is_told(attempt: Path, tmp_path: Path) -> None:
    attempts.died(attempt, "killed by SIGKILL")
    for _ in range(2):
        with Attempt(attempts.fresh(tmp_path, "part")) as notes:
            notes.begin(C)
    past = attempts.past(tmp_path, "part")
    assert past.deaths == {C: 3}
    assert past.causes == {C: "killed by SIGKILL"}


def test_who_is_stopped_did_not_die(attempt: Path, tmp_path: Path) -> None:
    attempts.stopped(attempt)
    assert attempts.past(tmp_path, "part").deaths == {}
    assert attempts.past(tmp_path, "part").of(A) is not None


def test_an_image_that_a_later_attempt_explained_keeps_its_rows(attempt: Path, tmp_path: Path) -> None:
    with Attempt(attempts.fresh(tmp_path, "part")) as notes:
        notes.begin(C)
        notes.explained(C, [ROW])
    assert attempts.past(tmp_path, "part").of(C) == [ROW]


def test_a_line_torn_anywhere_costs_no_other(attempt: Path, tmp_path: Path) -> None:
    whole = attempt.read_bytes()
    ends = [place for place, byte in enumerate(whole) if byte == ord("\n")]
    for length in sorted({*range(0, len(whole) + 1, 7), *ends, *(end - 1 for end in ends)}):
        attempt.write_bytes(whole[:length])
        for noted in (False, True):
            if noted:
                attempts.died(attempt, "killed")
            complete = sum(end <= length for end in ends)
            past = attempts.past(tmp_path, "part")
            assert (past.of(A) is not None) == (complete >= 2), length
            assert (past.of(B) is not None) == (complete >= 4), length
            in_hand = {1: A, 3: B, 5: C}.get(complete)
            assert past.deaths == ({in_hand: 1} if in_hand else {}), length
            assert past.causes == ({in_hand: "killed"} if in_hand and noted else {}), length
        attempts.stopped(attempt)
        assert attempts.past(tmp_path, "part").deaths == {}, length


def test_a_full_disk_is_said_and_held_against_no_image(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    attempt = attempts.fresh(tmp_path, "part")
    with Attempt(attempt) as notes:
        notes.begin(A)
        notes.explained(A, [ROW])
        notes.begin(B)
        resource.setrlimit(resource.RLIMIT_FSIZE, (attempt.stat().st_size + 100, before[1]))
        try:
            with pytest.raises(SaveError, match=re.escape(str(attempt))):
                notes.explained(B, [ROW])
            attempt.with_name("full").symlink_to("/dev/full")
            attempts.stopped(attempt.with_name("full"))  # no room for it: nobody minds
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    past = attempts.past(tmp_path, "part")
    assert past.of(A) == [ROW]
    assert past.of(B) is None
    assert past.deaths == {}
    with pytest.raises(SaveError, match="could not be written"):
        Attempt(attempt / "below-a-file.jsonl")


def test_a_shard_that_is_done_leaves_nothing(attempt: Path, tmp_path: Path) -> None:
    assert attempts.all_of(tmp_path) == {attempt}
    attempts.forget(tmp_path, "part")
    assert attempts.all_of(tmp_path) == set()
    attempts.stopped(attempt)  # its file is gone: nothing to note
    assert attempts.all_of(tmp_path) == set()
