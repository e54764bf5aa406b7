from __future__ import annotations

from collections.abc import Iterator

import pytest

from sightline import Explainer
from sightline.bundle import Bundle
from tests.runtime import tiny


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny.write(tmp_path_factory.mktemp("bundles") / "tiny.sightline")


@pytest.fixture
def explainer(bundle: Bundle) -> Iterator[Explainer]:
    with Explainer(bundle, engine="onnxruntime-cpu", batch_size=4) as opened:
        yield opened
