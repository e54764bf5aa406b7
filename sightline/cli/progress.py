"""A progress bar of masked passes, on a terminal only."""

from __future__ import annotations

import sys
from types import TracebackType

from tqdm import tqdm


class Progress:
    """Callable as ``progress(done, total)``, once per batch; one bar, started anew for every image."""

    def __init__(self, unit: str = " passes") -> None:
        self._bar = tqdm(disable=not sys.stderr.isatty(), file=sys.stderr, unit=unit, leave=False, delay=0.3)

    def image(self, name: str) -> None:
        """The passes that follow belong to this image."""
        self._bar.set_description(name, refresh=False)

    def __call__(self, done: int, total: int) -> None:
        if done < self._bar.n or total != self._bar.total:
            self._bar.reset(total)
        self._bar.update(done - self._bar.n)

    def say(self, line: str, *, error: bool = False) -> None:
        """Print a line without tearing the bar."""
        self._bar.clear()
        print(line, file=sys.stderr if error else sys.stdout, flush=True)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
