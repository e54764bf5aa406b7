"""sightline stream: what is explained, what is written and said, and how it ends."""

from __future__ import annotations

import _thread
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

import sightline
from sightline.cli import main
from sightline.errors import StreamError
from sightline.runtime.frames import Frame
from sightline.serving import sources
from tests.cli.conftest import LABELS

COUNT = 8


@pytest.fixture
def line(tmp_path: Path) -> Path:
    """Pictures that the network does not all find the same."""
    folder = tmp_path / "line"
    folder.mkdir()
    rng = np.random.default_rng(3)
    for number in range(COUNT):
        scale = 255 if number % 2 else 40
        Image.fromarray(rng.integers(0, scale, (32, 32, 3), dtype=np.uint8)).save(folder / f"part {number}.png")
    return folder


@pytest.fixture
def predictions(bundle: Path, line: Path) -> list[tuple[int, float]]:
    with sightline.Explainer(bundle, threads=1) as explainer:
        probabilities = np.concatenate(list(explainer.classify(sorted(line.iterdir()))))
    return [(int(row.argmax()), float(row.max())) for row in probabilities]


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_every_frame_is_explained_in_order(
    bundle: Path, line: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["stream", str(bundle), str(line), "-o", "out", "--threads", "1"]) == 0
    said = capsys.readouterr()
    assert [text.split(" ", 1)[0] for text in said.out.splitlines()] == [str(number) for number in range(COUNT)]
    assert all("passes" in text and "s after it came" in text for text in said.out.splitlines())
    assert f"{COUNT} frames in" in said.err
    assert f"{COUNT} explained, 0 not wanted, 0 failed, 0 dropped" in said.err
    assert "deadline" not in said.err
    assert sorted(file.name for file in (folder / "out").iterdir()) == [
        f"{number:06d}-part-{number}.sise.png" for number in range(COUNT)
    ]


