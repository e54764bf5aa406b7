"""The process of one worker: shards come in through a pipe, what becomes of their images goes out."""

from __future__ import annotations

import logging
import os
import threading
from dataclasses import dataclass
from multiprocessing import connection, parent_process
from pathlib import Path
from typing import Any

from sightline.dataset import attempts, work
from sightline.dataset.shards import Shard
from sightline.errors import SightlineError


@dataclass(frozen=True)
class Order:
    """Make this shard."""

    shard: Shard
    attempt: Path


@dataclass(frozen=True)
class Finished:
    """The shard is written."""


@dataclass(frozen=True)
class Stuck:
    """The worker cannot work at all, and neither could another one: the run is over."""

    reason: str


def main(pipe: connection.Connection[Any, Any], place: work.Place, level: int, environment: dict[str, str]) -> None:
    """Make shards until the pipe is closed.

    Args:
        pipe: gives :class:`Order`, takes :class:`~sightline.dataset.work.Done`, :class:`Finished` and :class:`Stuck`.
        place: of the set.
        level: of the log.
        environment: variables to set first, e.g. which GPU to use.
    """
    os.environ.update(environment)
    logging.basicConfig(level=logging.WARNING, format=f"sightline: worker {os.getpid()}: %(levelname)s: %(message)s")
    logging.getLogger("sightline").setLevel(level)
    watch = _Watch()
    with work.Explaining(place) as explaining:
        while True:
            try:
                order: Order = pipe.recv()
            except EOFError:
                return
            watch.attempt = order.attempt
            try:
                work.make(order.shard, order.attempt, explaining, pipe.send)
                watch.attempt = None
                pipe.send(Finished())
            except SightlineError as error:
                attempts.stopped(order.attempt)
                pipe.send(Stuck(str(error)))
                return
            except BrokenPipeError:
                return  # nobody listens any more


class _Watch:
    """Ends this process when its parent dies, however that dies, before another run can begin to write."""

    def __init__(self) -> None:
        self.attempt: Path | None = None
        parent = parent_process()
        assert parent is not None  # main() is the target of a process
        self._parent = parent.sentinel
        threading.Thread(target=self._wait, daemon=True).start()

    def _wait(self) -> None:
        connection.wait([self._parent])
        if self.attempt is not None:
            attempts.stopped(self.attempt)
        os._exit(1)
