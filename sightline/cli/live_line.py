"""A line of text that is always the last one, on a terminal only."""

from __future__ import annotations

import sys
from types import TracebackType

from tqdm import tqdm


class LiveLine:
    """Shows how something that never ends is doing, and lets other lines pass above it."""

    def __init__(self) -> None:
        self._bar = tqdm(disable=not sys.stderr.isatty(), file=sys.stderr, bar_format="{desc}", leave=False)

    def show(self, text: str) -> None:
        """Replace the line; redrawn a few times a second at most."""
        self._bar.set_description_str(text, refresh=False)
        self._bar.update()

    def say(self, line: str, *, error: bool = False) -> None:
        """Print another line without tearing this one."""
        self._bar.clear()
        print(line, file=sys.stderr if error else sys.stdout, flush=True)

    def __enter__(self) -> LiveLine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
