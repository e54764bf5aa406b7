"""The cache folder: files whole or absent, one builder at a time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sightline import cache
from sightline.errors import EngineError

ROOT = Path(__file__).parents[2]
WINDOWS = sys.platform == "win32"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in (cache.VARIABLE, "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("platform", "variables", "folder"),
    [
        ("linux", {}, ".cache/sightline"),
        ("linux", {"XDG_CACHE_HOME": "/var/xdg"}, "/var/xdg/sightline"),
        ("linux", {"XDG_CACHE_HOME": "relative"}, ".cache/sightline"),
        ("darwin", {"XDG_CACHE_HOME": "/var/xdg"}, "Library/Caches/sightline"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/sightline"),
        ("linux", {"SIGHTLINE_CACHE": "/mine", "XDG_CACHE_HOME": "/var/xdg"}, "/mine"),
    ],
)
def test_where_the_folder_is(
    home: Path, monkeypatch: pytest.MonkeyPatch, platform: str, variables: dict[str, str], folder: str
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cache.folder() == home / folder


def test_a_key_changes_with_every_byte_and_fact(tmp_path: Path) -> None:
    graph, weights = tmp_path / "graph", tmp_path / "weights"
    graph.write_bytes(b"ab")
    weights.write_bytes(b"c")
    keys = [cache.key([graph, weights], "1.0"), cache.key([graph, weights], "1.1"), cache.key([graph], "1.0")]
    assert keys[0] == cache.key([graph, weights], "1.0")
    weights.write_bytes(b"d")
    keys.append(cache.key([graph, weights], "1.0"))
    graph.write_bytes(b"a")
    weights.write_bytes(b"bd")
    keys.append(cache.key([graph, weights], "1.0"))
    assert len(set(keys)) == 5
    with pytest.raises(EngineError, match="absent cannot be read"):
        cache.key([tmp_path / "absent"])


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "new" / "facts.json"
    for content in (b'{"a": 1}', b'{"a": 2}'):
        cache.write(path, content)
        assert path.read_bytes() == content
    assert os.listdir(path.parent) == ["facts.json"]
    assert cache.read_json(path) == {"a": 2}


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file(step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "facts.json"
    cache.write(path, b"1")

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, full)
    with pytest.raises(EngineError, match=r"No space left.*SIGHTLINE_CACHE"):
        cache.write(path, b"2")
    assert os.listdir(tmp_path) == ["facts.json"]
    assert path.read_bytes() == b"1"


def test_a_writer_killed_in_the_middle_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    cache.write(path, b'{"whole": true}')
    script = """
import os, sys, time
from pathlib import Path
from sightline import cache
def stall(handle):
    print("written", flush=True)
    time.sleep(60)
os.fsync = stall
cache.write(Path(sys.argv[1]), b"{" * 1000)
"""
    writer = subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, cwd=ROOT)
    assert writer.stdout is not None
    assert writer.stdout.readline().strip() == b"written"
    writer.kill()
    writer.communicate()
    assert cache.read_json(path) == {"whole": True}
    cache.write(path, b'{"again": true}')
    assert cache.read_json(path) == {"again": True}


@pytest.mark.parametrize("content", [b"", b'{"torn": ', b"\xff\xfe\x00", b"[" * 100_000])
def test_a_damaged_file_is_none_and_logged(tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "facts.json"
    assert cache.read_json(path) is None
    assert caplog.text == ""
    path.write_bytes(content)
    assert cache.read_json(path) is None
    assert "facts.json is damaged or foreign" in caplog.text


BUILDER = """
import sys, time
from pathlib import Path
from sightline import cache
folder = Path(sys.argv[1])
with cache.locked(folder, "engine"):
    built = folder / "engine.json"
    if cache.read_json(built) is None:
        with (folder / "builds").open("a") as log:
            log.write("built\\n")
        time.sleep(0.5)
        cache.write(built, b"{}")
"""


def test_two_processes_build_once(tmp_path: Path) -> None:
    builders = [subprocess.Popen([sys.executable, "-c", BUILDER, str(tmp_path)], cwd=ROOT) for _ in range(3)]
    assert [builder.wait(timeout=60) for builder in builders] == [0, 0, 0]
    assert (tmp_path / "builds").read_text() == "built\n"


@pytest.mark.skipif(WINDOWS, reason="kills a process by SIGKILL")
def test_a_dead_process_holds_no_lock(tmp_path: Path) -> None:
    script = """
import sys, time
from pathlib import Path
from sightline import cache
with cache.locked(Path(sys.argv[1]), "engine"):
    print("held", flush=True)
    time.sleep(60)
"""
    holder = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, cwd=ROOT)
    assert holder.stdout is not None
    assert holder.stdout.readline().strip() == b"held"
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    start = time.monotonic()
    with cache.locked(tmp_path, "engine"):
        assert time.monotonic() - start < 5


def test_locks_of_two_names_do_not_meet(tmp_path: Path) -> None:
    with cache.locked(tmp_path, "a"), cache.locked(tmp_path, "b"):
        pass
    assert json.dumps(sorted(os.listdir(tmp_path))) == '["a.lock", "b.lock"]'


@pytest.mark.skipif(WINDOWS or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_is_not_ours(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with pytest.raises(EngineError, match="SIGHTLINE_CACHE"), cache.locked(tmp_path / "new", "engine"):
        pass


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "cache").write_bytes(b"")
    with pytest.raises(EngineError, match="SIGHTLINE_CACHE"), cache.locked(tmp_path / "cache", "engine"):
        pass
    with pytest.raises(EngineError, match="SIGHTLINE_CACHE"):
        cache.write(tmp_path / "cache" / "facts.json", b"")


def test_a_claim_is_held_by_one_and_waits_for_nobody(tmp_path: Path) -> None:
    with cache.claimed(tmp_path / "lock") as first:
        assert first
        with cache.claimed(tmp_path / "lock") as second:
            assert not second
        script = "import sys; from sightline import cache; from pathlib import Path\n"
        script += "with cache.claimed(Path(sys.argv[1])) as held: print(held)"
        words = [sys.executable, "-c", script, str(tmp_path / "lock")]
        assert subprocess.run(words, capture_output=True, text=True, check=True).stdout == "False\n"
    with cache.claimed(tmp_path / "lock") as again:
        assert again
    with pytest.raises(FileNotFoundError), cache.claimed(tmp_path / "nowhere" / "lock"):
        pass
