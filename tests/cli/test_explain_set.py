"""sightline explain-set: what it writes, says and returns; resuming, interruption, a page."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tqdm import tqdm

from sightline import dataset, demo
from sightline.cli import main, set_progress
from sightline.cli.set_progress import SetProgress
from sightline.dataset import Failure, run
from tests.dataset.conftest import AtOnce, draw, written


@pytest.fixture
def month(folder: Path) -> Path:
    for number in range(5):
        draw(folder / "month" / f"day-{number % 2}" / f"part-{number}.png", number)
    return folder / "month"


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "Pool", AtOnce)


@pytest.fixture
def explain(month: Path) -> Callable[..., int]:
    def running(*options: str, out: str = "out") -> int:
        words = ["explain-set", str(demo.BUNDLE), "month", "-o", out, "--engine", "onnxruntime-cpu"]
        return main([*words, "--method", "grad-cam", "--shard-size", "2", *options])

    return running


@pytest.mark.usefixtures("at_once")
def test_a_set_without_failures(explain: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert explain() == 0
    said = capsys.readouterr()
    assert said.out == ("5 of 5 images are explained (5 looked at now)\nwritten: out, with summary.html\n")
    assert said.err == ""
    assert len(dataset.read("out")) == 5
    page = Path("out/summary.html").read_text()
    assert "Explanations of month" in page
    assert "5 explanations" in page
    before = written(Path("out"))
    assert explain() == 0
    assert capsys.readouterr().out == f"nothing to do: 5 of 5 images are explained; see {Path('out/summary.html')}\n"
    assert written(Path("out")) == before


@pytest.mark.usefixtures("at_once")
def test_failures_are_said_and_make_the_exit_code(
    explain: Callable[..., int], month: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (month / "broken.png").write_bytes(b"no picture")
    for again in (False, True):
        assert explain() == 1
        said = capsys.readouterr()
        assert f"1 failed: {Path('out/failures.json')}" in said.out
        assert said.out.startswith("nothing to do") == again
        assert said.err.startswith("" if again else "sightline: error: broken.png: it is damaged")
        assert len(said.err.splitlines()) == (0 if again else 1)
    assert "broken.png" in Path("out/summary.html").read_text()
    draw(month / "broken.png", 9)
    assert explain() == 0
    assert "(1 looked at now)" in capsys.readouterr().out
    assert "broken.png</b>" not in Path("out/summary.html").read_text()


@pytest.mark.usefixtures("at_once")
def test_a_page_that_is_gone_is_written_again(explain: Callable[..., int]) -> None:
    explain()
    before = written(Path("out"))
    Path("out/summary.html").unlink()
    explain()
    assert written(Path("out")) == before


@pytest.mark.usefixtures("at_once")
def test_what_the_options_do(explain: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--target", "crack", "--target", "1", "--maps", "float16", "--probabilities", "--limit", "2"]
    assert explain(*options, "--batch-size", "3") == 0
    found = list(dataset.read("out"))
    assert [(row.path[-5:], row.target) for row in found] == [("0.png", 3), ("0.png", 1), ("2.png", 3), ("2.png", 1)]
    settings = dataset.read("out").settings
    assert (settings["maps"], settings["batch_size"], settings["shard_size"]) == ("float16", 3, 2)
    for row in found:
        assert row.probabilities is not None
        assert row.probabilities[row.target] == pytest.approx(row.score, abs=1e-5)
    assert explain() == 1
    assert 'maps was "float16" and is "uint8"' in capsys.readouterr().err
    assert explain("--restart") == 0
    assert len(dataset.read("out")) == 5


def test_real_workers_write_the_same(explain: Callable[..., int], monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(run, "Pool", AtOnce)
        assert explain(out="straight") == 0
    assert explain("--workers", "2") == 0
    assert written(Path("out")) == written(Path("straight"))


@pytest.mark.skipif(sys.platform == "win32", reason="has no SIGINT to send")
def test_ctrl_c(month: Path) -> None:
    script = """
import os, signal
from sightline.cli import main, set_progress

def image(self, failure):
    os.kill(os.getpid(), signal.SIGINT)

set_progress.SetProgress.image = image
if __name__ == "__main__":
    raise SystemExit(main(["explain-set", os.environ["BUNDLE"], "month", "-o", "out", "--method", "grad-cam"]))
"""
    Path("script.py").write_text(script)
    done = subprocess.run(
        [sys.executable, "script.py"], capture_output=True, text=True, env={**os.environ, "BUNDLE": str(demo.BUNDLE)}
    )
    assert done.returncode == 130
    assert done.stderr.splitlines() == [
        "sightline: what is done stays; the same command goes on from there",
        "sightline: interrupted",
    ]
    assert not list(Path("out").glob(".*.part"))


@pytest.mark.parametrize(
    "options",
    [
        ["explain-set", "b.sightline", "month"],
        ["explain-set", "b.sightline", "month", "-o", "out", "--workers", "0"],
        ["explain-set", "b.sightline", "month", "-o", "out", "--maps", "png"],
        ["explain-set", "b.sightline", "month", "-o", "out", "--retry", "--restart"],
        ["explain-set", "b.sightline", "month", "-o", "out", "--method", "rise", "--mu", "0.3"],
    ],
)
def test_a_wrong_command_line(options: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(options)


def test_without_pyarrow(
    explain: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    assert explain() == 1
    assert "pip install 'sightline[dataset]'" in capsys.readouterr().err
    assert not Path("out").exists()


def test_without_ray(
    explain: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert explain("--ray", "local") == 1
    assert "pip install 'sightline[ray]'" in capsys.readouterr().err
    assert "RAY_AUTH_TOKEN" not in os.environ


class Terminal:
    """What tqdm writes to."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return True


def test_progress_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    bars: list[dict[str, Any]] = []
    original = tqdm

    def eager(*arguments: Any, **options: Any) -> Any:
        bars.append(options)
        return original(*arguments, **{**options, "delay": 0, "mininterval": 0})

    monkeypatch.setattr(set_progress, "tqdm", eager)
    with SetProgress() as progress:
        progress.listed(3, 9)
        progress.began(4, 9, 2)
        progress.image(None)
        progress.image(Failure("b\udcff.png", "0", "it is damaged"))
        progress.died("killed by SIGKILL")
    assert "looking at files" in terminal.text
    assert "2 workers:  67%" in terminal.text
    assert "6/9" in terminal.text
    assert "sightline: error: b\\udcff.png: it is damaged\n" in terminal.text
    assert "a worker was killed by SIGKILL; another one goes on\n" in terminal.text
    assert bars[1]["initial"] == 4  # or what was done before would count into the rate


def test_progress_is_silent_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    with SetProgress() as progress:
        progress.began(0, 2, 1)
        progress.image(None)
    assert capsys.readouterr().err == ""
