"""Help, version, exit codes, and what a user sees of an error."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import sightline
from sightline import demo
from sightline.cli import main
from sightline.errors import BundleError

COMMANDS = ("export", "inspect", "build", "explain", "evaluate", "serve", "bench", "demo", "doctor", "build-kernels")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "sightline.cli", *arguments], capture_output=True, text=True)


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    said = capsys.readouterr().out
    assert all(re.search(rf"^ +{command}( |$)", said, re.MULTILINE) for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_has_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    assert f"examples:\n  sightline {command}" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"sightline {sightline.__version__}\n"


@pytest.mark.parametrize(
    "line",
    [
        "",
        "paint",
        "explain",
        "explain b.sightline",
        "explain b.sightline a.png --method lime",
        "explain b.sightline a.png --method rise --mu 0.3",
        "explain b.sightline a.png --passes 10",
        "explain b.sightline a.png --precision fp8",
        "bench b.sightline --precision fp32,fp8",
        "bench b.sightline --batch-size 8,0",
        "bench b.sightline --percentile 101",
        "explain b.sightline a.png --mu 1",
        "explain b.sightline a.png --mu nan",
        "explain b.sightline a.png --batch-size 0",
        "explain b.sightline a.png --save gif",
        "export model.onnx",
        "export model.onnx b --input 3x224",
        "export model.onnx b --input 0x2x2",
        "export model.onnx b --mean a,b",
        "export model.onnx b --colour HSV",
        "export model.onnx b --labels missing.txt",
        "demo --method ada-sise --mu 0.3",
        "explain b.sightline a.png --method rise --passes 3000000000",
        "explain b.sightline a.png --method rise --passes 99999999999999999999",
        "explain b.sightline a.png --method rise --seed -1",
        "bench b.sightline --engine ,",
        "bench b.sightline --percentile ,",
    ],
)
def test_a_wrong_command_line(line: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(line.split())
    assert "usage: sightline" in capsys.readouterr().err


def test_an_error_is_one_line_and_exit_code_1() -> None:
    done = run("inspect", "missing.sightline")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("sightline: error: there is no missing.sightline")
    assert done.stderr.count("\n") == 1


def test_verbose_shows_where_an_error_comes_from() -> None:
    done = run("inspect", "missing.sightline", "-v")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("sightline: error: ")


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (KeyboardInterrupt(), 130, "sightline: interrupted\n"),
        (BundleError("it is damaged"), 1, "sightline: error: it is damaged\n"),
        (PermissionError(13, "Permission denied", "out"), 1, "Permission denied: 'out'\n"),
    ],
    ids=["interrupt", "error", "os-error"],
)
def test_exit_codes(
    error: BaseException, code: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr("sightline.cli.doctor.findings", fail)
    assert main(["doctor"]) == code
    assert capsys.readouterr().err.endswith(said)


def test_a_mistake_of_ours_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sightline.cli.doctor.findings", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["doctor"])


def test_a_closed_pipe_is_no_error() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "sightline.cli", "doctor"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""


@pytest.mark.parametrize(
    ("encoding", "words", "said"),
    [("latin-1", ["{bundle}", "{image}"], b"\\u2192"), ("ascii", ["--help"], b"--mu \\u03bc")],
)
def test_what_an_encoding_lacks_is_escaped(
    encoding: str, words: list[str], said: bytes, bundle: Path, images: list[Path], folder: Path
) -> None:
    words = [word.format(bundle=bundle, image=images[0]) for word in words]
    done = subprocess.run(
        [sys.executable, "-m", "sightline.cli", "explain", *words],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": encoding},
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert said in done.stdout


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_json_is_json_in_every_encoding(encoding: str, bundle: Path, images: list[Path], folder: Path) -> None:
    image = folder / "Nähte \U0001f52c.png"
    image.write_bytes(images[0].read_bytes())
    done = subprocess.run(
        [sys.executable, "-m", "sightline.cli", "explain", str(bundle), str(image), "--json"],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0", "LC_ALL": "C.UTF-8"},
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout.decode(encoding))["file"] == str(image)


@pytest.mark.skipif(os.name == "nt", reason="the shell's way to close a stream")
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_a_closed_stream_is_no_error(closed: str) -> None:
    words = [sys.executable, "-m", "sightline.cli", "inspect", str(demo.BUNDLE), "-v"]
    done = subprocess.run(["sh", "-c", f'"$@" {closed}', "sh", *words], capture_output=True, text=True)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr


def test_an_interrupt_before_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["sightline.cli.main"], "parser", interrupted)
    assert main(["doctor"]) == 130
    assert capsys.readouterr().err == "sightline: interrupted\n"


def test_logging_is_left_as_it_was(folder: Path) -> None:
    logger = logging.getLogger("sightline")
    before = (logger.level, list(logger.handlers))
    main(["inspect", "missing.sightline", "-v"])
    assert (logger.level, list(logger.handlers)) == before
