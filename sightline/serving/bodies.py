"""Bodies of requests: read up to a limit, held within a room, and turned into what the schemas say."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Sequence
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request as HttpRequest

from sightline.serving.limits import LIST_VALUES, READ_SECONDS
from sightline.serving.refusal import RefusedError, shortened
from sightline.serving.room import Room
from sightline.serving.visit import Visit

JSON = "application/json"
MOST_VALUES = 100_000
"""In a body that has no reason to hold more: a parsed value takes ten times its room."""

Model = TypeVar("Model", bound=BaseModel)


class ClientGone(Exception):  # noqa: N818 - not an error: nobody is left to tell
    """Whoever asked has closed the connection."""


async def read(request: HttpRequest, visit: Visit, room: Room, most: int, seconds: float = READ_SECONDS) -> bytes:
    """The body of a request.

    Args:
        request: announced as JSON.
        visit: holds the room that the body takes.
        room: for the bodies of all requests.
        most: bytes that one may have.
        seconds: in which it has to arrive.

    Raises:
        RefusedError: 415 where it is no JSON, 413 where it is too large (announced or not), 429 where there is no room,
            408 where it does not arrive.
        ClientGone: the client left before the end.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != JSON:
        raise RefusedError(415, f"the body is announced as {shortened(kind) or 'nothing'!r}: send {JSON}.")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise RefusedError(415, "compressed bodies are not taken: send it as it is.")
    announced = request.headers.get("content-length", "0")
    if announced.isdecimal() and int(announced) > most:
        raise RefusedError(
            413, f"the body of {announced[:20]} bytes is larger than {most}: send fewer or smaller images."
        )
    room.check(int(announced) if announced.isdecimal() else 0)  # room is taken by bytes that came, not by promises
    try:
        return await asyncio.wait_for(_received(request, visit, room, most), seconds)
    except asyncio.TimeoutError as error:
        raise RefusedError(408, f"the body did not arrive within {seconds:g} seconds: send it again.") from error


async def _received(request: HttpRequest, visit: Visit, room: Room, most: int) -> bytes:
    chunks: list[bytes] = []
    while True:
        message = await request.receive()
        if message["type"] != "http.request":
            raise ClientGone
        chunk: bytes = message.get("body", b"")
        visit.received += len(chunk)
        if visit.received > most:
            raise RefusedError(413, f"the body is larger than {most} bytes: send fewer or smaller images.")
        visit.hold(room, len(chunk))
        chunks.append(chunk)
        if not message.get("more_body", False):
            return b"".join(chunks)


def values(body: bytes, most: int) -> int:
    """How many values a body holds, at most; a list or an object counts for several.

    Raises:
        RefusedError: 413 where they are too many.
    """
    lists = body.count(b"[") + body.count(b"{")
    count = body.count(b",") + LIST_VALUES * lists
    if count > most:
        raise RefusedError(
            413, f"the body holds more than {most} values, a list counted for {LIST_VALUES}: send fewer, or flat."
        )
    return count


def parsed(body: bytes, schema: type[Model]) -> Model:
    """What a body says.

    Raises:
        RefusedError: 400 where it is no JSON, 422 where it is not what the schema says.
    """
    try:
        return schema.model_validate_json(body)
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False, include_context=False)
        if details[0]["type"] == "json_invalid":
            raise RefusedError(400, shortened(f"the body cannot be read: {details[0]['msg']}.")) from error
        raise RefusedError(422, shortened(_wrong([(d["loc"], d["msg"], d["type"]) for d in details]))) from error


def _wrong(details: Sequence[tuple[tuple[int | str, ...], str, str]]) -> str:
    """The first thing that is wrong; of alternatives, what each of them would be."""
    place = _place(details[0][0])
    reasons = dict.fromkeys(message for found, message, _ in details if _place(found).startswith(place))
    return f"{place or 'the body'}: {'; or: '.join(list(reasons)[:4])}."


def _place(path: tuple[int | str, ...]) -> str:
    """``instances[0].target``, without the names that pydantic gives to alternatives."""
    found = ""
    for step in path:
        if isinstance(step, int):
            found += f"[{step}]"
        elif "-" in step or "[" in step or step in ("str", "int", "float"):
            break  # below lies one alternative of several
        else:
            found += f".{step}" if found else step
    return found


def unpacked(text: str, place: str) -> bytes:
    """Bytes from base64, strictly.

    Raises:
        RefusedError: it is none.
    """
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise RefusedError(
            422, f"{place}: this is no base64 ({error}): send it padded and without line breaks."
        ) from error
