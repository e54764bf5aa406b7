"""A line of text that is always the last one, on a terminal only."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from types import TracebackType

_INTERVAL = 0.1
"""Seconds between two changes of the line: nobody reads faster."""
_CLEAR = "\r\x1b[2K"


class LiveLine:
    """Shows on stderr how something that never ends is doing, and lets other lines pass above it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._terminal = clock, sys.stderr.isatty()
        self._text, self._drawn = "", -_INTERVAL

    def show(self, text: str) -> None:
        """Replace the line: at once if the one before has been there for a moment, or else with whatever comes next."""
        if self._terminal:
            self._text = text
            if (now := self._clock()) - self._drawn >= _INTERVAL:
                self._drawn = now
                self._draw()

    def say(self, line: str, *, error: bool = False) -> None:
        """Print another line above this one."""
        self._erase()
        print(line, file=sys.stderr if error else sys.stdout, flush=True)
        self._draw()

    def __enter__(self) -> LiveLine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._erase()

    def _draw(self) -> None:
        if self._text:
            width = shutil.get_terminal_size().columns - 1  # a full line would break into two
            sys.stderr.write(_CLEAR + self._text[:width])
            sys.stderr.flush()

    def _erase(self) -> None:
        if self._text:
            sys.stderr.write(_CLEAR)
            sys.stderr.flush()
