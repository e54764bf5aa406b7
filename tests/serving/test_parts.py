"""The small parts by themselves: bodies, rooms, what is accepted, what is decoded."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from starlette.requests import Request

from sightline.bundle import ImageInput
from sightline.errors import EngineError, ImageError, OutOfMemoryError
from sightline.serving import bodies, encoding
from sightline.serving.decoding import encoded, prepared, tensor
from sightline.serving.desk import Desk
from sightline.serving.limits import Limits
from sightline.serving.negotiation import preferred
from sightline.serving.refusal import RefusedError, refusal
from sightline.serving.room import Room
from sightline.serving.schemas import ExplainRequest, InferRequest
from sightline.serving.visit import Visit
from tests.runtime import tiny
from tests.serving.running import picture


def reading(*messages: dict[str, Any], room: Room | None = None, seconds: float = 60.0, **headers: str) -> bytes:
    """What :func:`bodies.read` makes of messages; after the last one nothing comes any more."""
    left = list(messages)

    async def receive() -> dict[str, Any]:
        if not left:
            await asyncio.Event().wait()
        return left.pop(0)

    given = {"content-type": "application/json", **{key.replace("_", "-"): value for key, value in headers.items()}}
    scope = {"type": "http", "headers": [(key.encode(), value.encode()) for key, value in given.items()]}
    visit = Visit("x", "-", "POST", "/")
    room = room or Room(100, "bytes")
    try:
        return asyncio.run(bodies.read(Request(scope, receive), visit, room, 50, seconds))
    finally:
        visit.release()
        assert room.taken == 0


def part(body: bytes, more: bool = True) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


def test_a_body_in_pieces() -> None:
    assert reading(part(b"{"), part(b"}", more=False)) == b"{}"
    assert reading(part(b"{}", more=False), content_length="2") == b"{}"


def status(*messages: dict[str, Any], **named: Any) -> int:
    with pytest.raises(RefusedError) as refused:
        reading(*messages, **named)
    return refused.value.status


def test_bodies_that_are_not_taken() -> None:
    assert status(part(b"x" * 30), part(b"x" * 30)) == 413
    assert status(content_length="51") == 413
    assert status(part(b"{"), seconds=0.0) == 408
    assert status(part(b"{}", more=False), content_type="text/plain") == 415
    full = Room(100, "bytes")
    full.take(90)
    try:
        with pytest.raises(RefusedError, match="90 of at most 100 bytes") as refused:
            reading(part(b"x" * 20), room=_Borrowed(full))
        assert refused.value.status == 429
        with pytest.raises(RefusedError):
            reading(room=_Borrowed(full), content_length="20")
        assert reading(part(b"x" * 10, more=False), room=_Borrowed(full)) == b"x" * 10
        assert status(part(b"x"), room=_Borrowed(full), content_length="9", seconds=0.0) == 408  # nothing is kept
    finally:
        full.give(90)
    with pytest.raises(bodies.ClientGone):
        reading(part(b"x"), {"type": "http.disconnect"})


class _Borrowed(Room):
    """A room that somebody else has filled in part; what the test itself takes is counted from there."""

    def __init__(self, room: Room) -> None:
        super().__init__(0, "bytes")
        self._room = room

    @property
    def taken(self) -> int:
        return self._room.taken - 90

    def check(self, amount: int) -> None:
        self._room.check(amount)

    def take(self, amount: int) -> None:
        self._room.take(amount)

    def give(self, amount: int) -> None:
        self._room.give(amount)


@given(st.binary(max_size=200))
def test_any_bytes_are_parsed_or_refused(body: bytes) -> None:
    with pytest.raises(RefusedError) as refused:
        bodies.parsed(body, ExplainRequest)
    assert refused.value.status in (400, 413, 422)


@given(st.text(max_size=40))
def test_any_text_is_base64_or_refused(text: str) -> None:
    try:
        found = bodies.unpacked(text, "x")
    except RefusedError:
        return
    assert base64.b64encode(found).rstrip(b"=") == text.encode().rstrip(b"=")


OFFERS = {"application/json": "json", "image/png": "png"}


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, "json"),
        ("", "json"),
        ("*/*", "json"),
        ("image/png", "png"),
        ("IMAGE/PNG ; q=0.5", "png"),
        ("image/png, */*", "png"),
        ("image/png;q=0.2, */*", "json"),
        ("application/json, image/png", "json"),
        ("application/json;q=0.1, image/png;q=0.2", "png"),
        ("image/png;q=0", "json"),
        ("image/png;q=nan", "json"),
        ("image/png;q=x, text/html", "json"),
        (",;,q=", "json"),
    ],
)
def test_what_a_client_accepts(accept: str | None, expected: str) -> None:
    assert preferred(accept, OFFERS, "json") == expected


def test_errors_and_their_statuses() -> None:
    assert refusal(ImageError("x"), "instances[1]").status == 422
    assert str(refusal(ImageError("x"), "instances[1]")) == "instances[1]: x"
    assert refusal(EngineError("x")).status == 500
    assert refusal(OutOfMemoryError("x")).status == 503
    assert len(str(refusal(ImageError("x" * 10_000)))) <= 500


def test_a_header_is_read_without_the_pixels() -> None:
    whole = picture(0)
    assert (encoded(whole, "x", 1200).width, encoded(whole, "x", 1200).height) == (40, 30)
    with pytest.raises(RefusedError, match="1199") as refused:
        encoded(whole, "x", 1199)
    assert refused.value.status == 413
    cut = encoded(whole[:60], "x", 1200)  # the header is whole
    with pytest.raises(RefusedError) as refused:
        cut.decode(tiny.INPUT)
    assert refused.value.status == 422


def test_channels_last_and_no_colours() -> None:
    image = Image.open(io.BytesIO(picture(0)))
    spec = tiny.INPUT
    last = ImageInput("x", 3, spec.height, spec.width, "NHWC", mean=spec.mean, std=spec.std)
    assert np.array_equal(prepared(image, last).array, prepared(image, spec).array)
    infrared = ImageInput("x", 5, 4, 3, colour="NONE")
    with pytest.raises(RefusedError, match="no picture") as refused:
        encoded(picture(0), "x", 10**6).decode(infrared)
    assert refused.value.status == 422
    array = np.zeros((5, 4, 3), np.float32)
    assert tensor(array, infrared, "x").original is None
    for wrong in (np.nan, np.inf, 1e7):
        with pytest.raises(RefusedError, match="no preprocessed image"):
            tensor(np.full((5, 4, 3), wrong, np.float32), infrared, "x")


def test_numbers_keep_what_float32_holds() -> None:
    values = np.random.default_rng(0).random((3, 50), np.float32) * np.float32(1e-3)
    values[0, :3] = (0, 1, 1e-30)
    found = encoding.numbers([values, -1e9 * values])
    assert np.allclose(found, np.concatenate([values.ravel(), -1e9 * values.ravel()]), rtol=1e-6, atol=0)
    assert max(len(repr(one)) for one in found[3:150]) <= 13  # 0.0001234567: none of float64's other ten digits


def test_large_bodies_share_a_room_for_their_values(monkeypatch: pytest.MonkeyPatch) -> None:
    data = [0] * 150_000
    pixels = {"name": "pixels", "datatype": "UINT8", "shape": [1, 250, 200, 3], "data": data}
    content = json.dumps({"inputs": [pixels]}).encode()

    async def read(*_: object) -> bytes:
        return content

    async def ask() -> None:
        desk = Desk(Limits(max_bytes=200_000))
        request, visits = cast(Request, None), [Visit(name, "-", "POST", "/") for name in "ab"]
        await desk.asked(request, visits[0], InferRequest, 200_000)
        with pytest.raises(RefusedError, match="JSON values") as refused:
            await desk.asked(request, visits[1], InferRequest, 200_000)
        assert refused.value.status == 429
        visits[0].release()
        await desk.asked(request, visits[1], InferRequest, 200_000)
        desk.close()

    monkeypatch.setattr(bodies, "read", read)
    asyncio.run(ask())


def test_a_room_is_given_back_by_whoever_took_it() -> None:
    room, visit = Room(10, "pixels"), Visit("x", "-", "POST", "/")
    visit.hold(room, 6)
    with pytest.raises(RefusedError, match=r"6 of at most 10 pixels .* needs 5 more"):
        visit.hold(room, 5)
    visit.hold(room, 4)
    visit.release()
    visit.release()
    assert room.taken == 0
