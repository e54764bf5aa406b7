"""Shards made on a cluster by Ray Data: the same shards, by the same function, one actor a GPU or group of cores.

Ray starts an actor that died anew and gives it its shard once more. Every node must see the images and the results at
the same place. Ray is imported when a run asks for it, and never otherwise.
"""

from __future__ import annotations

import logging
import os
import pickle
import re
import secrets
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sightline.bindings.engine import Device
from sightline.dataset import attempts, work
from sightline.dataset.environment import SINGLE
from sightline.dataset.shards import Shard
from sightline.dataset.watcher import Watcher
from sightline.dataset.work import Done, Place
from sightline.errors import DatasetError, MissingPackageError, SightlineError

LOCAL = "local"
"""The address of a cluster that is this machine alone, started for the run."""
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
}
"""No telemetry, no progress bars beside our own, no talk of Ray's own processes."""
_TOKEN = "RAY_AUTH_TOKEN"
_PORT = re.compile(r"(ray://)?\[?(?P<host>[^\[\]/]+)\]?:(?P<port>\d{1,5})")
KNOCK_SECONDS = 10.0
"""In which the head of a cluster answers, if it is there."""

logger = logging.getLogger(__name__)


class Actor:
    """What runs in an actor: an explainer, kept from one shard to the next."""

    def __init__(self, place: Place) -> None:
        self._explaining = work.Explaining(place)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Make the shards of a batch; tells of each what became of its images, or why no worker can work."""
        return {"result": [pickle.dumps(self._made(pickle.loads(task))) for task in batch["task"]]}

    def _made(self, shard: Shard) -> list[Done] | str:
        done: list[Done] = []
        attempt = attempts.fresh(self._explaining.place.out, shard.name)
        try:
            work.make(shard, attempt, self._explaining, done.append)
        except SightlineError as error:
            attempts.stopped(attempt)
            return str(error)
        return done


@dataclass
class Cluster:
    """Makes shards with a number of actors."""

    place: Place
    address: str
    """Of the cluster; ``auto``, or ``LOCAL``."""
    actors: int | None
    """None for as many as the cluster has room for."""
    memory: int
    """Bytes that an actor is expected to hold, which Ray sets aside for it where engines run on the processor."""
    device: Device
    watcher: Watcher = field(default_factory=Watcher)

    def run(self, shards: Sequence[Shard], done: int, total: int) -> None:
        """Make all of them.

        Args:
            shards: what there is to do.
            done: images that are done before.
            total: images of the set.

        Raises:
            MissingPackageError: Ray is not installed.
            DatasetError: the cluster cannot be reached, or its workers cannot work.
        """
        if not shards:
            self.watcher.began(done, total, 0)
            return
        before = attempts.all_of(self.place.out)
        with _connected(self.address) as ray:
            try:
                resources, actors = self._resources(ray, len(shards))
                self.watcher.began(done, total, actors)
                tasks = [{"task": pickle.dumps(shard)} for shard in shards]
                data = ray.data.from_items(tasks, override_num_blocks=len(tasks)).map_batches(
                    Actor,
                    fn_constructor_args=(self.place,),
                    batch_size=1,
                    batch_format="numpy",
                    compute=ray.data.ActorPoolStrategy(size=actors),
                    **resources,
                )
                for row in data.iter_rows():
                    self._take(pickle.loads(row["result"]))
            except ray.exceptions.RayError as error:
                raise DatasetError(f"Ray could not go on: {str(error).strip().splitlines()[-1]}") from error
            finally:
                for attempt in attempts.all_of(self.place.out) - before:
                    attempts.stopped(attempt)

    def _take(self, made: list[Done] | str) -> None:
        if isinstance(made, str):
            raise DatasetError(f"the workers cannot work: {made}")
        for one in made:
            self.watcher.image(one.failure)

    def _resources(self, ray: Any, shards: int) -> tuple[dict[str, Any], int]:
        """What an actor claims, and how many actors there are to be.

        Ray Data's own tasks need a core, so the actors never claim all: they would starve what feeds them.
        """
        there = ray.cluster_resources()
        threads = self.place.recipe.threads
        total = float(there.get("CPU", 1))
        if self.device == "cuda":
            usual = int(there.get("GPU", 0))
            if usual < 1:
                raise DatasetError(f"the cluster at {self.address!r} has no GPU for {self.place.recipe.engine}.")
        else:
            usual = max(1, int(total) // threads)
        actors = max(1, min(self.actors or usual, shards))
        claimed: dict[str, Any] = {"num_cpus": min(threads, max(total - 1, total / 2) / actors)}
        if self.device == "cuda":
            claimed["num_gpus"] = min(1.0, usual / actors)
        else:
            claimed["memory"] = self.memory
        return claimed, actors


@contextmanager
def _connected(address: str) -> Iterator[Any]:
    """Ray, connected to a cluster, and disconnected at the end.

    Raises:
        MissingPackageError: it is not installed.
        DatasetError: the cluster cannot be reached.
    """
    settings = dict(_QUIET)
    if address == LOCAL:
        # Otherwise Ray would make one and leave it in the user's home folder.
        settings[_TOKEN] = secrets.token_hex(32)
    with _added(settings):
        try:
            import ray
            import ray.data
            import ray.exceptions
        except ModuleNotFoundError as error:
            raise MissingPackageError("ray", purpose="a set explained on a cluster", extra="ray") from error
        try:
            _knock(address)
            ray.init(
                address=address,
                include_dashboard=False if address == LOCAL else None,
                log_to_driver=False,
                logging_level=logging.ERROR,
                runtime_env={"env_vars": dict.fromkeys(SINGLE, "1")},
            )
        except (OSError, OverflowError, RuntimeError, ValueError) as error:
            raise DatasetError(
                f"there is no Ray cluster at {address!r} ({error}): name its address, 'auto' or 'local'."
            ) from error
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        try:
            yield ray
        finally:
            ray.shutdown()


def _knock(address: str) -> None:
    """Where an address names a port that nobody listens at, raise OSError: Ray would try again for minutes."""
    if found := _PORT.fullmatch(address):
        socket.create_connection((found["host"], int(found["port"])), KNOCK_SECONDS).close()


@contextmanager
def _added(settings: Mapping[str, str]) -> Iterator[None]:
    """Environment variables where they are not set, as long as it takes."""
    added = {name: value for name, value in settings.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
