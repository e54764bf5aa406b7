"""A bounded queue between two threads, which ends once, can be stopped at any time, and may drop instead of waiting."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from threading import Condition
from typing import Generic, Literal, TypeVar

T = TypeVar("T")
_SIGNALS = 0.5
"""Seconds after which the main thread notices Ctrl-C, had it come in the very moment in which it began to wait."""
WhenFull = Literal["wait", "drop-oldest"]


class Stopped(Exception):  # noqa: N818 - no error
    """Nobody is interested any more. Ends the thread that meets it."""


@dataclass(frozen=True, eq=False)
class End:
    """What comes after the last item."""

    error: BaseException | None = None
    """Why there are no more; None where there were no more to come."""


class Channel(Generic[T]):
    """Items in order. The end is never dropped, and is found again by whoever asks again."""

    def __init__(self, capacity: int, when_full: WhenFull = "wait") -> None:
        self._capacity, self._when_full = capacity, when_full
        self._items: deque[T] = deque()
        self._end: End | None = None
        self._stopped = False
        self._changed = Condition()

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: T) -> T | None:
        """Add an item; where there is no room, wait for some, or make some.

        Returns:
            the oldest item, where it was dropped to make room.

        Raises:
            Stopped: the channel is stopped, or was ended by another thread.
        """
        with self._changed:
            if self._when_full == "wait":
                self._changed.wait_for(lambda: self._closed or len(self._items) < self._capacity)
            if self._closed:
                raise Stopped
            dropped = self._items.popleft() if len(self._items) == self._capacity else None
            self._items.append(item)
            self._changed.notify_all()
            return dropped

    def get(self) -> T | End:
        """Take the oldest item, waiting for one; after the last one, the end.

        Raises:
            Stopped: the channel is stopped.
        """
        with self._changed:
            while not self._changed.wait_for(lambda: self._closed or len(self._items) > 0, _SIGNALS):
                pass
            found = self._taken()
            assert found is not None  # it waited for one
            return found

    def poll(self) -> T | End | None:
        """Take the oldest item, or the end, or None where there is neither yet.

        Raises:
            Stopped: the channel is stopped.
        """
        with self._changed:
            return self._taken()

    def end(self, error: BaseException | None = None) -> None:
        """Say that no more will come. Only the first word counts."""
        with self._changed:
            self._end = self._end or End(error)
            self._changed.notify_all()

    def stop(self) -> None:
        """Wake up everybody who waits, and let go of what is held."""
        with self._changed:
            self._stopped = True
            self._items.clear()
            self._changed.notify_all()

    @property
    def _closed(self) -> bool:
        return self._stopped or self._end is not None

    def _taken(self) -> T | End | None:
        if self._stopped:
            raise Stopped
        if self._items:
            self._changed.notify_all()
            return self._items.popleft()
        return self._end
