"""What a production line does to an explainer: a thousand pictures, an interruption in the middle."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sightline import Explainer
from sightline.bundle import Bundle
from tests.runtime import tiny

SCRIPT = """
import sys
import numpy as np, psutil
from sightline import Explainer
random = np.random.default_rng(0)
with Explainer(sys.argv[1], "sise", sys.argv[2], batch_size=8, threads=1) as explainer:
    _, *shape = explainer._engines.attribution.buffers["pixels"].shape
    for count in range(1, 1001):
        explainer(random.normal(size=shape).astype(np.float32))
        if count in (200, 1000):
            print(psutil.Process().memory_info().rss)
"""


@pytest.mark.parametrize("engine", ["onnxruntime-cpu", "openvino"])
def test_memory_is_flat_over_a_thousand_explanations(engine: str, bundle: Bundle) -> None:
    if engine == "openvino":
        pytest.importorskip("openvino")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(bundle.path), engine], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    early, late = map(int, done.stdout.split())
    # One leaked set of feature maps, 4 kB, each time would make 3 MiB; one batch of images 46 kB, 37 MiB.
    assert late - early < 3 * 2**20


def test_an_interruption_leaves_the_explainer_as_it_was(bundle: Bundle) -> None:
    interrupted = False

    def progress(done: int, total: int) -> None:
        nonlocal interrupted
        if not interrupted and done > 8:
            interrupted = True
            raise KeyboardInterrupt

    image = tiny.image()
    with Explainer(bundle, batch_size=4, progress=progress) as explainer, Explainer(bundle, batch_size=4) as other:
        with pytest.raises(KeyboardInterrupt):
            explainer(image)
        np.testing.assert_array_equal(explainer(image).saliency, other(image).saliency)


def test_two_processes_measure_and_share_one_cache(bundle: Bundle, tmp_path: Path) -> None:
    script = "import sys, sightline; print(sightline.Explainer(sys.argv[1], engine='onnxruntime-cpu').batch_size)"
    environment = {"SIGHTLINE_CACHE": str(tmp_path), "PATH": ""}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(bundle.path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for _ in range(2)
    ]
    for process in processes:
        said, error = process.communicate()
        assert process.returncode == 0, error
        assert int(said) >= 1
    (kept,) = tmp_path.rglob("batch-size/*.json")
    assert [file.name for file in kept.parent.iterdir()] == [kept.name]
