"""A time that passes only when a test says so."""

from __future__ import annotations

from typing import Any

import pytest

from sightline.bindings import Engine, open_engine
from sightline.bundle import Bundle
from sightline.runtime import batching, job, packing, requests
from tests.runtime import tiny


class Clock:
    """Stands for the module ``time``."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


def timed(bundle: Bundle, monkeypatch: pytest.MonkeyPatch, runs: list[int]) -> tuple[Clock, Any]:
    """A time that passes only while the engine runs, a second a batch; and the masks of every batch."""
    clock = Clock()
    for module in (packing, requests, job, batching):
        monkeypatch.setattr(module, "time", clock)

    def open_batch(size: int) -> Engine:
        engine: Any = open_engine(bundle.classifier, "onnxruntime-cpu", shapes={"pixels": (size, *tiny.INPUT.shape)})
        run = engine.run

        def spending() -> None:
            run()
            clock.now += 1
            runs.append(int(engine.buffers["pixels"].any(axis=(1, 2, 3)).sum()))

        engine.run = spending
        return engine  # type: ignore[no-any-return]

    return clock, open_batch
