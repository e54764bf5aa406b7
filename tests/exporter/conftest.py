"""Every family, exported once for all tests of this folder, beside what float64 autograd says of it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
import torch

from sightline.bundle import RIVALS, SEED, SEEDED, TARGET, Bundle
from sightline.exporter import export
from tests.reference import Gradients, seeded_gradient
from tests.zoo import FAMILIES, Family

Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Exported:
    """A family's bundle, what its graphs yield for the family's image, and what torch says in float64."""

    family: Family
    bundle: Bundle
    attribution: Arrays
    reference: Gradients
    target: int


@pytest.fixture(scope="session", params=FAMILIES, ids=[family.name for family in FAMILIES])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exported]:
    """One family at a time: bundles are large."""
    family: Family = request.param
    folder = tmp_path_factory.mktemp(family.name)
    module, image = family.build(), family.image()
    bundle = export(module, folder / f"{family.name}.sightline", example=image)
    attribution = attribute(bundle, image.numpy())
    target = int(attribution["logits"].argmax())
    reference = seeded_gradient(module.double(), image.double(), target, family.taps)
    yield Exported(family, bundle, attribution, reference, target)
    shutil.rmtree(folder)


def run(path: Path, feeds: Arrays) -> dict[str, npt.NDArray[Any]]:
    """All outputs of an ONNX file by ONNX Runtime."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def attribute(
    bundle: Bundle,
    image: npt.NDArray[np.float32],
    target: int = -1,
    rivals: float = 1.0,
    seed: npt.NDArray[np.float32] | None = None,
) -> dict[str, npt.NDArray[Any]]:
    """One pass of ``attribution.onnx``: image 1×C×H×W. A seed, 1×K, takes the place of the target."""
    feeds: dict[str, npt.NDArray[Any]] = {
        bundle.input.name: image,
        TARGET: np.array([target if seed is None else SEEDED]),
        SEED: np.full((1, bundle.classes), np.nan, np.float32) if seed is None else seed,
    }
    if bundle.manifest.activation == "softmax":
        feeds[RIVALS] = np.array([rivals], np.float32)
    return run(bundle.attribution, feeds)


def relative_error(got: npt.NDArray[Any], want: npt.NDArray[Any]) -> float:
    """‖got − want‖₂ / ‖want‖₂, in float64."""
    difference = np.asarray(got, np.float64) - np.asarray(want, np.float64)
    return float(np.linalg.norm(difference.ravel()) / np.linalg.norm(np.asarray(want, np.float64).ravel()))
