"""Masked images packed into a fixed batch, on an engine that says what it was given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sightline.errors import EngineError
from sightline.kernels import CpuKernels
from sightline.runtime.batching import MaskedPasses
from sightline.runtime.masks import MaskSet

SIDE = 6


class Recording:
    """Scores an image by its sum, times the class number plus one; remembers every batch."""

    name, device = "recording", "cpu"

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


def mask_set(count: int, seed: int = 0, target: int = 0) -> MaskSet:
    random = np.random.default_rng(seed)
    return MaskSet(
        image=random.normal(size=(1, SIDE, SIDE)).astype(np.float32),
        layout="NCHW",
        size=(SIDE, SIDE),
        target=target,
        maps=random.uniform(size=(count, 3, 3)).astype(np.float32),
        affine=random.uniform(size=(count, 2)).astype(np.float32),
        sums=np.ones(count),
    )


def one_by_one(masks: MaskSet) -> list[float]:
    scores = []
    for k in range(len(masks)):
        masked = np.empty((1, 1, SIDE, SIDE), np.float32)
        CpuKernels().mask_into(masked, masks.image, masks.maps[k : k + 1], masks.affine[k : k + 1])
        scores.append(float(masked.sum()) * (masks.target + 1))
    return scores


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(1, 7))
def test_every_mask_is_scored_once_with_its_own_image_and_class(counts: list[int], batch_size: int) -> None:
    sets = [mask_set(count, seed, seed % 2) for seed, count in enumerate(counts)]
    engine = Recording(batch_size)
    scored = list(MaskedPasses(engine, CpuKernels(), "x").score(sets))
    assert [found.masks for found in scored] == sets
    for found in scored:
        np.testing.assert_allclose(found.scores, one_by_one(found.masks), rtol=1e-4, atol=1e-4)
    assert len(engine.batches) == -(-sum(counts) // batch_size)


def test_the_last_batch_is_padded_with_zeros_and_not_shrunk() -> None:
    engine = Recording(4)
    list(MaskedPasses(engine, CpuKernels(), "x").score([mask_set(5)]))
    assert [batch.shape[0] for batch in engine.batches] == [4, 4]
    assert engine.batches[1][0].any()
    assert not engine.batches[1][1:].any()


def test_sets_are_drawn_only_when_the_batch_has_room() -> None:
    drawn = []

    def sets() -> Iterator[MaskSet]:
        for seed in range(4):
            drawn.append(seed)
            yield mask_set(4, seed)

    scores = MaskedPasses(Recording(4), CpuKernels(), "x").score(sets())
    next(scores)
    assert drawn == [0]
    next(scores)
    assert drawn == [0, 1]


def test_progress_counts_masks_not_padding() -> None:
    counts: list[int] = []
    list(MaskedPasses(Recording(4), CpuKernels(), "x").score([mask_set(3), mask_set(3)], counts.append))
    assert counts == [4, 2]


def test_a_network_that_answers_nan_is_an_error() -> None:
    class Broken(Recording):
        def run(self) -> None:
            self.buffers["probabilities"][:] = np.nan

    with pytest.raises(EngineError, match="NaN"):
        list(MaskedPasses(Broken(4), CpuKernels(), "x").score([mask_set(3)]))


def test_no_sets_no_pass() -> None:
    engine = Recording(4)
    assert list(MaskedPasses(engine, CpuKernels(), "x").score([])) == []
    assert engine.batches == []
