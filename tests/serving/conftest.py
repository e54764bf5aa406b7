from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sightline import Explainer
from sightline.serving.limits import Limits
from tests.runtime import tiny
from tests.serving.running import Running, explainer, running


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a network that explains an image in a few milliseconds."""
    return tiny.write(tmp_path_factory.mktemp("bundles") / "tiny.sightline").path


@pytest.fixture(scope="session")
def server(bundle: Path) -> Iterator[Running]:
    """One that all tests share which leave it as it is."""
    with running([bundle], limits=Limits(queue=64, max_bytes=2**20, max_pixels=250_000)) as found:
        yield found


@pytest.fixture(scope="session")
def reference(bundle: Path) -> Iterator[Explainer]:
    """What the server has, in this process."""
    with explainer(bundle) as found:
        yield found
