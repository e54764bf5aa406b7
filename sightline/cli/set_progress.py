"""A progress bar of images, on a terminal only; what fails is said in any case."""

from __future__ import annotations

import sys
from types import TracebackType

from tqdm import tqdm

from sightline.dataset import Failure, Watcher


class SetProgress(Watcher):
    """Images done, of all, per second, the time that is left, and how many workers there are."""

    def __init__(self) -> None:
        self._silent = not sys.stderr.isatty()
        self._bar = self._opened("looking at files", " files", 0, None)

    def listed(self, done: int, total: int) -> None:
        """Count the files that are looked at."""
        self._bar.total = total
        self._bar.update(done - self._bar.n)

    def began(self, done: int, total: int, workers: int) -> None:
        """Start a bar whose rate counts only what is done now."""
        self._bar.close()
        self._bar = self._opened(f"{workers} worker{'s' * (workers != 1)}", " images", done, total)

    def image(self, failure: Failure | None) -> None:
        """Count an image."""
        self._bar.update()
        if failure is not None:
            self.say(f"sightline: error: {named(failure)}")

    def died(self, cause: str) -> None:
        """Say that a worker is replaced."""
        self.say(f"sightline: a worker was {cause}; another one goes on")

    def say(self, line: str) -> None:
        """Print a line without tearing the bar."""
        self._bar.clear()
        print(line, file=sys.stderr, flush=True)

    def __enter__(self) -> SetProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def _opened(self, what: str, unit: str, done: int, total: int | None) -> tqdm[None]:
        return tqdm(
            desc=what,
            unit=unit,
            initial=done,
            total=total,
            file=sys.stderr,
            disable=self._silent,
            leave=False,
            delay=0.3,
            smoothing=0.05,
        )


def named(failure: Failure) -> str:
    """An image and why it failed, in characters that any terminal takes."""
    return f"{failure.path}: {failure.reason}".encode("utf-8", "backslashreplace").decode()
