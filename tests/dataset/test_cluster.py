"""Ray: the same shards by two actors. Skipped where Ray is not installed, as in CI: it would cost a minute there."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest

from sightline.dataset import cluster, run
from sightline.dataset.cluster import Cluster
from sightline.dataset.watcher import Watcher
from sightline.dataset.work import Place
from sightline.errors import DatasetError
from tests.dataset.conftest import AtOnce, Explain, written


class FakeRay:
    """What a cluster says of its resources."""

    def __init__(self, **there: float) -> None:
        self.there = there

    def cluster_resources(self) -> dict[str, float]:
        return self.there


class FakeRecipe:
    engine = "openvino"

    def __init__(self, threads: int) -> None:
        self.threads = threads


@pytest.mark.parametrize(
    ("device", "there", "asked", "threads", "shards", "actors", "claims"),
    [
        ("cpu", {"CPU": 2.0}, 2, 1, 9, 2, {"num_cpus": 0.5, "memory": 77}),  # all of it would starve Ray's own tasks
        ("cpu", {"CPU": 64.0}, None, 4, 99, 16, {"num_cpus": 63 / 16, "memory": 77}),
        ("cpu", {"CPU": 64.0}, 8, 4, 99, 8, {"num_cpus": 4, "memory": 77}),
        ("cpu", {"CPU": 64.0}, None, 1, 3, 3, {"num_cpus": 1, "memory": 77}),
        ("cpu", {"CPU": 1.0}, None, 1, 9, 1, {"num_cpus": 0.5, "memory": 77}),
        ("cuda", {"CPU": 64.0, "GPU": 4.0}, None, 1, 99, 4, {"num_cpus": 1, "num_gpus": 1.0}),
        ("cuda", {"CPU": 64.0, "GPU": 4.0}, 8, 1, 99, 8, {"num_cpus": 1, "num_gpus": 0.5}),
    ],
)
def test_what_an_actor_claims(
    device: str, there: dict[str, float], asked: int | None, threads: int, shards: int, actors: int, claims: object
) -> None:
    place = Place(Path(), Path(), FakeRecipe(threads))  # type: ignore[arg-type]
    cluster = Cluster(place, "auto", asked, 77, device, Watcher())  # type: ignore[arg-type]
    assert cluster._resources(FakeRay(**there), shards) == (claims, actors)


def test_a_cluster_without_what_the_engine_needs() -> None:
    place = Place(Path(), Path(), FakeRecipe(1))  # type: ignore[arg-type]
    with pytest.raises(DatasetError, match="has no GPU for openvino"):
        Cluster(place, "auto", None, 77, "cuda", Watcher())._resources(FakeRay(CPU=4.0), 3)


def test_two_actors_write_what_one_process_writes(
    explain: Explain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'sightline[ray]'")
    monkeypatch.setenv("HOME", str(tmp_path))

    class Told(Watcher):
        done = 0
        workers = 0

        def began(self, done: int, total: int, workers: int) -> None:
            self.workers = workers

        def image(self, failure: object) -> None:
            self.done += 1

    told = Told()
    outcome = explain(ray="local", workers=2, watcher=told)
    assert (told.done, told.workers) == (11, 2)
    assert (outcome.explained, len(outcome.failures)) == (11, 2)
    assert not (tmp_path / ".ray").exists(), "a token was left in the user's home"
    assert not {"RAY_AUTH_TOKEN", "RAY_BACKEND_LOG_LEVEL", "RAY_USAGE_STATS_ENABLED"} & set(os.environ)
    with monkeypatch.context() as patched:
        patched.setattr(run, "Pool", AtOnce)
        explain("straight")
    assert written(tmp_path / "out") == written(tmp_path / "straight")
    assert not explain().changed
    with pytest.raises(DatasetError, match="no Ray cluster at 'auto'"):
        explain("elsewhere", ray="auto")
    with pytest.raises(DatasetError, match=r"no Ray cluster at '127.0.0.1:1' \(.*refused"):
        explain("elsewhere", ray="127.0.0.1:1")  # a port that nobody listens at


@pytest.mark.parametrize("address", ["127.0.0.1:{}", "ray://127.0.0.1:{}", "ray://localhost:{}"])
def test_whether_somebody_listens_is_found_out_first(address: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        cluster._knock(address.format(port))
    with pytest.raises(OSError, match="refused"):
        cluster._knock(address.format(port))


def test_addresses_without_a_port_are_rays_affair() -> None:
    for address in ("auto", "local", "anyscale://workspace", "head.example"):
        cluster._knock(address)


def test_nothing_of_ray_is_loaded_unless_it_is_asked_for(explain: Explain, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name == "ray" or name.startswith("ray.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(run, "Pool", AtOnce)
    explain()
    assert "ray" not in sys.modules
