"""What a run tells while it is under way."""

from __future__ import annotations

from sightline.dataset.rows import Failure


class Watcher:
    """Told of everything that happens; every method may be left as it is."""

    def listed(self, done: int, total: int) -> None:
        """So many files have been looked at."""

    def began(self, done: int, total: int, workers: int) -> None:
        """So many of the images are done before the work begins."""

    def image(self, failure: Failure | None) -> None:
        """One more image is done; it may have failed."""

    def died(self, cause: str) -> None:
        """A worker died and is replaced."""
