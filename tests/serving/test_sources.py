"""Sources: what a word on the command line stands for, real videos, cameras that fail on purpose, and pace."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event, Thread
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from sightline.errors import ImageError, MissingPackageError, StreamError
from sightline.runtime.frames import Frame
from sightline.serving import sources
from sightline.serving.sources import Camera, Paced, Pictures, Video, live, open_source

COLOURS = ((200, 30, 40), (20, 190, 60), (10, 40, 210))
RATE = 8.0


def picture(path: Path, colour: tuple[int, int, int] = COLOURS[0]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (24, 16), colour).save(path)
    return path


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Three frames of one colour each, by OpenCV's own encoder."""
    path = tmp_path / "line.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), RATE, (64, 48))
    for red, green, blue in COLOURS:
        writer.write(np.full((48, 64, 3), (blue, green, red), np.uint8))
    writer.release()
    return path


# Pictures.


def test_a_folder_gives_its_pictures_by_name(tmp_path: Path) -> None:
    for name in ("b.png", "a.jpg", "deeper/c.png"):
        picture(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "report.pdf").touch()
    (tmp_path / "._b.png").touch()  # as macOS writes them
    os.utime(tmp_path / "a.jpg", (1000.0, 2000.5))
    found = list(open_source(tmp_path))
    assert [frame.image for frame in found] == [tmp_path / "a.jpg", tmp_path / "b.png"]
    assert (found[0].name, found[0].time) == (str(tmp_path / "a.jpg"), 2000.5)


