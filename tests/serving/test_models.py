"""Names, and bundles that are replaced while they serve."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import pytest

from sightline import SISE, Explainer
from sightline import bundle as bundles
from sightline.errors import BundleError, EngineError, ServingError
from sightline.runtime.rise import RISE
from sightline.serving import models
from sightline.serving.limits import Limits
from sightline.serving.metrics import Metrics
from sightline.serving.models import Choices, Registry
from sightline.serving.refusal import RefusedError
from sightline.serving.scheduler import Ticket
from tests.runtime import tiny
from tests.serving.running import CHOICES, Running, b64, held, instance, picture, running

EXPLAIN = "/v1/models/tiny:explain"
ASKED = {"instances": [instance(0)]}
INFERENCE = {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": [b64(picture(0))]}]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny.write(tmp_path / "tiny.sightline").path


@pytest.fixture
def alone(folder: Path) -> Iterator[Running]:
    """A server whose bundle a test may replace."""
    with running([folder]) as found:
        yield found


def replace(folder: Path, seed: int = 1) -> str:
    """Put another network where a bundle lies; its hash."""
    fresh = tiny.write(folder.with_name(".fresh"), tiny.Tiny(seed))
    shutil.rmtree(folder)
    fresh.path.rename(folder)
    return bundles.load(folder).hash


def answered_by(server: Running) -> str:
    (found,) = server.post(EXPLAIN, ASKED).raise_for_status().json()["explanations"]
    return str(found["bundle_hash"])


def test_a_changed_bundle_is_found_and_serves(alone: Running, folder: Path) -> None:
    before = answered_by(alone)
    alone.server.registry.look()
    assert answered_by(alone) == before
    fresh = replace(folder)
    assert fresh != before
    alone.server.registry.look()
    assert answered_by(alone) == fresh
    assert alone.client.get("/v1/models/tiny").json()["bundle_hash"] == fresh
    assert alone.client.get("/v2/models/tiny").json()["versions"] == [fresh[:12]]


def test_a_version_answers_as_long_as_it_serves(alone: Running, folder: Path) -> None:
    def asked(version: str) -> list[tuple[int, Any]]:
        path = f"/v2/models/tiny/versions/{version}"
        answers = [alone.client.get(path), alone.client.get(f"{path}/ready"), alone.post(f"{path}/infer", INFERENCE)]
        return [(answer.status_code, answer.json()) for answer in answers]

    before, after = answered_by(alone)[:12], replace(folder)[:12]
    (_, tensors), (_, ready), (_, inferred) = asked(before)
    assert tensors == alone.client.get("/v2/models/tiny").json()
    assert ready == {"name": "tiny", "ready": True}
    assert inferred["model_version"] == before
    assert inferred["outputs"] == alone.post("/v2/models/tiny/infer", INFERENCE).json()["outputs"]
    assert [status for status, _ in asked(after)] == [404] * 3
    alone.server.registry.look()
    for status, document in asked(before):
        assert (status, after in document["error"]) == (404, True)
    assert [status for status, _ in asked(after)] == [200] * 3


def test_the_watcher_looks_by_itself(folder: Path) -> None:
    registry = Registry([folder], CHOICES, Limits(), Metrics())
    (model,) = registry
    model.opened()
    fresh = replace(folder)
    registry.watch(0.0)
    while model.hash != fresh:
        pass
    registry.close()


def test_a_reload_can_be_asked_for(alone: Running, folder: Path) -> None:
    load = "/v2/repository/models/tiny/load"
    before = answered_by(alone)
    assert alone.client.post(load).json() == {"name": "tiny", "version": before[:12], "changed": False}
    fresh = replace(folder)
    assert alone.client.post(load).json() == {"name": "tiny", "version": fresh[:12], "changed": True}
    assert answered_by(alone) == fresh


def test_a_damaged_bundle_does_not_replace_a_good_one(
    alone: Running, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = answered_by(alone)
    fresh = replace(folder)
    whole = (folder / "classifier.onnx").read_bytes()
    (folder / "classifier.onnx").write_bytes(whole[:-1])
    alone.server.registry.look()
    alone.server.registry.look()
    complaints = [record for record in caplog.records if "keeps its bundle" in record.getMessage()]
    assert len(complaints) == 1  # not again and again
    answer = alone.client.post("/v2/repository/models/tiny/load")
    assert (answer.status_code, "damaged" in answer.json()["error"]) == (422, True)
    assert answered_by(alone) == before
    assert alone.client.get("/v2/health/ready").status_code == 200
    (folder / "classifier.onnx").write_bytes(whole)  # the copy was not finished yet
    alone.server.registry.look()
    assert answered_by(alone) == fresh


def test_a_bundle_that_cannot_be_read_is_looked_at_again(
    alone: Running, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before = answered_by(alone)
    fresh = replace(folder)
    for error in (BundleError("cannot be read"), ValueError("nobody thought of that")):

        def failing(path: Path, error: Exception = error) -> bundles.Bundle:
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(models, "load", failing)
            alone.server.registry.look()
    assert sum("keeps its bundle" in record.getMessage() for record in caplog.records) == 2
    assert answered_by(alone) == before
    alone.server.registry.look()
    assert answered_by(alone) == fresh


def test_loading_one_model_does_not_hold_up_another(tmp_path: Path, folder: Path) -> None:
    """However many ask for it, and however long it takes."""
    other = shutil.copytree(folder, tmp_path / "other.sightline")
    with running([folder, other]) as found:
        (model, _) = found.server.registry
        under_way = found.server._front._under_way
        going = Event()
        model.reload = going.wait  # type: ignore[method-assign]
        load = f"/v2/repository/models/{model.name}/load"
        with ThreadPoolExecutor(8) as pool:
            waiting = [pool.submit(httpx.post, f"{found.client.base_url}{load}", timeout=None) for _ in range(8)]
            while len(under_way) < 8:
                pass
            assert found.post("/v1/models/other:predict", {"instances": [instance(0)]}).status_code == 200
            going.set()
            assert {answer.result().status_code for answer in waiting} == {200}


def test_a_bundle_that_the_engine_refuses_does_not_replace_a_good_one(
    alone: Running, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = answered_by(alone)
    replace(folder)

    def refuses(*_: object, **__: object) -> None:
        raise EngineError("no room")

    monkeypatch.setattr(models, "Explainer", refuses)
    alone.server.registry.look()
    assert not next(iter(alone.server.registry)).changed()  # it is not tried again before it changes again
    assert answered_by(alone) == before


def test_the_former_bundle_finishes_what_it_has_begun(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = held()
    monkeypatch.setattr(models, "Explainer", kind)
    with running([folder]) as server, ThreadPoolExecutor(4) as pool:
        before = next(iter(server.server.registry)).hash
        waiting = [pool.submit(answered_by, server) for _ in range(3)]
        kind.drawn.wait()
        monkeypatch.setattr(models, "Explainer", Explainer)
        fresh = replace(folder)
        server.server.registry.look()
        assert answered_by(server) == fresh  # while the former one is still held
        kind.go.set()
        assert [one.result() for one in waiting].count(before) >= 1
        assert {one.result() for one in waiting} <= {before, fresh}


def test_what_the_former_bundle_does_is_abandoned_too(alone: Running, folder: Path) -> None:
    (model,) = alone.server.registry
    with model.hold() as former:
        replace(folder)
        assert model.reload()
        endless = Ticket(tiny.image(), (None,), RISE(passes=10_000), time.perf_counter())
        former.scheduler.submit([endless])
        while not former.scheduler.in_hand:
            pass
        model.abandon()
        with pytest.raises(RefusedError, match="stopping"):
            endless.future.result()
    model.close()
    assert not former.scheduler._thread.is_alive()


def test_what_is_held_is_not_closed(alone: Running, folder: Path) -> None:
    (model,) = alone.server.registry
    with model.hold() as former, model.hold() as too:
        assert former is too
        fresh = replace(folder)
        assert model.reload()
        with model.hold() as latter:
            assert latter.bundle.hash == fresh
        late = Ticket(tiny.image(), (None,), SISE(), time.perf_counter())
        former.scheduler.submit([late])
        assert late.future.result().explanations[0].bundle_hash == former.bundle.hash
    former.scheduler._thread.join()  # the last one to let go of it has
    with pytest.raises(RefusedError, match="stopping"):
        former.scheduler.submit([late])


def test_one_of_two_that_lets_go_does_not_close_it(alone: Running, folder: Path) -> None:
    (model,) = alone.server.registry
    with model.hold() as former:
        with model.hold():
            replace(folder)
            assert model.reload()
        late = Ticket(tiny.image(), (None,), SISE(), time.perf_counter())
        former.scheduler.submit([late])
        assert late.future.result().explanations


def test_several_models_each_by_its_name(tmp_path: Path) -> None:
    names = ("steel", "a.b-c_1")
    paths = [tiny.write(tmp_path / f"{name}.sightline", tiny.Tiny(i)).path for i, name in enumerate(names)]
    with running(paths) as server:
        assert server.client.get("/v1/models").json() == {"models": ["steel", "a.b-c_1"]}
        hashes = {
            server.post(f"/v1/models/{name}:explain", ASKED).json()["explanations"][0]["bundle_hash"] for name in names
        }
        assert hashes == {bundles.load(path).hash for path in paths}
        index = server.client.post("/v2/repository/index").json()
        assert [(one["name"], one["state"]) for one in index] == [("steel", "READY"), ("a.b-c_1", "READY")]


def test_names_that_cannot_be_served(tmp_path: Path, folder: Path) -> None:
    def registry(*paths: Path) -> Registry:
        return Registry(paths, Choices(), Limits(), Metrics())

    with pytest.raises(ServingError, match="name at least one"):
        registry()
    with pytest.raises(ServingError, match="two bundles are named 'tiny'"):
        registry(folder, tmp_path / "other" / "tiny.sightline")
    with pytest.raises(ServingError, match="rename the folder"):
        registry(tiny.write(tmp_path / "a b.sightline").path)
    with pytest.raises(BundleError, match="no bundle"):
        registry(tmp_path / "none.sightline")


def test_methods_and_limits_out_of_range() -> None:
    with pytest.raises(ServingError, match="no method 'lime'"):
        Choices(methods=("lime",))
    for wrong in ({"queue": 0}, {"max_bytes": 0}, {"max_pixels": 10**9}, {"deadline": 0.0}, {"deadline": float("inf")}):
        with pytest.raises(ServingError, match=next(iter(wrong))):
            Limits(**wrong)
    assert Limits(deadline=2.0).within(None) == 2.0
    assert Limits(deadline=2.0).within(5.0) == 2.0
    assert Limits(deadline=2.0).within(1.0) == 1.0
    assert Limits().within(None) is None
