"""Numbers that callers pass, Python's and NumPy's."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from sightline import RISE, SISE, Explainer, Request, decompose, demo
from sightline.errors import EngineError, MethodError
from sightline.numeric import real, whole, whole_or_none
from sightline.runtime.remise import REMISE


@pytest.mark.parametrize("given", [7, np.int64(7), np.uint8(7), np.array(7)])
def test_whole_numbers_of_every_kind_are_pythons_own(given: object) -> None:
    for found in (whole("n", given, MethodError), whole_or_none("n", given, MethodError)):
        assert (type(found), found) == (int, 7)


@pytest.mark.parametrize("given", [0, -1, 2.0, np.float64(2), "2", True, np.True_, np.array([2, 3]), math.nan])
def test_anything_else_is_refused_by_name(given: object) -> None:
    for check in (whole, whole_or_none):
        with pytest.raises(EngineError, match=r"^n=.* is out of range: choose a whole number from 1"):
            check("n", given, EngineError)


def test_the_least_and_none() -> None:
    assert whole("seed", 0, MethodError, 0) == 0
    assert whole_or_none("n", None, MethodError) is None
    with pytest.raises(MethodError, match="from 50"):
        whole("steps", 49, MethodError, 50)
    with pytest.raises(MethodError, match="n=None"):
        whole("n", None, MethodError)


@pytest.mark.parametrize(
    ("given", "want"), [(0.5, 0.5), (1, 1.0), (np.float32(0.5), 0.5), (np.int8(3), 3.0), (10**400, math.inf)]
)
def test_real_numbers_of_every_kind(given: object, want: float) -> None:
    assert (type(real(given)), real(given)) == (float, want)


@pytest.mark.parametrize("given", ["0.5", None, True, [0.5], 1j])
def test_what_is_no_number_is_in_no_range(given: object) -> None:
    assert math.isnan(real(given))


def test_parameters_of_methods_can_come_from_arrays() -> None:
    rise = RISE(passes=np.int64(9), cells=np.int32(5), share=np.float32(0.5), seed=np.uint8(3))
    assert rise == RISE(passes=9, cells=5, share=0.5, seed=3)
    for method in (rise, SISE(mu=np.float32(0.5)), REMISE(mu=np.float32(0.5), width=np.float32(0.25))):
        json.dumps(vars(method))


def test_a_sweep_over_arrays() -> None:
    image = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    with Explainer(demo.BUNDLE, engine="onnxruntime-cpu", batch_size=np.int64(4), threads=np.int64(1)) as explainer:
        plain = explainer(image, max_passes=3)
        found = explainer(image, max_passes=np.int64(3), deadline=np.float32(600))
        assert found.passes == plain.passes == 3
        json.dumps(found.facts())
        for deadline in (10**400, math.nan, "1", 0):
            with pytest.raises(MethodError, match="deadline="):
                explainer(image, deadline=deadline)  # type: ignore[arg-type]


def test_a_deadline_in_float32_is_as_sharp_as_any() -> None:
    request = Request("part.png", began=1e7, deadline=np.float32(0.25))
    assert (type(request.ends), request.ends) == (float, 1e7 + 0.25)


def test_a_hierarchy_of_numpys_numbers_can_be_written() -> None:
    image = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    found = decompose(
        demo.BUNDLE, image, engine="onnxruntime-cpu", top_k=np.int64(2), depth=np.int64(1), min_share=np.float32(0.5)
    )
    assert json.loads(found.to_json())["settings"]["top_k"] == 2
