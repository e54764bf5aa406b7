"""From the bytes of a request to what became of its images: what all verbs share."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from pydantic import BaseModel
from starlette.requests import Request as HttpRequest

from sightline.bundle import ImageInput
from sightline.errors import SightlineError, TargetError
from sightline.serving import bodies
from sightline.serving.bodies import ClientGone
from sightline.serving.decoding import Encoded, Picture, encoded
from sightline.serving.limits import HELD_ANSWERS, HELD_BODIES, HELD_PICTURES, Limits
from sightline.serving.models import Served
from sightline.serving.refusal import RefusedError, refusal
from sightline.serving.room import Room
from sightline.serving.scheduler import Outcome, Ticket
from sightline.serving.schemas import Instance
from sightline.serving.visit import Visit

T = TypeVar("T")
Schema = TypeVar("Schema", bound=BaseModel)


class Desk:
    """Reads, decodes and encodes on threads of its own, so that neither the event loop nor the explainer does."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.bytes = Room(HELD_BODIES * limits.max_bytes, "bytes")
        self.values = Room(limits.max_bytes, "JSON values")
        self.answers = Room(HELD_ANSWERS * limits.max_bytes, "bytes of answers")
        self.pixels = Room(HELD_PICTURES * limits.max_pixels, "pixels")
        self._slow = ThreadPoolExecutor(1, thread_name_prefix="slow")
        self._pool = ThreadPoolExecutor(min(4, (os.cpu_count() or 1) + 1), thread_name_prefix="desk")

    async def off(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run a function on one of the desk's threads."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)

    async def slowly(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run a function that may take minutes, on a thread that nobody waits for who asks for less."""
        return await asyncio.get_running_loop().run_in_executor(self._slow, function, *arguments)

    async def asked(self, request: HttpRequest, visit: Visit, schema: type[Schema], most_values: int) -> Schema:
        """What a request says.

        Raises:
            RefusedError: it says nothing that can be answered.
            ClientGone: the client left.
        """
        body = await bodies.read(request, visit, self.bytes, self.limits.max_bytes)
        count = await self.off(bodies.values, body, most_values)
        if count > bodies.MOST_VALUES:
            visit.hold(self.values, count)
        return await self.off(bodies.parsed, body, schema)

    def answer(self, visit: Visit, amount: int) -> None:
        """Take room for the maps of an answer, in bytes, before they are computed.

        Raises:
            RefusedError: 413 where there never is so much, 429 where there is not now.
        """
        most = HELD_ANSWERS * self.limits.max_bytes // 2
        if amount > most:
            raise RefusedError(
                413, f"the answer would hold up to {amount} bytes of maps, more than {most}: ask for less at a time."
            )
        visit.hold(self.answers, amount)

    async def files(self, visit: Visit, instances: Sequence[Instance]) -> list[Encoded]:
        """The image files of a request, their headers checked.

        Raises:
            RefusedError: there are too many, or one is none.
        """
        self.counted(visit, len(instances))
        return await self.off(
            lambda: [
                encoded(bodies.unpacked(one.b64, place := f"instances[{i}].b64"), place, self.limits.max_pixels)
                for i, one in enumerate(instances)
            ]
        )

    def counted(self, visit: Visit, count: int) -> None:
        """Note how many images a request has.

        Raises:
            RefusedError: too many.
        """
        if count > self.limits.queue:
            raise RefusedError(413, f"{count} images are more than the {self.limits.queue} that one request may hold.")
        visit.images = count

    async def pictures(self, visit: Visit, files: Sequence[Encoded], expected: ImageInput) -> list[Picture]:
        """The images of a request, decoded.

        Raises:
            RefusedError: one is damaged, or there is no room for so many pixels.
        """
        visit.hold(self.pixels, sum(file.pixels for file in files))
        return list(await asyncio.gather(*(self.off(file.decode, expected) for file in files)))

    async def outcomes(
        self, request: HttpRequest, visit: Visit, served: Served, tickets: Sequence[Ticket], places: Sequence[str]
    ) -> list[Outcome]:
        """Put images into the queue of a model, and wait until they are explained.

        Args:
            request: whose client is waiting.
            visit: notes what it cost.
            served: the model.
            tickets: of one request, all with the same deadline.
            places: what messages call the images.

        Raises:
            RefusedError: the queue is full, the deadline passed, or an image cannot be explained.
            ClientGone: the client left.
        """
        served.scheduler.submit(tickets)
        ends = None if tickets[0].deadline is None else tickets[0].arrived + tickets[0].deadline
        try:
            found = await settled(request, [ticket.future for ticket in tickets], places, ends)
        finally:
            for ticket in tickets:
                ticket.left = True
        for ticket, outcome in zip(tickets, found, strict=True):
            visit.lasted("queue", outcome.queued)
            visit.lasted("explain", time.perf_counter() - ticket.turn)
            visit.passes += sum(one.passes for one in outcome.explanations[:1])
        return found

    def close(self) -> None:
        """Let the threads end."""
        for pool in (self._pool, self._slow):
            pool.shutdown(wait=False, cancel_futures=True)


async def settled(
    request: HttpRequest, futures: Sequence[Future[T]], places: Sequence[str], ends: float | None = None
) -> list[T]:
    """What becomes of futures, while somebody waits for them.

    Those that nobody waits for any more are cancelled: the client has left, one of them failed, or none of the others
    can be had before ``ends`` (by ``time.perf_counter``).

    Raises:
        RefusedError: the first one that failed; or 504 at ``ends`` where one had not begun.
        ClientGone: the client left.
    """
    wrapped = [asyncio.wrap_future(future) for future in futures]
    gone = asyncio.ensure_future(_gone(request))
    pending: set[asyncio.Future[Any]] = set(wrapped)
    try:
        while pending:
            left = None if ends is None else max(0.0, ends - time.perf_counter())
            done, _ = await asyncio.wait({*pending, gone}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            pending -= done
            for place, future in zip(places, wrapped, strict=True):
                if future in done and (error := future.exception()) is not None:
                    raise refusal(error, place) if isinstance(error, SightlineError) else error
            if gone in done:
                raise ClientGone
            if not done:
                ends = None  # what has begun ends by itself: with the best map so far
                cancelled = [future.cancel() for future in futures]
                if any(cancelled):
                    raise RefusedError(504, "the deadline passed while the request waited: nothing was computed.")
        return [future.result() for future in wrapped]
    finally:
        gone.cancel()
        for future in wrapped:
            if not future.cancel() and not future.cancelled():
                future.exception()  # seen: asyncio need not complain


async def _gone(request: HttpRequest) -> None:
    """Returns when the client closes the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def target(served: Served, given: int | str | None, place: str) -> int | None:
    """The index of a class.

    Raises:
        RefusedError: there is none.
    """
    try:
        return None if given is None else served.bundle.target(given)
    except TargetError as error:
        raise refusal(error, place) from error
