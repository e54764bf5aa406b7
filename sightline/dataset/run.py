"""A set of images explained: listed, cut into shards, what is not done yet made by workers, and what failed told."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image

from sightline import cache
from sightline.bindings.engine import Precision
from sightline.bundle import Bundle, load
from sightline.dataset import attempts, capacity, files, listing, recipe, rows, shards
from sightline.dataset.cluster import Cluster
from sightline.dataset.listing import Entry
from sightline.dataset.pool import Pool
from sightline.dataset.recipe import Maps, Recipe
from sightline.dataset.rows import Failure
from sightline.dataset.shards import WORK, Shard
from sightline.dataset.watcher import Watcher
from sightline.dataset.work import GATE_IMAGES, Place
from sightline.errors import DatasetError, MethodError, SaveError
from sightline.runtime import budget
from sightline.runtime.explainer import METHODS
from sightline.runtime.method import Method

FAILURES = "failures.json"
"""The file of the output folder that names the images without a row. Written last: where it is, the set is complete."""
SUMMARY = "summary.html"
"""The page of the set, should somebody write it; removed when its rows are about to change."""
SHARD_SIZE = 64
_LOCK = ".lock"
_INDEX = "images.json"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What a run has come to."""

    out: Path
    images: int
    """In the set."""
    explained: int
    """In this run."""
    changed: bool
    """Whether anything was written; if not, everything had been done before."""
    failures: tuple[Failure, ...]
    """The images without a row, in order."""


def explain_set(
    bundle: Bundle | str | Path,
    images: str | Path,
    out: str | Path,
    *,
    method: str | Method = "sise",
    target: int | str | Sequence[int | str] | None = None,
    max_passes: int | None = None,
    engine: str = "auto",
    precision: Precision = "fp32",
    batch_size: int | None = None,
    maps: Maps = "uint8",
    probabilities: bool = False,
    workers: int | None = None,
    threads: int | None = None,
    ray: str | None = None,
    shard_size: int = SHARD_SIZE,
    limit: int | None = None,
    retry: bool = False,
    restart: bool = False,
    watcher: Watcher | None = None,
) -> Outcome:
    """Explain every image below a folder, or what is left of it to do.

    The rows are the same, byte for byte, whatever the number of workers and however often the run was interrupted, on
    one kind of machine. Processes are started afresh: a script that calls this guards its own beginning with
    ``if __name__ == "__main__":``.

    Args:
        bundle: what is explained, or its path.
        images: the folder.
        out: the folder of the results, made if need be.
        method: a name or a method with parameters.
        target: class or classes, by index or label; None for the predicted one.
        max_passes: score at most so many masks of each image.
        engine: by name; ``auto`` for the fastest one installed.
        precision: of the masked passes.
        batch_size: masked images per pass; by default a fixed number, so that no measurement decides about rows.
        maps: ``uint8`` keeps them in steps of 1/255, ``float16`` in half precision, ``none`` not at all.
        probabilities: keep those of all classes, too, at the price of one more batch of passes for each image.
        workers: processes, or actors on Ray; by default one a core or GPU, as far as memory goes.
        threads: CPU threads of each; by default its share of the cores.
        ray: the address of a cluster, ``auto`` for the one this machine belongs to, ``local`` for one of this machine
            only; None for processes without Ray.
        shard_size: images per file.
        limit: only the first so many images.
        retry: try again the images that failed.
        restart: forget the results in the folder.
        watcher: is told what happens.

    Raises:
        DatasetError: there are no images; the folder holds other things, was begun with other settings or is being
            written by another run; or workers die over and over.
        MethodError, TargetError, EngineError, PrecisionError, BundleError, MissingPackageError, OutOfMemoryError: as
            for an :class:`~sightline.Explainer`.
        SaveError: the folder cannot be written.
    """
    rows.arrow()
    budget.check(max_passes, None)
    for name, value in (("shard_size", shard_size), ("limit", limit), ("batch_size", batch_size), ("threads", threads)):
        if value is not None and value < 1:
            raise DatasetError(f"{name}={value} is out of range: choose a whole number from 1.")
    if maps not in ("uint8", "float16", "none"):
        raise DatasetError(f"maps={maps!r} is unknown: choose uint8, float16 or none.")
    watcher = watcher or Watcher()
    opened = bundle if isinstance(bundle, Bundle) else load(bundle)
    targets = [target] if target is None or isinstance(target, (int, str)) else list(target)
    name, device = recipe.engine_for(opened, engine, precision)
    size = batch_size or recipe.batch_size_for(device, max_passes)
    needed, free = capacity.bytes_of(opened, name, precision, size)
    gpus = capacity.visible_gpus() if device == "cuda" else [{}]
    if ray is None:
        workers = capacity.workers_for(workers, needed, free, device, len(gpus))
    how = Recipe(
        bundle=opened.path.resolve(),
        bundle_hash=opened.hash,
        method=_method(method),
        targets=tuple(None if one is None else opened.target(one) for one in targets),
        max_passes=max_passes,
        engine=name,
        precision=precision,
        batch_size=size,
        maps=maps,
        probabilities=probabilities,
        threads=threads or (1 if ray else capacity.threads_of(workers or 1)),
    )
    folder, place = Path(images), Path(out)
    with _held(place, restart=restart):
        if (place / recipe.RUN).exists():
            recipe.keep(place, how, shard_size)  # other settings are said before the images are read
        (place / WORK).mkdir(exist_ok=True)
        entries = listing.listed(folder, place / WORK / _INDEX, place, limit, watcher.listed)
        recipe.keep(place, how, shard_size)  # not before there are images: a wrong folder begins nothing
        plan = shards.cut(entries, shard_size)
        todo = shards.due(place, plan, retry=retry)
        stale = (place / WORK / shards.OLD).is_dir()
        if not todo and not stale and (place / FAILURES).exists():
            return Outcome(place, len(entries), 0, False, _failures(place, plan))
        for last in (FAILURES, SUMMARY):
            (place / last).unlink(missing_ok=True)
        site = Place(folder.resolve(), place.resolve(), how, _gate(folder, entries, precision), retry)
        left = sum(len(shard.entries) for shard in todo)
        explained = left - sum(shard.taken + attempts.past(place, shard.name).images for shard in todo)
        made: Pool | Cluster
        if ray is None:
            made = Pool(site, min(workers or 1, max(1, len(todo))), gpus, watcher)
        else:
            made = Cluster(site, ray, workers, needed, device, watcher)
        try:
            made.run(todo, len(entries) - left, len(entries))
        finally:
            files.sweep(place)
        failures = _failures(place, plan)
        files.write(place / FAILURES, _listed(failures))
        _tidy(place)
        return Outcome(place, len(entries), explained, True, failures)


