"""The single file of real architectures beside the runtime, of few masks each (benchmarks/single_file.py: of all)."""

from __future__ import annotations

from pathlib import Path

import pytest

from sightline import SISE, Explainer, export_single_file
from tests.exporter.conftest import Exported
from tests.exporter.explaining import ENGINES, SingleFile, assert_same
from tests.zoo import FAMILIES

NAMES = ("resnet50", "vgg16", "mobilenet_v2")
PASSES, BATCH_SIZE = 6, 4


@pytest.mark.parametrize(
    "exported", [family for family in FAMILIES if family.name in NAMES], indirect=True, ids=lambda family: family.name
)
def test_the_single_file_says_what_the_runtime_says(exported: Exported, tmp_path: Path) -> None:
    source, image = exported.bundle, exported.family.image().numpy()
    with Explainer(source, SISE(predict=False), "onnxruntime-cpu", BATCH_SIZE) as explainer:
        want = explainer(image[0], max_passes=PASSES)
    assert want.passes == PASSES
    # As one file and with the weights beside it, which one engine each is enough to read.
    for engine, apart in zip(ENGINES, (False, True), strict=True):
        path = export_single_file(
            source, tmp_path / f"{engine}.onnx", max_passes=PASSES, batch_size=BATCH_SIZE, external_data=apart
        )
        assert_same(SingleFile(path, engine)(image), want)
        path.unlink()
