"""How much may be held in memory at once, over all requests."""

from __future__ import annotations

from threading import Lock

from sightline.serving.refusal import RefusedError


class Room:
    """A number of bytes, or of pixels, that requests share. Any thread may take and give."""

    def __init__(self, size: int, what: str) -> None:
        self._size, self._what = size, what
        self._taken = 0
        self._lock = Lock()

    @property
    def taken(self) -> int:
        """What is held now."""
        return self._taken

    def check(self, amount: int) -> None:
        """Refuse now what would not find room now, without taking any.

        Raises:
            RefusedError: there is not so much left at the moment.
        """
        if self._taken + amount > self._size:
            raise RefusedError(
                429,
                f"the server holds {self._taken} of at most {self._size} {self._what} at the moment, and this request "
                f"needs {amount} more: send it again later.",
                retry=1,
            )

    def take(self, amount: int) -> None:
        """Take some of it.

        Raises:
            RefusedError: as for :meth:`check`.
        """
        with self._lock:
            self.check(amount)
            self._taken += amount

    def give(self, amount: int) -> None:
        """Give back what was taken."""
        with self._lock:
            self._taken -= amount