@contextmanager
def _held(out: Path, *, restart: bool) -> Iterator[None]:
    """The output folder, for this run alone.

    Raises:
        DatasetError: another run has it, or it holds other things.
        SaveError: it cannot be made or written.
    """
    with ExitStack() as stack:
        try:
            out.mkdir(parents=True, exist_ok=True)
            foreign = sorted(path.name for path in out.iterdir() if path.name not in (_LOCK, WORK))
            if foreign and not (out / recipe.RUN).exists():
                raise DatasetError(
                    f"{out} holds other things ({', '.join(foreign[:3])}{', …' * (len(foreign) > 3)}) and no "
                    f"{recipe.RUN}: name an empty folder or a new one."
                )
            if not stack.enter_context(cache.claimed(out / _LOCK)):
                raise DatasetError(
                    f"another run is writing {out}: wait until it is over, or name another folder. (A run that was "
                    "killed gives its folder free.)"
                )
            if restart:
                _forget(out)
            files.sweep(out)
        except OSError as error:
            raise SaveError(f"{out} cannot be written ({error.strerror or error}): name another folder.") from error
        yield


def _forget(out: Path) -> None:
    """Remove all results. What says that they are results goes last."""
    for path in (*out.glob("part-*.parquet"), out / FAILURES, out / SUMMARY):
        path.unlink(missing_ok=True)
    if (out / WORK).exists():
        shutil.rmtree(out / WORK)
    (out / recipe.RUN).unlink(missing_ok=True)


def _tidy(out: Path) -> None:
    """Remove what only an unfinished run needs; the listing stays, so that the next run need not read every image."""
    for path in (out / WORK).iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)


def _failures(out: Path, plan: Sequence[Shard]) -> tuple[Failure, ...]:
    return tuple(failure for shard in plan for failure in rows.contents(out / shard.name).failures)


def _listed(failures: Sequence[Failure]) -> bytes:
    facts = {"schema": 1, "failures": [asdict(failure) for failure in failures]}
    return (json.dumps(facts, indent=2) + "\n").encode()


def _gate(folder: Path, entries: Sequence[Entry], precision: Precision) -> tuple[str, ...]:
    """Images that can be read, for a lower precision to prove itself on."""
    found: list[str] = []
    for entry in entries if precision != "fp32" else ():
        try:
            with Image.open(folder / entry.path) as picture:
                picture.load()
        except Exception:  # whatever it is, the run will tell
            continue
        found.append(entry.path)
        if len(found) == GATE_IMAGES:
            break
    return tuple(found)


def _method(method: str | Method) -> Method:
    if not isinstance(method, str):
        return method
    if method not in METHODS:
        raise MethodError(f"there is no method {method!r}. Methods: {', '.join(METHODS)}.")
    return METHODS[method]()
