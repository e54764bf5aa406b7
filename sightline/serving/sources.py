"""Where the frames of a stream come from: pictures on disk, a video, a camera; and at what pace.

Every source yields :class:`~sightline.runtime.frames.Frame` with a name and a time, and can be told to stop. OpenCV is
needed for videos and cameras only, and loads with the first one.
"""

from __future__ import annotations

import glob
import itertools
import logging
import math
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from threading import Event
from types import ModuleType
from typing import Any

import numpy as np

from sightline.errors import ImageError, MissingPackageError, StreamError
from sightline.runtime.frames import Frame, Source
from sightline.runtime.pictures import named_like_one, suffixes

logger = logging.getLogger(__name__)

VIDEOS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm", ".wmv")
"""Suffixes of files that are opened as videos."""
FAILURES = 10
"""Frames in a row that a camera may fail to give, opened again after each, before it counts as gone."""
_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)


def open_source(source: str | os.PathLike[str], *, rate: float | None = None) -> Source:
    """Find out what a source is, and open it.

    Args:
        source: the number of a camera (``0``); the address of one (``rtsp://…``); a video, by its suffix; a folder,
            for the pictures directly in it; a pattern (``line/**/*.png``); or a picture.
        rate: frames per second at most; None for as they come: from files as fast as they are taken.

    Raises:
        StreamError: nothing matches, or it cannot be opened.
        MissingPackageError: it takes OpenCV, which is not installed.
    """
    if rate is not None and not 0 < rate < math.inf:
        raise StreamError(f"rate={rate!r} is out of range: choose frames per second above 0, or None.")
    found = _source(os.fspath(source))
    return found if rate is None else Paced(found, rate)


def live(source: Source) -> bool:
    """Whether frames are lost to whoever does not take them in time: from a camera."""
    return live(source.source) if isinstance(source, Paced) else isinstance(source, Camera)


def _source(text: str) -> Source:
    if text.isdecimal() and not Path(text).exists():
        return Camera(int(text))
    if _URL.match(text):
        return Camera(text)
    path = Path(text)
    if path.is_dir():
        known = suffixes()
        inside = sorted(file for file in path.iterdir() if named_like_one(file, known) and file.is_file())
        if not inside:
            raise StreamError(f"the folder {text} holds no pictures: name the folder in which they lie, or a pattern.")
        return Pictures(inside)
    if path.is_file():
        return Video(path) if path.suffix.lower() in VIDEOS else Pictures([path])
    if glob.has_magic(text):
        matching = [Path(name) for name in sorted(glob.glob(text, recursive=True)) if os.path.isfile(name)]
        if not matching:
            raise StreamError(f"no file matches {text!r}: quote the pattern, and check it from this folder.")
        return Pictures(matching)
    raise StreamError(
        f"there is nothing to read frames from at {text!r}: name a folder, a pattern, a picture, a video "
        f"({', '.join(VIDEOS)}), the number of a camera or its address (rtsp://…)."
    )


class Pictures:
    """Files, in the order given. One that cannot be read becomes a failed frame where it is decoded."""

    def __init__(self, paths: Sequence[str | os.PathLike[str]]) -> None:
        self.paths = [Path(path) for path in paths]
        self._stopped = Event()

    def __iter__(self) -> Iterator[Frame]:
        """Named after their paths; the time is that of the file's last change, in seconds since 1970."""
        for path in self.paths:
            if self._stopped.is_set():
                return
            try:
                changed = path.stat().st_mtime
            except OSError:
                changed = None
            yield Frame(path, str(path), changed)

    def stop(self) -> None:
        """Yield no more."""
        self._stopped.set()


class Video:
    """The frames of a file, once, from the first to the last."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open it.

        Raises:
            StreamError: OpenCV cannot.
            MissingPackageError: OpenCV is not installed.
        """
        self.path = Path(path)
        self._cv2 = _opencv()
        self._capture = self._cv2.VideoCapture(os.fspath(self.path))
        self._stopped = Event()
        if not self._capture.isOpened():
            raise StreamError(
                f"{self.path} cannot be opened as a video: it is damaged, or OpenCV lacks its codec. Write it again as "
                "MJPG (.avi) or H.264 (.mp4), or as pictures."
            )

    def __iter__(self) -> Iterator[Frame]:
        """Named ``file#number``; the time is the position in the video, in seconds."""
        told = int(self._capture.get(self._cv2.CAP_PROP_FRAME_COUNT))
        try:
            for number in itertools.count():
                if self._stopped.is_set():
                    return
                if not self._capture.grab():
                    break
                position = self._capture.get(self._cv2.CAP_PROP_POS_MSEC) / 1000  # of the frame just grabbed
                good, pixels = self._capture.retrieve()
                yield _frame(good, pixels, f"{self.path}#{number}", position)
        finally:
            self._capture.release()
        if number < told:
            logger.warning(
                "%s ends after %d frames, though it announces %d: it may be cut off", self.path, number, told
            )

    def stop(self) -> None:
        """Yield no more."""
        self._stopped.set()


