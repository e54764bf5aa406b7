"""The models of a server, by name: each with its bundle, replaced while it serves when the bundle changes."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Event, Lock, Thread

from sightline.bindings.engine import Precision
from sightline.bundle import MANIFEST, Bundle, load
from sightline.errors import ServingError, SightlineError
from sightline.runtime.explainer import METHODS, Explainer
from sightline.runtime.method import Method
from sightline.runtime.sise import SISE
from sightline.serving.decompositions import Decompositions
from sightline.serving.limits import DECOMPOSITIONS, Limits
from sightline.serving.metrics import Metrics
from sightline.serving.refusal import RefusedError
from sightline.serving.scheduler import Progress, Scheduler

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_VERSION = 12

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Choices:
    """How the models of a server explain."""

    method: Method = field(default_factory=SISE)
    """Of requests that name none."""
    methods: tuple[str, ...] = tuple(METHODS)
    """That requests may name."""
    engine: str = "auto"
    precision: Precision = "fp32"
    batch_size: int | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        if unknown := [name for name in self.methods if name not in METHODS]:
            raise ServingError(f"there is no method {unknown[0]!r}: choose {', '.join(METHODS)}.")


@dataclass(eq=False)
class Served:
    """A bundle that serves, or is being opened, or serves its last requests."""

    bundle: Bundle
    scheduler: Scheduler
    decompositions: Decompositions
    holders: int = 0
    retired: bool = False
    _closing: Lock = field(default_factory=Lock)

    @property
    def explainer(self) -> Explainer:
        """For its facts only."""
        return self.scheduler.opened.result()

    @property
    def version(self) -> str:
        """Of the bundle: the first digits of its hash."""
        return self.bundle.hash[:_VERSION]

    @property
    def ready(self) -> bool:
        opened = self.scheduler.opened
        return opened.done() and opened.exception() is None and not self.scheduler.broken

    def abandon(self) -> None:
        """Let go what waits and what is under way."""
        self.scheduler.abandon()
        self.decompositions.abandon()

    def close(self) -> None:
        """Work off what is there, then free the engines. Any thread may call it, also when another one does."""
        with self._closing:
            self.scheduler.close()
            self.decompositions.close()


class Model:
    """One name, and the bundle that answers to it."""

    def __init__(self, path: Path, choices: Choices, limits: Limits, metrics: Metrics) -> None:
        """Check the bundle, and begin to open it.

        Raises:
            BundleError: there is none, or it is damaged.
            ServingError: its folder has a name that does not fit into a URL.
        """
        self.name, self.path = path.stem, path
        if not _NAME.fullmatch(self.name):
            raise ServingError(
                f"{path} would make a model named {self.name!r}: rename the folder (letters, digits, '.', '_', '-')."
            )
        self._choices, self._limits, self._metrics = choices, limits, metrics
        self._lock, self._loading = Lock(), Lock()
        self._served = self._open(load(path))
        self._former: set[Served] = set()
        """Those that are not closed yet."""
        self._refused: str | None = None
        self._complaint = ""
        metrics.watch(
            self.name,
            lambda: self._served.scheduler.waiting,
            lambda: self._served.scheduler.in_hand,
            lambda: self.ready,
        )

    @property
    def ready(self) -> bool:
        """Whether it serves."""
        return self._served.ready

    @property
    def broken(self) -> bool:
        """Whether its engine failed for good."""
        return self._served.scheduler.broken

    @property
    def hash(self) -> str:
        """Of the bundle that serves."""
        return self._served.bundle.hash

    @property
    def version(self) -> str:
        """Of the bundle that serves."""
        return self._served.version

    @contextmanager
    def hold(self) -> Iterator[Served]:
        """What serves now; it is not closed while it is held.

        Raises:
            RefusedError: it is not open yet, or broken.
        """
        with self._lock:
            served = self._served
            if not served.ready:
                why = "its engine failed, see the log" if served.scheduler.broken else "it is being opened"
                raise RefusedError(503, f"model {self.name!r} is not ready: {why}.", retry=2)
            served.holders += 1
        try:
            yield served
        finally:
            with self._lock:
                served.holders -= 1
                last = served.retired and not served.holders
            if last:
                self._close(served)

    def opened(self) -> None:
        """Wait until the first bundle is open.

        Raises:
            SightlineError: it cannot be opened.
        """
        _ = self._served.explainer
        self._metrics.loads.labels(self.name, "opened").inc()

    def changed(self) -> bool:
        """Whether another bundle lies in the folder than the one that serves or was refused last."""
        try:
            found = hashlib.sha256((self.path / MANIFEST).read_bytes()).hexdigest()
        except OSError:
            return False  # on its way
        return found not in (self.hash, self._refused)

    def reload(self) -> bool:
        """Read the folder again; where it holds another bundle, open that and let it serve.

        The former one serves until then, and finishes what it has begun.

        Returns:
            Whether it was another one.

        Raises:
            SightlineError: the bundle is damaged or cannot be opened. The former one goes on.
        """
        with self._loading:
            found: Bundle | None = None
            try:
                found = load(self.path)
                if found.hash == self.hash and not self.broken:
                    return False
                fresh = self._open(found)
                _ = fresh.explainer
            except Exception:
                self._refused = None if found is None else found.hash
                self._metrics.loads.labels(self.name, "failed").inc()
                raise
            with self._lock:
                former, self._served = self._served, fresh
                former.retired = True
                self._former.add(former)
                last = not former.holders
            self._metrics.loads.labels(self.name, "replaced").inc()
            logger.info("model %s: bundle %s serves now, no longer %s", self.name, self.version, former.version)
            if last:
                self._close(former)
            return True

    def look(self) -> None:
        """Reload where the bundle has changed. What cannot be opened is logged; the former one goes on."""
        if not (self.ready or self.broken) or not self.changed():
            return
        try:
            self.reload()
        except Exception as error:  # whatever it is: nobody else looks again
            if str(error) != self._complaint:
                trace = not isinstance(error, SightlineError)
                logger.error("model %s keeps its bundle %s: %s", self.name, self.version, error, exc_info=trace)
            self._complaint = str(error)

    def abandon(self) -> None:
        """Let go what waits and what is under way."""
        for served in self._all():
            served.abandon()

    def close(self) -> None:
        """Finish, and free the engines."""
        for served in self._all():
            served.close()

    def _all(self) -> list[Served]:
        with self._lock:
            return [self._served, *self._former]

    def _open(self, bundle: Bundle) -> Served:
        choices = self._choices

        def opening(progress: Progress) -> Explainer:
            return Explainer(
                bundle,
                choices.method,
                choices.engine,
                choices.batch_size,
                precision=choices.precision,
                threads=choices.threads,
                progress=progress,
            )

        return Served(
            bundle,
            Scheduler(self.name, opening, self._limits.queue, self._metrics),
            Decompositions(bundle, choices.engine, choices.threads, DECOMPOSITIONS),
        )

    def _close(self, served: Served) -> None:
        def close() -> None:
            served.close()
            with self._lock:
                self._former.discard(served)

        Thread(target=close, name="close", daemon=True).start()


class Registry:
    """The models of a server."""

    def __init__(self, paths: Sequence[Path], choices: Choices, limits: Limits, metrics: Metrics) -> None:
        """Check the bundles, and begin to open them.

        Raises:
            BundleError: one is missing or damaged.
            ServingError: there is none, or two have the same name.
        """
        self.choices, self.limits, self.metrics = choices, limits, metrics
        self._stop = Event()
        self._watcher: Thread | None = None
        if not paths:
            raise ServingError("there is no bundle to serve: name at least one.")
        names = [path.stem for path in paths]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ServingError(f"two bundles are named {sorted(twice)[0]!r}: rename one of the folders.")
        self._models = {path.stem: Model(path, choices, limits, metrics) for path in paths}

    def __iter__(self) -> Iterator[Model]:
        return iter(self._models.values())

    @property
    def ready(self) -> bool:
        """Whether every model serves."""
        return all(model.ready for model in self)

    @property
    def alive(self) -> bool:
        """Whether no engine failed for good."""
        return not any(model.broken for model in self)

    def __getitem__(self, name: str) -> Model:
        """The model of a name.

        Raises:
            RefusedError: there is none.
        """
        if name not in self._models:
            raise RefusedError(404, f"there is no such model here: {', '.join(self._models)}.")
        return self._models[name]

    def of(self, name: str, version: str) -> Model:
        """The model of a name, as long as a version of it serves.

        Raises:
            RefusedError: there is none, or another version serves.
        """
        model = self[name]
        if version != model.version:
            raise RefusedError(404, f"the version of {name} that serves is {model.version}, and there is no other.")
        return model

    def look(self) -> None:
        """Reload every model whose bundle has changed on disk."""
        for model in self:
            model.look()

    def watch(self, seconds: float) -> None:
        """Look again and again, on a thread of its own."""

        def run() -> None:
            while not self._stop.wait(seconds):
                self.look()

        self._watcher = Thread(target=run, name="watch", daemon=True)
        self._watcher.start()

    def abandon(self) -> None:
        """Let go what waits and what is under way."""
        for model in self:
            model.abandon()

    def close(self) -> None:
        """Finish what was begun, and free all engines."""
        self._stop.set()
        closing = [Thread(target=partial(model.close), name="close", daemon=True) for model in self]
        for thread in closing:
            thread.start()
        for thread in closing:
            thread.join()
