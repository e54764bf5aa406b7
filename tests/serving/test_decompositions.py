"""Decompositions: what becomes of them when the bundle on disk is damaged, and when the server stops."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from sightline import demo
from sightline.bundle import MANIFEST, load
from sightline.runtime.decomposer import Decomposer
from sightline.runtime.hierarchy import Hierarchy
from sightline.serving.decompositions import Decompositions
from sightline.serving.refusal import RefusedError
from tests.serving.running import b64, running

IMAGE = demo.samples()[0].image


def test_a_damaged_bundle_changes_nothing_once_the_stages_are_open(tmp_path: Path) -> None:
    folder = tmp_path / "surface.sightline"
    shutil.copytree(demo.BUNDLE, folder)
    manifest = (folder / MANIFEST).read_bytes()
    path, asked = "/v1/models/surface:decompose", {"instances": [{"b64": b64(IMAGE.read_bytes())}]}
    with running([folder]) as server:
        (folder / MANIFEST).write_bytes(manifest[:-1])
        refused = server.post(path, asked)
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "2")  # there is nothing to open
        (folder / MANIFEST).write_bytes(manifest)
        assert server.post(path, {**asked, "parameters": {"depth": 1}}).status_code == 200
        shutil.rmtree(folder)
        server.server.registry.look()
        whole = server.post(path, asked).raise_for_status().text  # of stages that nobody has asked for before
    assert len(Hierarchy.from_json(whole).levels) > 2


def test_abandoning_ends_the_one_under_way_and_those_that_wait() -> None:
    decompositions = Decompositions(load(demo.BUNDLE), "onnxruntime-cpu", 1, 8)
    begun = []

    def under_way(decomposer: Decomposer) -> Hierarchy:
        begun.append(decomposer)
        decompositions.abandon()
        return decomposer(IMAGE)

    futures = [decompositions.submit(under_way) for _ in range(2)]
    for future in futures:
        with pytest.raises(RefusedError, match="stopping") as refused:
            future.result()
        assert refused.value.status == 503
    assert len(begun) == 1
    decompositions.close()