class Camera:
    """A camera of this machine or of the network. Ends when it is told to, or when the camera is gone."""

    def __init__(self, address: int | str, clock: Callable[[], float] = time.time) -> None:
        """Open it.

        Args:
            address: its number, or its URL.
            clock: what the time of a frame is taken from.

        Raises:
            StreamError: it does not open.
            MissingPackageError: OpenCV is not installed.
        """
        self.address, self._clock = address, clock
        self._cv2 = _opencv()
        self._stopped = Event()
        self._capture = self._opened()

    def __iter__(self) -> Iterator[Frame]:
        """Named ``camera#number``; the time is that at which it was read, in seconds since 1970.

        A frame that the camera fails to give is a failed one, and the camera is opened again.

        Raises:
            StreamError: the camera is gone.
        """
        failures = 0
        try:
            for number in itertools.count():
                if self._stopped.is_set():
                    return
                good, pixels = self._capture.read()
                if self._stopped.is_set():
                    return
                frame = _frame(good, pixels, f"{self._name}#{number}", self._clock())
                failures = 0 if good else failures + 1
                yield frame
                if failures == FAILURES:
                    raise StreamError(
                        f"{self._name} gave none of the last {FAILURES} frames, though it was opened again for each: "
                        "check its cable or network."
                    )
                if not good:
                    logger.warning("%s does not answer: opening it again", self._name)
                    self._capture.release()
                    self._capture = self._opened()
        finally:
            self._capture.release()

    def stop(self) -> None:
        """Yield no more; a read under way is finished."""
        self._stopped.set()

    @property
    def _name(self) -> str:
        # A password in an address is nobody's business.
        return f"camera {self.address}" if isinstance(self.address, int) else re.sub(r"//[^/@]*@", "//", self.address)

    def _opened(self) -> Any:
        capture = self._cv2.VideoCapture(self.address)
        if not capture.isOpened():
            raise StreamError(
                f"{self._name} does not open: check that it is connected, that no other program has it, and that its "
                "number or address is right."
            )
        return capture


class Paced:
    """Another source, at no more than so many frames per second.

    Frames are due at even distances. One that is drawn late does not make those after it come in a burst.
    """

    def __init__(
        self,
        source: Source,
        rate: float,
        clock: Callable[[], float] = time.perf_counter,
        wait: Callable[[float], object] | None = None,
    ) -> None:
        """Pace a source.

        Args:
            source: drawn from when a frame is due.
            rate: frames per second.
            clock: in seconds.
            wait: waits for so many seconds, or until the source is stopped.
        """
        self.source, self._period, self._clock = source, 1 / rate, clock
        self._stopped = Event()
        self._wait = wait or self._stopped.wait

    def __iter__(self) -> Iterator[Frame]:
        """The frames of the other source."""
        frames = iter(self.source)
        due = self._clock()
        try:
            while True:
                if (early := due - self._clock()) > 0:
                    self._wait(early)
                if self._stopped.is_set():
                    return
                due = max(due, self._clock() - self._period) + self._period
                try:
                    frame = next(frames)
                except StopIteration:
                    return
                yield frame
        finally:
            if callable(close := getattr(frames, "close", None)):
                close()

    def stop(self) -> None:
        """Yield no more, and wait no longer."""
        self._stopped.set()
        self.source.stop()


def _opencv() -> ModuleType:
    try:
        import cv2
    except ModuleNotFoundError as error:
        raise MissingPackageError("cv2", purpose="reading a video or a camera", extra="video") from error
    return cv2


def _frame(good: bool, pixels: Any, name: str, when: float) -> Frame:
    """What OpenCV read, as RGB."""
    if not good or pixels is None:
        return Frame(ImageError(f"{name} could not be read from its source."), name, when)
    return Frame(np.ascontiguousarray(pixels[:, :, ::-1]) if pixels.ndim == 3 else pixels, name, when)
