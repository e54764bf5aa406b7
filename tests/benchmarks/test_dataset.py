"""docs/datasets.md states what the benchmark measured."""

from __future__ import annotations

import re
from pathlib import Path

from tests.benchmarks.test_results import ROOT, figures


def test_the_document_states_the_figures() -> None:
    text = (ROOT / "docs" / "datasets.md").read_text()
    measured = figures("dataset")
    assert measured["killed: files that differ from the undisturbed run"] == 0
    assert measured["Ray: files that differ from the undisturbed run"] == 0
    for name in (
        "killed, 3 workers: kills of workers",
        "Ray, 2 actors: kills of actors",
        "undisturbed: images that failed",
        "bytes of Parquet for each image",
    ):
        assert re.search(rf"\b{measured[name]:.0f}\b", text), name
    scaling = measured["scaling: efficiency of 2 workers"]
    low, high = scaling["quartiles"]
    assert f"{scaling['median']:.2f} ({low:.2f} to {high:.2f})" in text
    for workers in ("1 worker", "2 workers"):
        assert f"{measured[f'scaling, {workers} of 1 thread']['median']:.0f} s" in text


def test_the_record_is_of_the_set_that_the_document_names() -> None:
    record = Path(ROOT / "benchmarks" / "results" / "dataset.json").read_text()
    assert '"images": 2000' in record
    assert '"corrupt": 20' in record