def test_json_lines_and_the_statistics_last(
    bundle: Path, line: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--json", "--save", "json", "--method", "ada-sise", "--deadline", "1000", "--rate", "1000"]
    assert main(["stream", str(bundle), str(line), *options, "--threads", "1"]) == 0
    *frames, last = lines(capsys.readouterr().out)
    assert [frame["frame"] for frame in frames] == list(range(COUNT))
    for frame in frames:
        (explanation,) = frame["explanations"]
        assert (frame["state"], frame["dropped_before"], frame["error"]) == ("explained", 0, None)
        assert explanation["label"] == frame["prediction"]["label"]
        (written,) = frame["written"]
        assert json.loads(Path(written).read_text()) == explanation
        assert frame["time"] == os.stat(frame["name"]).st_mtime
    statistics = last["statistics"]
    assert (statistics["frames"], statistics["explained"], statistics["overruns"]) == (COUNT, COUNT, 0)
    assert statistics["latency"]["count"] == COUNT


def test_only_and_below(
    bundle: Path,
    line: Path,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    predictions: list[tuple[int, float]],
) -> None:
    common = predictions[0][0]
    limit = sorted(score for _, score in predictions)[COUNT // 2]
    wanted = [target == common and score < limit for target, score in predictions]
    assert 0 < sum(wanted) < COUNT, "both must occur for this test to tell"
    options = ["--only", LABELS[common], "--below", str(limit), "--json", "--save", "none", "--threads", "1"]
    assert main(["stream", str(bundle), str(line), *options]) == 0
    *frames, last = lines(capsys.readouterr().out)
    assert [frame["state"] == "explained" for frame in frames] == wanted
    assert [frame["prediction"]["target"] for frame in frames] == [target for target, _ in predictions]
    assert last["statistics"]["skipped"] == COUNT - sum(wanted)
    assert not (folder / "explanations").exists(), "--save none writes nothing"


def test_only_by_index_and_nothing_to_say_about_the_others(
    bundle: Path, line: Path, folder: Path, capsys: pytest.CaptureFixture[str], predictions: list[tuple[int, float]]
) -> None:
    never = next(iter(set(range(3)) - {target for target, _ in predictions}))
    assert main(["stream", str(bundle), str(line), "--only", str(never), "--threads", "1"]) == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert f"0 explained, {COUNT} not wanted" in said.err
    assert "until classified" in said.err
    assert "until explained" not in said.err


def test_several_targets_have_a_file_each(bundle: Path, line: Path, folder: Path) -> None:
    picture = str(line / "part 0.png")
    options = ["--target", "scratch", "--target", "good", "--max-passes", "3", "--threads", "1"]
    assert main(["stream", str(bundle), picture, *options]) == 0
    assert sorted(file.name for file in (folder / "explanations").iterdir()) == [
        "000000-part-0.sise.0-good.png",
        "000000-part-0.sise.1-scratch.png",
    ]


def test_a_video(bundle: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    writer = cv2.VideoWriter("belt.avi", cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (32, 32))
    for number in range(3):
        writer.write(np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    writer.release()
    assert main(["stream", str(bundle), "belt.avi", "--method", "grad-cam", "--threads", "1"]) == 0
    assert [text.split(": ")[0] for text in capsys.readouterr().out.splitlines()] == [
        f"{number} belt.avi#{number}" for number in range(3)
    ]
    assert len(list((folder / "explanations").iterdir())) == 3


def test_a_frame_that_cannot_be_read_makes_the_exit_code_1(
    bundle: Path, line: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (line / "part 3.png").write_text("no picture")
    assert main(["stream", str(bundle), str(line), "--method", "grad-cam", "--threads", "1"]) == 1
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == COUNT - 1
    (error,) = [text for text in said.err.splitlines() if "error" in text]
    assert error.startswith("sightline: error: frame 3: ")
    assert "part 3.png" in error
    assert "1 failed" in said.err
    assert main(["stream", str(bundle), str(line), "--method", "grad-cam", "--json", "--threads", "1"]) == 1
    failed = lines(capsys.readouterr().out)[3]
    assert (failed["state"], failed["prediction"], failed["explanations"]) == ("failed", None, [])
    assert "part 3.png" in failed["error"]


def test_a_deadline_that_cannot_be_kept_is_said(
    bundle: Path, line: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--deadline", "1e-9", "--batch-size", "3", "--threads", "1", "--save", "none"]
    assert main(["stream", str(bundle), str(line), *options]) == 0
    said = capsys.readouterr()
    assert all("3 passes" in text and "% complete" in text for text in said.out.splitlines())
    assert f"past the deadline of 1e-09 s: {COUNT} frames" in said.err


# A source played by a script.


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the source gives: frames, or functions that are called before the next one."""
    script: list[Any] = []

    class Played(sources.Camera):
        def __init__(self, address: object) -> None:
            assert address == 0

        def __iter__(self) -> Iterator[Frame]:
            for item in script:
                if callable(item):
                    item()
                else:
                    yield Frame(item)

        def stop(self) -> None:
            pass

    monkeypatch.setattr(sources, "Camera", Played)
    return script


def frame(number: int) -> Any:
    return np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)


def test_a_camera_drops_what_it_must_and_says_so(
    bundle: Path, folder: Path, played: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    played.extend(frame(number) for number in range(300))
    assert main(["stream", str(bundle), "0", "--queue", "1", "--save", "none", "--threads", "1"]) == 0
    said = capsys.readouterr()
    assert "sightline: frames dropped: " in said.err
    numbers = [int(text.split(" ", 1)[0]) for text in said.out.splitlines()]
    assert numbers == sorted(numbers)
    assert numbers[-1] == 299
    assert f"{len(numbers)} explained, 0 not wanted, 0 failed, {300 - len(numbers)} dropped" in said.err


def test_a_source_that_breaks_is_an_error_after_its_results(
    bundle: Path, folder: Path, played: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    def breaks() -> None:
        raise StreamError("the cable is out")

    played.extend([frame(0), breaks])
    assert main(["stream", str(bundle), "0", "--when-full", "wait", "--save", "none", "--threads", "1"]) == 1
    said = capsys.readouterr()
    assert said.out.startswith("0 0: ")
    assert "sightline: error: the cable is out" in said.err
    assert "1 explained" in said.err, "the statistics are told all the same"


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C is an exception, as at a prompt; a shell has its background processes ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c(bundle: Path, folder: Path, played: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    played.extend([frame(0), lambda: _thread.interrupt_main(), *[frame(1)] * 100_000])
    options = ["--when-full", "wait", "--save", "none", "--threads", "1", "--method", "grad-cam"]
    assert main(["stream", str(bundle), "0", *options]) == 130
    said = capsys.readouterr()
    assert "frames in" in said.err
    assert said.err.endswith("sightline: interrupted\n")


def test_sigterm_finishes_what_has_arrived(
    bundle: Path, folder: Path, played: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    played.extend([frame(0), lambda: _thread.interrupt_main(signal.SIGTERM), *[frame(1)] * 100_000])
    options = ["--when-full", "wait", "--save", "none", "--threads", "1", "--method", "grad-cam", "--json"]
    assert main(["stream", str(bundle), "0", *options]) == 0
    *frames, last = lines(capsys.readouterr().out)
    assert [found["frame"] for found in frames] == list(range(len(frames)))
    assert 1 <= len(frames) < 100_000
    assert last["statistics"]["explained"] == len(frames)
    assert signal.getsignal(signal.SIGTERM) == before


# What cannot be.


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["nothing-there"], "nothing-there"),
        (["{line}", "--only", "rust"], "rust"),
        (["{line}", "--target", "9"], "9"),
        (["{line}", "--engine", "steam"], "steam"),
    ],
)
def test_errors_in_one_line(
    options: list[str], said: str, bundle: Path, line: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["stream", str(bundle), *(option.format(line=line) for option in options)]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert said in error
    assert not (folder / "explanations").exists()


@pytest.mark.parametrize(
    "options",
    [
        ["--rate", "0"],
        ["--below", "1.5"],
        ["--below", "x"],
        ["--deadline", "-1"],
        ["--queue", "0"],
        ["--when-full", "x"],
        ["--only", ","],
        ["--save", "gif"],
        ["--mu", "0.3", "--method", "rise"],
    ],
)
def test_a_wrong_command_line(options: list[str], bundle: Path, line: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["stream", str(bundle), str(line), *options])
    assert stopped.value.code == 2
    assert "error" in capsys.readouterr().err