def test_a_pattern_gives_the_files_that_match(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("z/1.png", "a/2.png", "a/b/3.png", "a/4.jpg"):
        picture(tmp_path / name)
    (tmp_path / "folder.png").mkdir()
    monkeypatch.chdir(tmp_path)
    assert [frame.name for frame in open_source("**/*.png")] == ["a/2.png", "a/b/3.png", "z/1.png"]
    assert [frame.name for frame in open_source("a/[0-9].*")] == ["a/2.png", "a/4.jpg"]


def test_one_picture(tmp_path: Path) -> None:
    assert [frame.image for frame in open_source(picture(tmp_path / "a.png"))] == [tmp_path / "a.png"]


def test_a_file_whose_name_is_a_number_is_no_camera(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(tmp_path / "0.png").rename(tmp_path / "0")
    monkeypatch.chdir(tmp_path)
    assert isinstance(open_source("0"), Pictures)


def test_a_file_that_vanished_is_still_named(tmp_path: Path) -> None:
    (found,) = Pictures([tmp_path / "gone.png"])
    assert (found.image, found.time) == (tmp_path / "gone.png", None)


@pytest.mark.parametrize("source", ["nothing", "*.png", "empty", "nothing.mp4"])
def test_nothing_there(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StreamError, match=source.replace("*", r"\*")):
        open_source(source)


# Videos.


def test_a_video(video: Path) -> None:
    found = list(open_source(str(video)))
    assert [frame.name for frame in found] == [f"{video}#{number}" for number in range(3)]
    assert [frame.time for frame in found] == pytest.approx([number / RATE for number in range(3)])
    for frame, colour in zip(found, COLOURS, strict=True):
        assert isinstance(frame.image, np.ndarray)
        assert frame.image.shape == (48, 64, 3)
        assert frame.image.dtype == np.uint8
        np.testing.assert_allclose(frame.image.mean(axis=(0, 1)), colour, atol=6)  # RGB, as JPEG leaves it


def test_a_video_that_is_told_to_stop(video: Path) -> None:
    source = Video(video)
    frames = iter(source)
    next(frames)
    source.stop()
    assert list(frames) == []


def test_a_file_that_is_no_video(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "line.mp4").write_bytes(b"no video" * 100)
    with pytest.raises(StreamError, match=r"line\.mp4 cannot be opened as a video"):
        open_source(tmp_path / "line.mp4")


def test_a_video_that_is_cut_off_says_so(video: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = video.read_bytes()
    video.write_bytes(whole[: whole.rindex(b"00dc")])  # before its index, and before the last frame's own bytes
    third = whole[: whole.index(b"idx1")].rindex(b"00dc")
    video.write_bytes(whole[:third])
    with caplog.at_level(logging.WARNING, "sightline"):
        found = list(Video(video))
    assert len(found) == 2
    assert "ends after 2 frames, though it announces 3" in caplog.text


def test_without_opencv(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    for source in (str(video), "0", "rtsp://camera/1"):
        with pytest.raises(MissingPackageError, match=r"sightline\[video\]"):
            open_source(source)


# Cameras, played by a script: a frame's colour, None for one that is not given, and whether it opens.


class FakeCapture:
    script: Iterator[Any]
    opens: Iterator[bool]
    log: list[Any]

    def __init__(self, address: int | str) -> None:
        self.log.append(address)
        self._open = next(self.opens)

    def isOpened(self) -> bool:  # noqa: N802
        return self._open

    def read(self) -> tuple[bool, npt.NDArray[np.uint8] | None]:
        found = next(self.script)
        if callable(found):
            found = found()
        return found is not None, None if found is None else np.full((4, 6, 3), found, np.uint8)

    def release(self) -> None:
        self.log.append("released")


@pytest.fixture
def camera(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
    """Script the cameras of this machine."""

    def scripted(script: Iterator[Any], opens: Iterator[bool]) -> list[Any]:
        FakeCapture.script, FakeCapture.opens, FakeCapture.log = script, opens, []
        monkeypatch.setattr(cv2, "VideoCapture", FakeCapture)
        return FakeCapture.log

    return scripted


def test_a_camera(camera: Callable[..., list[Any]]) -> None:
    log = camera(iter([(1, 2, 3), (4, 5, 6)]), iter([True]))
    source = open_source("0")
    assert isinstance(source, Camera)
    source._clock = iter([7.5, 8.5]).__next__
    frames = iter(source)
    first, second = next(frames), next(frames)
    assert (first.name, first.time, second.name, second.time) == ("camera 0#0", 7.5, "camera 0#1", 8.5)
    assert isinstance(first.image, np.ndarray)
    assert first.image[0, 0].tolist() == [3, 2, 1], "RGB"
    source.stop()
    assert list(frames) == []
    assert log == [0, "released"]


def test_a_frame_that_the_camera_fails_to_give(camera: Callable[..., list[Any]]) -> None:
    log = camera(iter([(1, 1, 1), None, (2, 2, 2)]), iter([True, True]))
    frames = iter(Camera("rtsp://user:secret@hall/2"))
    found = [next(frames) for _ in range(3)]
    assert [isinstance(frame.image, ImageError) for frame in found] == [False, True, False]
    assert [frame.name for frame in found] == [f"rtsp://hall/2#{number}" for number in range(3)]
    assert log == ["rtsp://user:secret@hall/2", "released", "rtsp://user:secret@hall/2"]


def test_a_camera_that_gives_nothing_any_more(camera: Callable[..., list[Any]]) -> None:
    log = camera(iter([(1, 1, 1), *[None] * 50]), iter([True] * 50))
    found: list[Frame] = []
    with pytest.raises(StreamError, match="gave none of the last 10 frames"):
        found.extend(Camera(3))
    found_again = list(take(Camera(3), sources.FAILURES))
    assert len(found_again) == sources.FAILURES
    assert log[-1] == "released"


def take(source: Camera, count: int) -> Iterator[Frame]:
    frames = iter(source)
    for _ in range(count):
        yield next(frames)
    with pytest.raises(StreamError):
        next(frames)


def test_a_camera_that_does_not_open_again(camera: Callable[..., list[Any]]) -> None:
    camera(iter([None]), iter([True, False]))
    frames = iter(Camera(0))
    assert isinstance(next(frames).image, ImageError)
    with pytest.raises(StreamError, match="camera 0 does not open"):
        next(frames)


@pytest.mark.parametrize("address", ["7", "http://user:secret@hall/1"])
def test_a_camera_that_does_not_open(address: str, camera: Callable[..., list[Any]]) -> None:
    camera(iter([]), iter([False]))
    with pytest.raises(StreamError, match="does not open") as error:
        open_source(address)
    assert "secret" not in str(error.value)


def test_a_real_camera_that_is_not_there(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(StreamError, match="camera 99 does not open"):
        open_source("99")


def test_a_stop_during_a_read_yields_no_further_frame(camera: Callable[..., list[Any]]) -> None:
    opened: list[Camera] = []

    def told_meanwhile() -> tuple[int, int, int]:
        opened[0].stop()
        return 2, 2, 2

    camera(iter([(1, 1, 1), told_meanwhile]), iter([True]))
    opened.append(Camera(0))
    assert len(list(opened[0])) == 1


def test_only_cameras_are_live(camera: Callable[..., list[Any]], tmp_path: Path) -> None:
    camera(iter([]), iter([True, True]))
    picture(tmp_path / "a.png")
    assert live(open_source("0"))
    assert live(open_source("0", rate=5))
    assert not live(open_source(tmp_path))
    assert not live(open_source(tmp_path, rate=5))


# Pace.


class Time:
    def __init__(self) -> None:
        self.now = 50.0
        self.waits: list[float] = []

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds


def test_pace_keeps_even_distances(tmp_path: Path) -> None:
    time, at = Time(), []
    for _ in Paced(Pictures([tmp_path] * 5), 4.0, time, time.wait):
        at.append(time.now)
        time.now += 0.125  # what takes the frame takes its time, too
    assert at == [50.0, 50.25, 50.5, 50.75, 51.0]


def test_frames_that_are_late_do_not_come_in_a_burst(tmp_path: Path) -> None:
    time, at = Time(), []
    for number, _ in enumerate(Paced(Pictures([tmp_path] * 6), 4.0, time, time.wait)):
        at.append(time.now)
        if number == 1:
            time.now += 10
    assert at == [50.0, 50.25, 60.25, 60.25, 60.5, 60.75], "one makes up for the time lost, not forty"


def test_a_paced_source_that_is_told_to_stop_does_not_wait(tmp_path: Path) -> None:
    inner = Pictures([tmp_path] * 5)
    source = Paced(inner, 1e-6)
    found: list[Frame] = []
    first = Event()

    def draw() -> None:
        for frame in source:
            found.append(frame)
            first.set()

    thread = Thread(target=draw)
    thread.start()
    first.wait()
    source.stop()
    thread.join()  # the next frame would be due in eleven days
    assert len(found) == 1
    assert list(inner) == [], "the source itself is told, too"


@pytest.mark.parametrize("rate", [0, -1.0, float("nan"), float("inf")])
def test_rates_out_of_range(rate: float, tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    with pytest.raises(StreamError, match="rate="):
        open_source(tmp_path, rate=rate)
