"""What every request passes through: its id, its key, whether the server is stopping, its line in the log."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Mapping
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sightline.serving import logs
from sightline.serving.encoding import dumped
from sightline.serving.keys import Keys
from sightline.serving.metrics import Metrics
from sightline.serving.refusal import RefusedError, shortened, stopping
from sightline.serving.visit import Visit, identity

OPEN = frozenset({"/", "/v2", "/v2/health/live", "/v2/health/ready", "/metrics", "/openapi.json"})
"""Paths that want no key."""

_PROBE = re.compile(r"/v2/models/[^/]+(/versions/[^/]+)?/ready")
WRITE_SECONDS = 30.0
"""In which a client has to take each piece of its answer."""
_PIECE = 2**16

logger = logging.getLogger(__name__)


class Front:
    """An ASGI application around another one."""

    def __init__(self, app: ASGIApp, keys: Keys, metrics: Metrics) -> None:
        self._app, self._keys, self._metrics = app, keys, metrics
        self.stopping = False
        """Whether nothing new is begun."""
        self._under_way: set[asyncio.Task[Any]] = set()
        self.idle = asyncio.Event()
        """Set while no POST is under way."""
        self.idle.set()

    def cut_off(self) -> None:
        """Answer every POST that is under way with 503, now."""
        for task in self._under_way:
            task.cancel()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        client = scope.get("client")
        visit = Visit(
            id=identity(headers.get("x-request-id")),
            client=client[0] if client else "-",
            method=scope["method"],
            path=shortened(scope["path"]),
        )
        scope["state"] = {**scope.get("state", {}), "visit": visit, "stopping": self.stopping}
        counts = scope["method"] == "POST"  # whoever asks for the server's health does not keep it alive
        task = asyncio.current_task()
        if counts and task is not None:
            self._under_way.add(task)
            self.idle.clear()
        try:
            await self._answer(scope, receive, _Marked(send, visit), visit, headers)
        finally:
            visit.release()
            if task is not None:
                self._under_way.discard(task)
            if not self._under_way:
                self.idle.set()
            self._metrics.requests.labels(visit.model, visit.verb, str(visit.status)).inc()
            if visit.verb != "-":
                self._metrics.seconds.labels(visit.model, visit.verb).observe(visit.seconds)
            logs.request(visit)

    async def _answer(self, scope: Scope, receive: Receive, send: _Marked, visit: Visit, headers: Headers) -> None:
        refused = self._refused(scope, headers)
        if refused is not None:
            await error_response(refused, visit)(scope, receive, send)
            return
        if scope["method"] == "HEAD":  # answered like a GET; what runs this application sends no body of it
            scope = {**scope, "method": "GET"}
        try:
            await self._app(scope, receive, send)
        except asyncio.CancelledError:
            if not self.stopping or send.started:
                raise
            await error_response(stopping(), visit)(scope, receive, send)
        except Exception:
            logger.exception("request %s failed", visit.id)
            if not send.started:
                await error_response(fault(), visit)(scope, receive, send)

    def _refused(self, scope: Scope, headers: Mapping[str, str]) -> RefusedError | None:
        path: str = scope["path"]
        if path not in OPEN and not _PROBE.fullmatch(path) and not self._keys.admit(headers):
            return RefusedError(401, "no API key, or a wrong one: send 'Authorization: Bearer KEY'.")
        if self.stopping and scope["method"] == "POST":
            return stopping()
        return None


class _Marked:
    """What sends an answer: adds the headers that all answers have, and notes what was sent."""

    def __init__(self, send: Send, visit: Visit) -> None:
        self._send, self._visit = send, visit
        self.started = self._unread = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            self._visit.status = message["status"]
            found = MutableHeaders(scope=message)
            found["X-Request-ID"] = self._visit.id
            found["X-Content-Type-Options"] = "nosniff"
        elif message["type"] == "http.response.body":
            # In pieces: of a whole answer uvicorn would take every byte at once, and wait for nobody.
            body = memoryview(message.get("body", b""))
            while len(body) > _PIECE:
                await self._piece({**message, "body": bytes(body[:_PIECE]), "more_body": True})
                body = body[_PIECE:]
            message = {**message, "body": bytes(body)}
        await self._piece(message)

    async def _piece(self, message: Message) -> None:
        if self._unread:
            return
        try:
            await asyncio.wait_for(self._send(message), WRITE_SECONDS)
        except asyncio.TimeoutError:
            self._unread = True  # what is not sent to its end makes uvicorn close the connection
            self._visit.error = f"the client did not take its answer within {WRITE_SECONDS:g} seconds"
        else:
            self._visit.sent += len(message.get("body", b""))


def fault() -> RefusedError:
    """What is answered where the server itself is wrong."""
    return RefusedError(500, "a fault of the server: its log has the trace, under this id.")


def error_response(refused: RefusedError, visit: Visit, headers: Mapping[str, str] | None = None) -> Response:
    """Why there is no result."""
    visit.error = str(refused)
    document: dict[str, Any] = {"error": str(refused), "status": refused.status, "id": visit.id}
    extra = {"WWW-Authenticate": "Bearer"} if refused.status == 401 else {}
    return Response(
        dumped(document), refused.status, {**refused.headers, **extra, **(headers or {})}, media_type="application/json"
    )
