"""Parts of the single file on their own: Otsu's threshold, and bilinear interpolation, as graphs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sightline.exporter.builder import Term
from sightline.exporter.gradient import expose
from sightline.exporter.single.otsu import otsu
from sightline.exporter.single.sampling import interpolation_matrix, upsampled
from sightline.exporter.single.selection import above_otsu, above_share
from sightline.exporter.single.writer import DOUBLE, FLOAT, Writer
from tests import reference

Arrays = list[npt.NDArray[Any]]


def evaluated(build: Callable[..., tuple[Term, ...]], *arrays: npt.NDArray[Any], precision: ir.DataType) -> Arrays:
    """What ONNX Runtime makes of a formula over some arrays."""
    graph = ir.Graph([], [], nodes=[], opset_imports={"": 21}, name="part")
    w = Writer(graph, "p/", precision)
    terms = []
    for number, array in enumerate(arrays):
        value = ir.val(f"input{number}", dtype=ir.DataType.from_numpy(array.dtype), shape=array.shape)
        graph.inputs.append(value)
        terms.append(w.term(value))
    found = build(w, *terms)
    for number, term in enumerate(found):
        expose(w, term, f"output{number}", ())
        graph.outputs[-1].shape = None
    model = ir.to_proto(ir.Model(graph, ir_version=10)).SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return list(session.run(None, {f"input{number}": array for number, array in enumerate(arrays)}))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 64), min_size=1, max_size=40), st.lists(st.booleans(), min_size=40, max_size=40))
def test_otsu(sixty_fourths: list[int], flags: list[bool]) -> None:
    values = np.array(sixty_fourths) / 64
    counted = np.array(flags[: len(values)])
    for kept, every in ((values, True), (values[counted], False)):

        def build(w: Writer, terms: Term, marks: Term, every: bool = every) -> tuple[Term, ...]:
            return otsu(w, terms, None if every else marks)

        # Where nothing separates the values, the reference has no threshold.
        want = reference.otsu(torch.from_numpy(kept)) if len(kept) else None
        threshold, splits = evaluated(build, values, counted, precision=DOUBLE)
        assert bool(splits.item()) == (want is not None)
        if want is not None:
            assert threshold.item() == want


@pytest.mark.parametrize("seed", range(5))
def test_otsu_of_a_whole_map_in_both_precisions(seed: int) -> None:
    random = np.random.default_rng(seed)
    values = np.clip(np.where(random.uniform(size=50000) < 0.3, 0.2, 0.7) + 0.1 * random.normal(size=50000), 0, 1)
    want = reference.otsu(torch.from_numpy(values))
    for precision, dtype in ((DOUBLE, np.float64), (FLOAT, np.float32)):
        (threshold, _) = evaluated(lambda w, terms: otsu(w, terms), values.astype(dtype), precision=precision)
        assert threshold.item() == want


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-20, 40), min_size=1, max_size=12), st.sampled_from([0.0, 0.25, 0.5]))
def test_the_choice_of_maps(fortieths: list[int], mu: float) -> None:
    alpha = np.array(fortieths) / 40

    def build(w: Writer, term: Term) -> tuple[Term, ...]:
        return above_otsu(w, term), above_share(w, term, w.constant([mu], like=term))

    adaptive, shared = (np.flatnonzero(flags).tolist() for flags in evaluated(build, alpha, precision=DOUBLE))
    assert adaptive == list(reference.adaptive_selection(torch.from_numpy(alpha)))
    assert shared == list(reference.selection(torch.from_numpy(alpha), mu))


@pytest.mark.parametrize(
    ("source", "size"), [((7, 5), (24, 33)), ((24, 5), (24, 20)), ((1, 3), (4, 3)), ((9, 8), (9, 8))]
)
def test_up_is_bilinear_interpolation(source: tuple[int, int], size: tuple[int, int]) -> None:
    map = np.random.default_rng(0).normal(size=source)
    want = torch.nn.functional.interpolate(torch.from_numpy(map)[None, None], size, mode="bilinear")[0, 0].numpy()
    (got,) = evaluated(lambda w, term: (upsampled(w, term, source, size),), map, precision=DOUBLE)
    np.testing.assert_allclose(got, want, atol=1e-12)

    def by_matrices(w: Writer, term: Term) -> tuple[Term, ...]:
        columns, rows = interpolation_matrix(w, source[1], size[1]), interpolation_matrix(w, source[0], size[0])
        across = term if columns is None else w("MatMul", term, columns)
        return (across if rows is None else w("MatMul", w.transpose(rows, (1, 0)), across),)

    (got,) = evaluated(by_matrices, map.astype(np.float32), precision=FLOAT)
    np.testing.assert_allclose(got, want, atol=1e-5)
