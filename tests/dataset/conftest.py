"""A few pictures in folders, and a way to explain sets of them without the price of starting processes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sightline import demo
from sightline.dataset import Outcome, attempts, explain_set, run, work
from sightline.dataset.shards import Shard
from sightline.dataset.watcher import Watcher
from sightline.dataset.work import Done, Place

ENGINE = "onnxruntime-cpu"


def draw(path: Path, seed: int, size: tuple[int, int] = (40, 32)) -> None:
    """A picture of noise, in blocks, so that maps differ."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    Image.fromarray(noise).resize(size, Image.Resampling.NEAREST).save(path)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Nine pictures in two folders, and two files that are none."""
    folder = tmp_path / "pictures"
    for number in range(9):
        draw(folder / f"line-{number % 2}" / f"part-{number}.png", number)
    (folder / "line-0" / "part-5-torn.png").write_bytes((folder / "line-0" / "part-0.png").read_bytes()[:60])
    (folder / "line-1" / "part-6-empty.jpg").write_bytes(b"")
    return folder


class AtOnce:
    """What a pool does, in this process."""

    def __init__(self, place: Place, workers: int, devices: Sequence[Any], watcher: Watcher) -> None:
        self.place, self.workers, self.watcher = place, workers, watcher

    def run(self, shards: Sequence[Shard], done: int, total: int) -> None:
        self.watcher.began(done, total, self.workers)

        def heard(one: Done) -> None:
            self.watcher.image(one.failure)

        with work.Explaining(self.place) as explaining:
            for shard in shards:
                work.make(shard, attempts.fresh(self.place.out, shard.name), explaining, heard)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "Pool", AtOnce)


Explain = Callable[..., Outcome]


@pytest.fixture
def explain(pictures: Path, tmp_path: Path) -> Explain:
    """``explain_set`` on these pictures, by a method that takes no time."""

    def explaining(out: str = "out", **options: Any) -> Outcome:
        settings: dict[str, Any] = {"method": "grad-cam", "engine": ENGINE, "shard_size": 4, "workers": 1, "threads": 1}
        return explain_set(demo.BUNDLE, pictures, tmp_path / out, **(settings | options))

    return explaining


def written(out: Path) -> dict[str, str]:
    """The hash of every file of the results."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.iterdir())
        if path.is_file() and path.name != ".lock"
    }
