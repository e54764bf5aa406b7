"""The server: a socket, an event loop, and an end that loses nothing."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Thread
from types import FrameType

import uvicorn

from sightline.errors import ServingError, SightlineError
from sightline.serving.app import build
from sightline.serving.desk import Desk
from sightline.serving.keys import Keys
from sightline.serving.limits import Limits
from sightline.serving.metrics import Metrics
from sightline.serving.models import Choices, Registry

GRACE = 30.0
"""Seconds in which what was begun has to end, once the server is told to stop."""
LAST = 5.0
"""Seconds in which what is cut off has to end: the batch under way, and the answers that say so."""
LOOK = 2.0
"""Seconds between two looks at the bundles on disk."""

_BACKLOG = 1024

logger = logging.getLogger(__name__)


class Server:
    """Serves bundles until it is told to stop."""

    def __init__(
        self,
        bundles: Sequence[Path],
        *,
        host: str = "127.0.0.1",
        port: int = 8080,
        choices: Choices | None = None,
        limits: Limits | None = None,
        keys: Keys | None = None,
        grace: float = GRACE,
        look: float | None = LOOK,
    ) -> None:
        """Check the bundles, begin to open them, and take the port.

        Args:
            bundles: folders; a model is named after each.
            host: address to listen on.
            port: 0 for any that is free.
            choices: how to explain.
            limits: what is taken.
            keys: who may ask; without any, everyone.
            grace: seconds in which what was begun has to end once :meth:`stop` is called.
            look: seconds between two looks at the bundles on disk; None for none.

        Raises:
            BundleError: a bundle is missing or damaged.
            ServingError: two bundles have the same name, or the port cannot be had.
        """
        self._limits = limits or Limits()
        self._socket = _listening(host, port)
        try:
            self.registry = Registry(bundles, choices or Choices(), self._limits, Metrics())
        except BaseException:
            self._socket.close()
            raise
        self._grace, self._look = grace, look
        self._desk = Desk(self._limits)
        self._front = build(self.registry, self._desk, keys or Keys())
        self._failure: Exception | None = None
        self._uvicorn = _Uvicorn(
            uvicorn.Config(
                self._front,
                log_config=None,
                access_log=False,
                server_header=False,
                lifespan="off",
                ws="none",
                timeout_keep_alive=30,
                timeout_graceful_shutdown=1,
            ),
            self.stop,
        )
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        host, port = self._socket.getsockname()[:2]
        return str(host), int(port)

    def run(self, opened: Callable[[], None] | None = None) -> None:
        """Serve until told to stop, by SIGTERM, SIGINT or :meth:`stop`.

        Args:
            opened: called once every model serves, on a thread of its own.

        Raises:
            SightlineError: a bundle cannot be opened.
        """
        asyncio.run(self._serve(opened))
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Begin nothing new, finish what was begun, end. Any thread may call it."""
        if self._loop is not None:
            with suppress(RuntimeError):  # it has ended
                self._loop.call_soon_threadsafe(self._told)

    async def _serve(self, opened: Callable[[], None] | None) -> None:
        self._loop = asyncio.get_running_loop()
        Thread(target=self._open, args=(opened,), name="open", daemon=True).start()
        try:
            await self._uvicorn.serve(sockets=[self._socket])
        finally:
            self.registry.abandon()
            self._desk.close()

    def _open(self, opened: Callable[[], None] | None) -> None:
        try:
            for model in self.registry:
                model.opened()
        except SightlineError as error:
            self._failure = error
            self.stop()
            return
        if self._look is not None:
            self.registry.watch(self._look)
        if opened is not None:
            opened()

    def _told(self) -> None:
        """The first time: stop gently. The second time: at once."""
        assert self._loop is not None  # it has told
        if self._front.stopping:
            self._uvicorn.force_exit = True
            self._cut_off()
            return
        logger.info("stopping: nothing new is begun")
        self._front.stopping = True
        self._stopping = asyncio.ensure_future(self._stopped())
        self._cutting = self._loop.call_later(self._grace, self._cut_off)

    async def _stopped(self) -> None:
        """Once nothing is under way: free the engines, from what nobody waits for, too; then leave."""
        await self._front.idle.wait()
        self.registry.abandon()
        Thread(target=self._close, name="close", daemon=True).start()

    def _close(self) -> None:
        self.registry.close()
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop did not wait so long
                self._loop.call_soon_threadsafe(self._exit)

    def _cut_off(self) -> None:
        """Let go what is under way, and leave soon, however that ends."""
        assert self._loop is not None  # it runs this
        self._cutting.cancel()
        if not self._front.idle.is_set():
            logger.warning("not all requests have ended: they are cut off")
        self.registry.abandon()
        self._front.cut_off()
        self._loop.call_later(LAST, self._exit)

    def _exit(self) -> None:
        self._uvicorn.should_exit = True


class _Uvicorn(uvicorn.Server):
    """Leaves it to the server what a signal means: uvicorn itself would close the socket at once."""

    def __init__(self, config: uvicorn.Config, told: Callable[[], None]) -> None:
        super().__init__(config)
        self._told = told

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal came: in the main thread, between two instructions of it."""
        self._told()


def _listening(host: str, port: int) -> socket.socket:
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind, proto)
        try:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind(address)
            found.listen(_BACKLOG)  # now: whoever asks early waits, and is not turned away
            found.setblocking(False)
        except BaseException:
            found.close()
            raise
        return found
    except (OSError, OverflowError) as error:
        raise ServingError(
            f"{host}:{port} cannot be listened on ({error}): choose another --host or --port."
        ) from error
