"""Shards made by processes of this machine. A worker that dies is replaced, and its shard begun again by another."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import connection
from multiprocessing.context import SpawnProcess
from typing import Any

from sightline.dataset import attempts, worker
from sightline.dataset.environment import SINGLE
from sightline.dataset.shards import Shard
from sightline.dataset.watcher import Watcher
from sightline.dataset.work import DEATHS, Done, Place
from sightline.errors import DatasetError

FRUITLESS = DEATHS + 3
"""So many deaths over a shard, none of its images done in between, end the run: it is not an image that kills."""

logger = logging.getLogger(__name__)


@dataclass
class _Count:
    """How far a shard has come, over all attempts."""

    images: int = 0
    fruitless: int = 0
    """Deaths since the last image."""


@dataclass(eq=False)
class _Worker:
    process: SpawnProcess
    pipe: connection.Connection[Any, Any]
    number: int
    order: worker.Order | None = None


@dataclass
class Pool:
    """Makes shards with a number of processes."""

    place: Place
    workers: int
    devices: Sequence[Mapping[str, str]] = ({},)
    """Environment variables of the workers, taken in turn: which GPU each may see."""
    watcher: Watcher = field(default_factory=Watcher)

    def run(self, shards: Sequence[Shard], done: int, total: int) -> None:
        """Make all of them.

        Args:
            shards: what there is to do.
            done: images that are done before.
            total: images of the set.

        Raises:
            DatasetError: a worker cannot work at all, or workers die over and over.
        """
        self.watcher.began(done, total, self.workers)
        self._waiting = deque(shards)
        self._counts = {shard.name: _Count() for shard in shards}
        self._alive: list[_Worker] = []
        try:
            while self._waiting or any(one.order for one in self._alive):
                self._fill()
                self._listen()
        finally:
            self._stop()

    def _fill(self) -> None:
        """Give every idle worker a shard, and replace the dead."""
        for one in self._alive:
            if one.order is None and self._waiting:
                self._give(one)
        while self._waiting and len(self._alive) < self.workers:
            taken = {one.number for one in self._alive}
            one = self._started(next(number for number in range(self.workers) if number not in taken))
            self._alive.append(one)
            self._give(one)

    def _give(self, one: _Worker) -> None:
        shard = self._waiting.popleft()
        one.order = worker.Order(shard, attempts.fresh(self.place.out, shard.name))
        with suppress(OSError):  # it is dead, which its sentinel will tell
            one.pipe.send(one.order)

    def _started(self, number: int) -> _Worker:
        ours, theirs = multiprocessing.Pipe()
        environment = dict(self.devices[number % len(self.devices)])
        level = logging.getLogger("sightline").getEffectiveLevel()
        process = multiprocessing.get_context("spawn").Process(
            target=worker.main, args=(theirs, self.place, level, environment), name=f"sightline-{number}", daemon=True
        )
        with _inherited():
            process.start()
        theirs.close()  # the worker's end is the worker's alone: when it dies, ours is at its end
        return _Worker(process, ours, number)

    def _listen(self) -> None:
        """Wait until something is said or somebody dies."""
        by_handle: dict[Any, _Worker] = {}
        for one in self._alive:
            by_handle |= {one.pipe: one, one.process.sentinel: one}
        for one in dict.fromkeys(by_handle[ready] for ready in connection.wait(list(by_handle))):
            if not self._heard(one):
                self._bury(one)

    def _heard(self, one: _Worker) -> bool:
        """Take what a worker has said; False if it is dead."""
        alive = one.process.is_alive()  # first: what it said before it died is heard below
        try:
            while one.pipe.poll():
                self._take(one, one.pipe.recv())
        except (EOFError, OSError):
            return False
        return alive

    def _take(self, one: _Worker, said: object) -> None:
        assert one.order is not None
        count = self._counts[one.order.shard.name]
        if isinstance(said, Done):
            if said.index >= count.images:  # otherwise an earlier attempt has told of it
                count.images, count.fruitless = said.index + 1, 0
                self.watcher.image(said.failure)
        elif isinstance(said, worker.Finished):
            logger.info("%s is written", one.order.shard.name)
            one.order = None
        elif isinstance(said, worker.Stuck):
            raise DatasetError(f"the workers cannot work: {said.reason}")

    def _bury(self, one: _Worker) -> None:
        one.process.join()
        one.pipe.close()
        self._alive.remove(one)
        cause = _cause(one.process.exitcode)
        if one.order is None:
            return
        name = one.order.shard.name
        logger.info("worker %d was %s over %s, which is begun again", one.number, cause, name)
        attempts.died(one.order.attempt, cause)
        self._waiting.appendleft(one.order.shard)
        self.watcher.died(cause)
        count = self._counts[name]
        count.fruitless += 1
        if count.fruitless >= FRUITLESS:
            raise DatasetError(
                f"{FRUITLESS} workers died over {name} without finishing an image, the last one {cause}: is there "
                "enough memory for so many workers (--workers)? 'sightline explain' on one of its images may tell more."
            )

    def _stop(self) -> None:
        for one in self._alive:
            one.process.kill()
        for one in self._alive:
            one.process.join()
            one.pipe.close()
            if one.order is not None:
                attempts.stopped(one.order.attempt)
        self._alive = []


def _cause(code: int | None) -> str:
    if code is not None and code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return f"killed by {name}" + (" (no memory left?)" if name == "SIGKILL" else "")
    return f"ended with exit code {code}"


@contextmanager
def _inherited() -> Iterator[None]:
    """What a process started now is to have from its beginning: NumPy's threads, and no ear for Ctrl-C.

    Ctrl-C reaches every process of a terminal; what becomes of the workers is this process's business.
    """
    before = {name: os.environ.get(name) for name in SINGLE}
    blocked = hasattr(signal, "pthread_sigmask")
    mask: Iterable[signal.Signals | int] = ()
    try:
        os.environ.update(dict.fromkeys(SINGLE, "1"))
        if blocked:
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        if blocked:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
