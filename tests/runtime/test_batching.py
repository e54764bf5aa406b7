"""Masked images packed into a fixed batch, on an engine that says what it was given."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import groupby
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sightline.bindings import Engine
from sightline.bindings.engine import FACTOR, Device, Precision
from sightline.errors import EngineError, OutOfMemoryError
from sightline.kernels import CpuKernels
from sightline.runtime.batching import Doubles, MaskedPasses, Result, Scorer, Task
from sightline.runtime.masks import MaskSet

SIDE = 6


class Recording:
    """Scores an image by its sum, times the class number plus one; remembers every batch."""

    name: str = "recording"
    device: Device = "cpu"
    precision: Precision = "fp32"
    stream = None

    def __init__(self, batch_size: int) -> None:
        self.buffers: Mapping[str, npt.NDArray[Any]] = {
            "x": np.full((batch_size, 1, SIDE, SIDE), 99, np.float32),
            "probabilities": np.zeros((batch_size, 2), np.float32),
        }
        self.batches: list[npt.NDArray[np.float32]] = []

    def run(self) -> None:
        self.batches.append(self.buffers["x"].copy())
        self.buffers["probabilities"][:] = self.buffers["x"].sum(axis=(1, 2, 3))[:, None] * [1, 2]

    def close(self) -> None: ...

    def __enter__(self) -> Recording:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Multiplying(Recording):
    """Multiplies within its pass, and remembers what it made of image and factor."""

    def __init__(self, batch_size: int) -> None:
        super().__init__(batch_size)
        self.images = self.buffers["x"]
        self.factor = np.full((batch_size, 1, SIDE, SIDE), 99, np.float32)
        self.buffers = {**self.buffers, FACTOR: self.factor}
        self.written: list[npt.NDArray[np.float32]] = []

    def run(self) -> None:
        self.written.append(self.images.copy())
        self.batches.append(self.images * self.factor)
        self.buffers["probabilities"][:] = self.batches[-1].sum(axis=(1, 2, 3))[:, None] * [1, 2]


ENGINES: tuple[Callable[[int], Recording], ...] = (Recording, Multiplying)


def second(probabilities: Doubles) -> Doubles:
    return probabilities[:, 1]


SCORERS: tuple[tuple[Scorer, ...], ...] = ((0,), (1, 0), (second, 0, 1))


def task(count: int, seed: int = 0, *scorers: Scorer) -> Task:
    random = np.random.default_rng(seed)
    masks = MaskSet(
        numbers=np.arange(count),
        image=random.normal(size=(1, SIDE, SIDE)).astype(np.float32),
        layout="NCHW",
        size=(SIDE, SIDE),
        maps=random.uniform(size=(count, 3, 3)).astype(np.float32),
        affine=random.uniform(size=(count, 2)).astype(np.float32),
        sums=np.ones(count),
    )
    return Task(masks, scorers or (0,))


def passes_on(engine: Engine) -> MaskedPasses:
    return MaskedPasses(lambda batch_size: engine, len(engine.buffers["x"]), "x")


def scored_by(passes: MaskedPasses, tasks: Iterable[Task], *advanced: Callable[[int], None]) -> list[Result]:
    return [result for result in passes.score(tasks, *advanced) if result is not None]


def one_by_one(task: Task) -> list[list[float]]:
    masks, scores = task.masks, []
    for k in range(len(masks)):
        masked = np.empty((1, 1, SIDE, SIDE), np.float32)
        CpuKernels().mask_into(masked, masks.image, masks.maps[k : k + 1], masks.affine[k : k + 1])
        scores.append(float(masked.sum()))
    return [[score * (2 if scorer in (1, second) else 1) for score in scores] for scorer in task.scorers]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(1, 7), st.sampled_from(ENGINES))
def test_every_mask_is_scored_once_with_its_own_image_and_class(
    counts: list[int], batch_size: int, opened: Callable[[int], Recording]
) -> None:
    tasks = [task(count, seed, *SCORERS[seed % len(SCORERS)]) for seed, count in enumerate(counts)]
    engine = opened(batch_size)
    scored = scored_by(passes_on(engine), tasks)
    assert [found.task for found in scored] == tasks
    for found in scored:
        np.testing.assert_allclose(found.scores, one_by_one(found.task), rtol=1e-4, atol=1e-4)
    assert len(engine.batches) == -(-sum(counts) // batch_size)


@pytest.mark.parametrize("opened", ENGINES)
def test_the_last_batch_is_padded_with_zeros_and_not_shrunk(opened: Callable[[int], Recording]) -> None:
    engine = opened(4)
    list(passes_on(engine).score([task(5)]))
    assert [batch.shape[0] for batch in engine.batches] == [4, 4]
    assert engine.batches[1][0].any()
    assert not engine.batches[1][1:].any()


def test_an_engine_that_multiplies_gets_every_image_once_for_each_place() -> None:
    class Counting(CpuKernels):
        images = 0

        def write(self, out: npt.NDArray[Any], value: npt.NDArray[Any] | float) -> None:
            self.images += isinstance(value, np.ndarray)
            super().write(out, value)

    engine, (first, other) = Multiplying(4), (task(9, 0), task(7, 1))
    passes = passes_on(engine)
    passes.kernels = kernels = Counting()
    blocks = [first, Task(first.masks.stretch(3, 9), (1,)), other]
    scored_by(passes, blocks)  # 15 masks of one image fill three batches and three places of the fourth
    assert kernels.images == 4 + 4
    np.testing.assert_array_equal(engine.written[3][2], first.masks.image)
    np.testing.assert_array_equal(engine.written[3][3], other.masks.image)


def test_an_image_that_changed_between_two_explanations_is_written_anew() -> None:
    engine, given_ = Multiplying(4), task(6)
    passes = passes_on(engine)
    scored_by(passes, [given_])
    given_.masks.image[:] *= 3
    (found,) = scored_by(passes, [given_])
    np.testing.assert_allclose(found.scores, one_by_one(given_), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("opened", ENGINES)
def test_whole_images_are_classified_between_explanations(opened: Callable[[int], Recording]) -> None:
    engine, given_ = opened(4), task(6)
    passes = passes_on(engine)
    images = list(np.random.default_rng(0).normal(size=(5, 1, SIDE, SIDE)).astype(np.float32))
    for _ in range(2):
        (scored,) = scored_by(passes, [given_])
        np.testing.assert_allclose(scored.scores, one_by_one(given_), rtol=1e-4, atol=1e-4)
        found = np.concatenate(list(passes.classify(images)))
        np.testing.assert_allclose(found[:, 0], [image.sum() for image in images], rtol=1e-4, atol=1e-4)
        assert not engine.batches[-1][1:].any()


@pytest.mark.parametrize("opened", ENGINES)
def test_whole_images_are_classified_while_tasks_are_drawn(opened: Callable[[int], Recording]) -> None:
    passes, given_ = passes_on(opened(4)), task(6)

    def tasks() -> Iterator[Task | None]:
        yield given_
        yield None  # nothing waits in the batch
        list(passes.classify([np.ones((1, SIDE, SIDE), np.float32)] * 3))
        yield given_

    for found in filter(None, passes.score(tasks())):
        np.testing.assert_allclose(found.scores, one_by_one(given_), rtol=1e-4, atol=1e-4)


def test_tasks_are_drawn_only_when_the_batch_has_room() -> None:
    drawn = []

    def tasks() -> Iterator[Task]:
        for seed in range(4):
            drawn.append(seed)
            yield task(4, seed)

    scores = passes_on(Recording(4)).score(tasks())
    next(scores)
    assert drawn == [0]
    next(scores)
    assert drawn == [0, 1]


def test_progress_counts_masks_not_padding() -> None:
    counts: list[int] = []
    list(passes_on(Recording(4)).score([task(3), task(3)], counts.append))
    assert counts == [4, 2]


def test_a_network_that_answers_nan_is_an_error() -> None:
    class Broken(Recording):
        def run(self) -> None:
            self.buffers["probabilities"][:] = np.nan

    (found,) = scored_by(passes_on(Broken(4)), [task(3)])
    assert isinstance(found.error, EngineError)
    assert "NaN" in str(found.error)


@given(st.lists(st.integers(0, 5), max_size=8), st.integers(1, 4), st.sampled_from(ENGINES))
def test_none_comes_back_once_all_before_it_is_scored(
    counts: list[int], batch_size: int, opened: Callable[[int], Recording]
) -> None:
    """0 stands for None; all masks are of one image."""
    image = task(1).masks.image
    tasks = [
        Task(replace(task(count, seed).masks, image=image), (0,)) if count else None
        for seed, count in enumerate(counts)
    ]
    engine = opened(batch_size)
    passes = passes_on(engine)
    found = list(passes.score(tasks))
    assert [result and result.task for result in found] == tasks
    for result in filter(None, found):
        np.testing.assert_allclose(result.scores, one_by_one(result.task), rtol=1e-4, atol=1e-4)
    runs = [list(run) for full, run in groupby(counts, bool) if full]
    assert len(engine.batches) == sum(-(-sum(run) // batch_size) for run in runs)
    assert passes.room == batch_size


def test_room_is_what_the_batch_can_still_take() -> None:
    passes = passes_on(Recording(4))
    seen = []

    def tasks() -> Iterator[Task]:
        for count in (1, 2, 3):
            seen.append(passes.room)
            yield task(count)
        seen.append(passes.room)

    list(passes.score(tasks()))
    assert seen == [4, 3, 1, 2]


def test_no_tasks_no_pass() -> None:
    engine = Recording(4)
    assert list(passes_on(engine).score([])) == []
    assert engine.batches == []


class Small(Multiplying):
    """A device with room for a batch of ``room``: told when it is opened, or only in its ``surprise``-th pass."""

    def __init__(self, batch_size: int, room: int, *, at_once: bool, surprise: int = 2) -> None:
        if at_once and batch_size > room:
            raise OutOfMemoryError(f"no {batch_size} images")
        super().__init__(batch_size)
        self.room, self.surprise, self.closed = room, surprise, False

    def run(self) -> None:
        assert not self.closed
        if len(self.buffers["x"]) > self.room and len(self.batches) + 1 >= self.surprise:
            raise OutOfMemoryError("no room in this pass")
        super().run()

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize("at_once", [True, False])
@given(counts=st.lists(st.integers(1, 30), min_size=1, max_size=5), room=st.integers(1, 20))
def test_a_batch_without_room_is_halved_and_no_mask_is_lost(at_once: bool, counts: list[int], room: int) -> None:
    tasks = [task(count, seed, *SCORERS[seed % len(SCORERS)]) for seed, count in enumerate(counts)]
    opened: list[Small] = []

    def open_batch(batch_size: int) -> Small:
        opened.append(Small(batch_size, room, at_once=at_once))
        return opened[-1]

    advanced: list[int] = []
    passes = MaskedPasses(open_batch, 16, "x")
    scored = scored_by(passes, tasks, advanced.append)
    for found, given_ in zip(scored, tasks, strict=True):
        assert found.task is given_
        np.testing.assert_allclose(found.scores, one_by_one(given_), rtol=1e-4, atol=1e-4)
    assert sum(advanced) == sum(counts)
    assert not opened[-1].closed
    assert all(engine.closed for engine in opened[:-1])
    if at_once:
        assert passes.batch_size <= room


def test_halving_is_logged_and_ends_at_one(caplog: pytest.LogCaptureFixture) -> None:
    def open_batch(batch_size: int) -> Small:
        return Small(batch_size, 0, at_once=True)

    with pytest.raises(OutOfMemoryError, match="even for a batch of one"):
        MaskedPasses(open_batch, 4, "x")
    assert "no room for a batch of 4: going on with 2" in caplog.text
