"""One HTTP request on its way: what the log, the metrics and the limits have to know of it."""

from __future__ import annotations

import re
import time
import uuid
from dataclasses import dataclass, field

from sightline.serving.room import Room

_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(eq=False)
class Visit:
    """One request, from its first byte to its last."""

    id: str
    client: str
    method: str
    path: str
    arrived: float = field(default_factory=time.perf_counter)
    model: str = "-"
    """Its name where there is such a model: nothing that a client could make up."""
    verb: str = "-"
    """``predict``, ``explain``, ``decompose``, ``infer``."""
    images: int = 0
    passes: int = 0
    received: int = 0
    """Bytes of the body."""
    sent: int = 0
    status: int = 0
    error: str | None = None
    stages: dict[str, float] = field(default_factory=dict)
    """Seconds of the slowest image in the ``queue``, being explained (``explain``) and being written (``encode``)."""
    _held: list[tuple[Room, int]] = field(default_factory=list)

    def hold(self, room: Room, amount: int) -> None:
        """Take some of a room until the request is over.

        Raises:
            RefusedError: there is not so much left.
        """
        room.take(amount)
        self._held.append((room, amount))

    def release(self) -> None:
        """Give back what it held."""
        while self._held:
            room, amount = self._held.pop()
            room.give(amount)

    def lasted(self, stage: str, seconds: float) -> None:
        """Keep the longest time of a stage."""
        self.stages[stage] = max(seconds, self.stages.get(stage, 0.0))

    @property
    def timing(self) -> dict[str, str]:
        """The header that says what the stages took, in milliseconds."""
        if not self.stages:
            return {}
        return {"Server-Timing": ", ".join(f"{name};dur={seconds * 1e3:.1f}" for name, seconds in self.stages.items())}

    @property
    def seconds(self) -> float:
        """Since the request arrived."""
        return time.perf_counter() - self.arrived


def identity(given: str | None) -> str:
    """The id that a request brought, where it may be written into a log as it is; else a new one."""
    return given if given is not None and _ID.fullmatch(given) else uuid.uuid4().hex
