"""A server on loopback, run by the test's own process; requests to it; and what the answers should be."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
from PIL import Image

from sightline import Explainer
from sightline.runtime.requests import Answer, Request
from sightline.serving.keys import Keys
from sightline.serving.limits import Limits
from sightline.serving.models import Choices
from sightline.serving.server import Server

CHOICES = Choices(engine="onnxruntime-cpu", batch_size=4, threads=1)


@contextmanager
def running(
    bundles: Sequence[Path], *, choices: Choices = CHOICES, limits: Limits | None = None, keys: Keys | None = None
) -> Iterator[Running]:
    """A server that looks at its bundles only when it is told to."""
    server = Server(bundles, port=0, choices=choices, limits=limits, keys=keys, look=None)
    found = Running(server)
    try:
        yield found
    finally:
        found.end()


class Running:
    def __init__(self, server: Server) -> None:
        self.server = server
        self.failure: BaseException | None = None
        self._opened = Event()
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()
        self._opened.wait()
        if self.failure is not None:
            raise self.failure
        host, port = server.address
        self.client = httpx.Client(base_url=f"http://{host}:{port}", timeout=None)

    def _run(self) -> None:
        try:
            self.server.run(self._opened.set)
        except BaseException as error:
            self.failure = error
        finally:
            self._opened.set()

    def end(self) -> None:
        self.client.close()
        self.server.stop()
        self._thread.join()

    def joined(self) -> None:
        """Wait for the end."""
        self._thread.join()

    def post(self, path: str, document: Any, **headers: str) -> httpx.Response:
        return self.client.post(path, json=document, headers=headers)

    def metric(self, line: str) -> float:
        """The value of one line of the metrics; 0 where it is not there yet."""
        text = self.client.get("/metrics").text
        found = re.search(rf"^{re.escape(line)} (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else 0.0


class Held(Explainer):
    """An explainer that takes no image before it is let to."""

    drawn: Event
    """Set once an image was drawn."""
    go: Event
    """Lets it, and all after it, go."""

    def answer(self, requests: Any, *, progress: Any = None) -> Iterator[Answer]:
        def slowly() -> Iterator[Request | None]:
            for request in requests:
                if request is not None:
                    self.drawn.set()
                    self.go.wait()
                yield request

        return super().answer(slowly())


def held() -> type[Held]:
    """A class of its own, with events of its own."""
    return type("Held", (Held,), {"drawn": Event(), "go": Event()})


def picture(seed: int, width: int = 40, height: int = 30) -> bytes:
    """A PNG whose explanation is like no other's: a few coarse blocks of random colours."""
    rng = np.random.default_rng(seed)
    blocks = Image.fromarray(rng.integers(0, 256, (5, 4, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    blocks.resize((width, height), Image.Resampling.BICUBIC).save(buffer, "PNG")
    return buffer.getvalue()


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def instance(seed: int, **fields: Any) -> dict[str, Any]:
    return {"b64": b64(picture(seed)), **fields}


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def map_of(encoded: dict[str, Any]) -> npt.NDArray[np.float32]:
    """A map as :explain answers it."""
    data = base64.b64decode(encoded["data"])
    shape = (encoded["height"], encoded["width"])
    if encoded["encoding"] == "png":
        return np.asarray(np.asarray(opened(data)) / 255, np.float32)
    return np.frombuffer(data, "<f4").reshape(shape)


def explainer(bundle: Path, **changes: Any) -> Explainer:
    """What the server has, in this process."""
    choices = replace(CHOICES, **changes)
    return Explainer(bundle, choices.method, choices.engine, choices.batch_size, threads=choices.threads)
