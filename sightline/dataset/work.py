"""A shard made: its images explained one by one, and its file written. The same function in a process and on Ray."""

from __future__ import annotations

import hashlib
import io
import logging
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from PIL import Image

from sightline.dataset import attempts, files, rows
from sightline.dataset.attempts import Attempt, Past
from sightline.dataset.listing import UNREADABLE, Entry, Key
from sightline.dataset.recipe import Recipe
from sightline.dataset.rows import Failure, Row
from sightline.dataset.shards import OLD, WORK, Shard
from sightline.errors import DatasetError, EngineError, ImageError, SightlineError, UngatedError
from sightline.runtime.explainer import Explainer

DEATHS = 3
"""So many workers may die on an image before it counts as failed."""
GATE_IMAGES = 4
"""Of the set, how many a lower precision is compared with float32 on, where that has not been done on this machine."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Place:
    """Where a set lies, and how it is explained."""

    images: Path
    out: Path
    recipe: Recipe
    gate: tuple[str, ...] = ()
    """Images, relative to the folder, for a lower precision to prove itself on."""
    retry: bool = False
    """Whether images that failed in a finished shard are tried again."""


@dataclass(frozen=True)
class Done:
    """One image of a shard is over."""

    index: int
    """Its place in the shard."""
    failure: Failure | None


class Explaining:
    """The explainer of a worker: opened when the first image comes, and anew after its engine has failed."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._explainer: Explainer | None = None

    def open(self) -> None:
        """Open the explainer if it is not open.

        Raises:
            SightlineError: it cannot be opened; as :class:`Explainer`.
        """
        self._open()

    def __call__(self, key: Key, picture: Image.Image) -> list[Row]:
        """Explain one picture for all targets, its passes in batches of their own: a row for each.

        Nothing of another image is in them, so that a row depends on nothing but its image. After an error of the
        engine a new one gets the image a second time.

        Raises:
            SightlineError: the image cannot be explained.
        """
        try:
            return self._rows(key, picture)
        except EngineError as error:
            logger.warning("the engine failed and is opened anew: %s", error)
            self.close()
            return self._rows(key, picture)

    def close(self) -> None:
        """Free the engine."""
        if self._explainer is not None:
            self._explainer.close()
            self._explainer = None

    def __enter__(self) -> Explaining:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _rows(self, key: Key, picture: Image.Image) -> list[Row]:
        explainer, recipe = self._open(), self.place.recipe
        found = explainer(picture, recipe.targets, max_passes=recipe.max_passes)
        probabilities = None
        if recipe.probabilities:
            ((values,),) = explainer.classify([picture])
            probabilities = values.tolist()
        return [rows.row(key, explanation, recipe.maps, probabilities) for explanation in found]

    def _open(self) -> Explainer:
        if self._explainer is None:
            try:
                self._explainer = self._opened(None)
            except UngatedError:
                self._explainer = self._opened([self.place.images / name for name in self.place.gate])
        return self._explainer

    def _opened(self, gate: Sequence[Path] | None) -> Explainer:
        recipe = self.place.recipe
        return Explainer(
            recipe.bundle,
            recipe.method,
            recipe.engine,
            recipe.batch_size,
            precision=recipe.precision,
            gate=gate,
            threads=recipe.threads,
        )


def make(
    shard: Shard,
    attempt: Path,
    explaining: Explaining,
    done: Callable[[Done], None] = lambda one: None,
) -> None:
    """Explain what no earlier attempt or shard has explained yet, and write the file.

    Args:
        shard: the images.
        attempt: where this attempt notes what it does.
        explaining: makes the explanations of a picture.
        done: called after every image.

    Raises:
        SightlineError: the explainer cannot be opened, or the file not be written.
    """
    place = explaining.place
    if _finished(shard, place.out, done):
        return
    past = attempts.past(place.out, shard.name)
    _take_over(shard, place, past)
    images: list[Key] = []
    found: list[Row] = []
    failures: list[Failure] = []
    with Attempt(attempt) as notes:
        for index, entry in enumerate(shard.entries):
            key, made = _one(entry, past, explaining, notes)
            images.append(key)
            failure = None
            if isinstance(made, str):
                failure = Failure(*key, made)
                failures.append(failure)
            else:
                found += made
            done(Done(index, failure))
    files.write(place.out / shard.name, rows.parquet(images, found, failures))
    attempts.forget(place.out, shard.name)


def _finished(shard: Shard, out: Path, done: Callable[[Done], None]) -> bool:
    """Whether an attempt that could not tell of it any more has written the file."""
    if not (out / shard.name).exists():
        return False
    found = rows.contents(out / shard.name)
    failed = {(failure.path, failure.sha256): failure for failure in found.failures}
    for index, key in enumerate(found.images):
        done(Done(index, failed.get(key)))
    attempts.forget(out, shard.name)
    return True


def _take_over(shard: Shard, place: Place, past: Past) -> None:
    """What earlier shards say about these images, to what earlier attempts say."""
    keys = [entry.key for entry in shard.entries]
    for name in shard.earlier:
        path = place.out / WORK / OLD / name
        try:
            past.rows = rows.rows_of(path, keys) | past.rows
            if not place.retry:
                past.failed = rows.failed_in(rows.contents(path), keys) | past.failed
        except DatasetError as error:
            logger.warning("%s", error)


def _one(entry: Entry, past: Past, explaining: Explaining, notes: Attempt) -> tuple[Key, list[Row] | str]:
    """The rows of an image, or why it has none; with its hash as it was read, should it have changed meanwhile."""
    place = explaining.place
    if (known := past.of(entry.key)) is not None:
        return entry.key, known
    try:
        content = (place.images / entry.path).read_bytes()
    except OSError as error:
        return (entry.path, UNREADABLE), f"it cannot be read: {error.strerror or error}"
    key = (entry.path, hashlib.sha256(content).hexdigest())
    if (known := past.of(key)) is not None:
        return key, known
    made: list[Row] | str
    if past.deaths[key] >= DEATHS:
        cause = past.causes.get(key)
        made = f"workers died on it {past.deaths[key]} times" + (f", the last one {cause}" if cause else "")
    else:
        explaining.open()
        notes.begin(key)
        made = _explained(key, content, explaining)
    if isinstance(made, str):
        notes.failed(key, made)
    else:
        notes.explained(key, made)
    return key, made


def _explained(key: Key, content: bytes, explaining: Explaining) -> list[Row] | str:
    """The rows of the bytes of an image, or why there are none."""
    try:
        return explaining(key, _picture(key, content))
    except SightlineError as error:
        return str(error)
    except MemoryError:
        return "there is not enough memory for it"
    except Exception as error:  # a mistake of ours or of a library's must not cost the images after it
        logger.warning("%s: an unexpected error", key[0], exc_info=True)
        return f"an unexpected error, please report it: {type(error).__name__}: {error}"


def _picture(key: Key, content: bytes) -> Image.Image:
    """The bytes of an image file as a picture.

    Raises:
        ImageError: they are none, or damaged.
    """
    try:
        key[0].encode()
    except UnicodeEncodeError as error:
        raise ImageError("its path is not UTF-8, which a table of text cannot hold: rename it.") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged metadata, and of sizes short of a bomb
            picture = Image.open(io.BytesIO(content))
            picture.load()
            return picture
    except MemoryError:
        raise
    except Exception as error:  # what Pillow's readers raise on damaged files is of any kind
        reason = re.sub(r"\s*<[^<>]* at 0x[0-9a-f]+>", "", str(error)) or type(error).__name__
        raise ImageError(f"it is damaged or no picture that Pillow knows: {reason}") from error
