"""Decompositions beside the explanations: one at a time for a model, on a thread and engines of their own."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock

from sightline.bundle import MANIFEST, Bundle
from sightline.runtime.decomposer import Decomposer
from sightline.runtime.hierarchy import Hierarchy
from sightline.serving.refusal import RefusedError, stopping

Decomposition = Callable[[Decomposer], Hierarchy]


class Decompositions:
    """Takes decisions of one model apart. The engines are opened when they are first needed."""

    def __init__(self, bundle: Bundle, engine: str, threads: int | None, limit: int) -> None:
        self._bundle, self._engine, self._threads, self._limit = bundle, engine, threads, limit
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=f"decompose-{bundle.path.stem}")
        self._decomposer: Decomposer | None = None
        self._count = 0
        self._abandoned = False
        self._lock = Lock()

    def submit(self, asked: Decomposition) -> Future[Hierarchy]:
        """Do it when its turn comes.

        Raises:
            RefusedError: 429 where too many wait.
        """
        with self._lock:
            if self._count >= self._limit:
                raise RefusedError(429, f"{self._count} decompositions wait: send it again later.", retry=self._count)
            self._count += 1
        future = self._pool.submit(self._done, asked)
        future.add_done_callback(self._left)
        return future

    def abandon(self) -> None:
        """Let everything go, with 503: the one under way after the decision that it takes apart."""
        self._abandoned = True

    def close(self) -> None:
        """Finish the one that is under way, drop the others, free the engines."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        if self._decomposer is not None:
            self._decomposer.close()
            self._decomposer = None

    def _left(self, _: Future[Hierarchy]) -> None:
        with self._lock:
            self._count -= 1

    def _done(self, asked: Decomposition) -> Hierarchy:
        self._advanced()
        if self._decomposer is None:
            # Read from the folder now, and never again: it must still hold this bundle.
            manifest = self._bundle.path / MANIFEST
            if not manifest.is_file() or hashlib.sha256(manifest.read_bytes()).hexdigest() != self._bundle.hash:
                raise RefusedError(503, f"{self._bundle.path.stem} is being replaced: send the request again.", retry=2)
            decomposer = Decomposer(self._bundle, self._engine, threads=self._threads, progress=self._advanced)
            try:
                decomposer.open_stages()
            except BaseException:
                decomposer.close()
                raise
            self._decomposer = decomposer
        return asked(self._decomposer)

    def _advanced(self, *_: int) -> None:
        """The decomposer's progress: called once for every decision."""
        if self._abandoned:
            raise stopping()
