"""Which maps are kept."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sightline import SISE
from sightline.errors import MethodError
from sightline.kernels import CpuKernels
from sightline.runtime.selection import above_otsu, above_share
from tests import reference

ALPHAS = arrays(np.float32, st.integers(1, 40), elements=st.floats(-1, 1, width=16))


@given(ALPHAS, st.sampled_from([0.0, 0.3, 0.5, 0.9]))
def test_above_share(alpha: npt.NDArray[np.float32], mu: float) -> None:
    assert above_share(alpha, mu).numbers.tolist() == reference.selection(torch.from_numpy(alpha).double(), mu)


@given(ALPHAS)
def test_above_otsu(alpha: npt.NDArray[np.float32]) -> None:
    expected = reference.adaptive_selection(torch.from_numpy(alpha).double())
    assert above_otsu(alpha, CpuKernels()).numbers.tolist() == expected


def test_a_map_is_worth_its_share_of_the_largest() -> None:
    alpha = np.array([-1, 0.2, 0.8, 0.1, 0.75], np.float32)
    for choice in (above_share(alpha, 0.0), above_otsu(alpha, CpuKernels())):
        np.testing.assert_allclose(choice.worth, alpha.astype(np.float64)[choice.numbers] / alpha[2])
    assert above_otsu(alpha, CpuKernels()).numbers.tolist() == [2, 4]


def test_only_ratios_count() -> None:
    alpha = np.array([1, 0.6, 0.2, -1], np.float32)
    for scale in (1e-30, 1, 1e30):
        assert above_share(alpha * np.float32(scale), 0.5).numbers.tolist() == [0, 1]


@pytest.mark.parametrize("alpha", [[0.0, 0.0], [-1.0, -2.0], [-1.0, 0.0]])
def test_nothing_is_kept_where_no_gradient_is_positive(alpha: list[float]) -> None:
    assert above_share(np.array(alpha, np.float32), 0.0).numbers.size == 0
    assert above_otsu(np.array(alpha, np.float32), CpuKernels()).numbers.size == 0


def test_the_threshold_itself_is_not_kept() -> None:
    assert above_share(np.array([1.0, 0.5, 0.75], np.float32), 0.5).numbers.tolist() == [0, 2]


def test_the_largest_map_is_kept_whatever_mu() -> None:
    assert above_share(np.array([0.1, 0.3, 0.2], np.float32), 0.999).numbers.tolist() == [1]


@pytest.mark.parametrize("mu", [-0.1, 1, 1.5, float("nan"), float("inf"), "0.3", None])
def test_mu_out_of_range(mu: float) -> None:
    with pytest.raises(MethodError, match=r"mu=.*0 <= mu < 1"):
        SISE(mu=mu)


def test_presets_can_be_overridden() -> None:
    assert SISE.preset("quality") == SISE()
    assert SISE.preset("speed").mu > SISE.preset("balance").mu > 0
    assert SISE.preset("speed", mu=0.1, predict=False) == SISE(mu=0.1, predict=False)
    with pytest.raises(MethodError, match=r"'fast'.*quality, balance, speed"):
        SISE.preset("fast")
