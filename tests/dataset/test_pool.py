"""Real processes: they die by SIGKILL, the run goes on, and what is written does not tell."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

import sightline
from sightline import dataset, demo
from sightline.dataset import attempts, pool, run
from sightline.dataset.rows import Failure
from sightline.dataset.watcher import Watcher
from sightline.errors import DatasetError
from tests.dataset.conftest import ENGINE, AtOnce, Explain, draw, written
from tests.dataset.lethal import Fatal, Interrupting, Lethal

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="has no SIGKILL")

SCRIPT = """
import multiprocessing, os, signal, sys
from sightline import dataset, demo

class Ending(dataset.Watcher):
    count = 0

    def image(self, failure):
        self.count += 1
        if self.count == int(sys.argv[3]):
            print(*[child.pid for child in multiprocessing.active_children()], flush=True)
            os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    dataset.explain_set(
        demo.BUNDLE, sys.argv[1], sys.argv[2], method="grad-cam", engine="onnxruntime-cpu", shard_size=4, workers=2,
        watcher=Ending(),
    )
"""


def workers() -> list[int]:
    """The processes of the workers."""
    children = multiprocessing.active_children()
    return [child.pid for child in children if child.name.startswith("sightline-") and child.pid is not None]


class Killing(Watcher):
    """Kills a worker by chance whenever one of some images is done."""

    def __init__(self, seed: int, times: int, images: int) -> None:
        self.random = random.Random(seed)
        self.moments = set(self.random.sample(range(1, images // 2), times))
        self.done = 0
        self.deaths: list[str] = []

    def image(self, failure: Failure | None) -> None:
        self.done += 1
        if self.done in self.moments:
            os.kill(self.random.choice(workers()), signal.SIGKILL)

    def died(self, cause: str) -> None:
        self.deaths.append(cause)


@pytest.fixture
def straight(explain: Explain, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The results of a run that nothing disturbs, of a few images more."""
    for number in range(20, 28):
        draw(pictures / f"part-{number}.png", number)
    with monkeypatch.context() as undisturbed:
        undisturbed.setattr(run, "Pool", AtOnce)
        assert len(explain("straight").failures) == 2
    return written(tmp_path / "straight")


def test_workers_killed_at_random_moments_leave_no_trace(
    straight: dict[str, str], explain: Explain, tmp_path: Path
) -> None:
    killing = Killing(seed=7, times=3, images=19)
    outcome = explain(workers=3, watcher=killing)
    # One that had nothing left to do may have been hit: nobody misses it.
    assert 1 <= len(killing.deaths) <= 3
    assert set(killing.deaths) == {"killed by SIGKILL (no memory left?)"}
    assert killing.done == outcome.images == 19
    assert outcome.explained <= 19
    assert written(tmp_path / "out") == straight
    assert workers() == []
    assert [path.name for path in (tmp_path / "out" / ".work").iterdir()] == ["images.json"]


def test_a_run_that_is_killed_goes_on_later(
    straight: dict[str, str], explain: Explain, pictures: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = [sys.executable, "-c", SCRIPT, str(pictures), str(out), "6"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (out / "failures.json").exists()
    assert 1 <= len(done.stdout.split()) <= 2
    for number in map(int, done.stdout.split()):
        with suppress(psutil.NoSuchProcess):
            psutil.Process(number).wait()  # the workers go with their parent
    for attempt in attempts.all_of(out):
        assert attempts.past(out, attempt.parent.name).deaths == {}, "they died, but of no image"
    outcome = explain(workers=2)
    assert outcome.explained <= 19 - 6 + 2
    assert written(out) == straight


def test_an_image_that_kills_its_workers_is_given_up_and_the_others_are_not(
    explain: Explain, tmp_path: Path, pictures: Path
) -> None:
    names = {sample.name: sample.image for sample in demo.samples()}
    shutil.copy(names["crack"], pictures / "line-0" / "part-3-crack.jpg")
    crack = sightline.load(demo.BUNDLE).target("crack")
    killing = Killing(seed=0, times=0, images=11)
    outcome = explain(method=Lethal(victim=crack), workers=2, watcher=killing)
    cause = "workers died on it 3 times, the last one killed by SIGKILL (no memory left?)"
    reasons = {one.path: one.reason for one in outcome.failures if "damaged" not in one.reason}
    assert reasons == {"line-0/part-3-crack.jpg": cause}
    assert len(killing.deaths) == 3
    assert len(dataset.read(tmp_path / "out")) == 9
    listed = json.loads((tmp_path / "out" / "failures.json").read_text())["failures"]
    assert cause in [failure["reason"] for failure in listed]


def test_stopping_is_held_against_no_image(explain: Explain, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        explain(method=Interrupting())
    (attempt,) = attempts.all_of(tmp_path / "out")
    assert '"begin"' in attempt.read_text()
    assert attempts.past(tmp_path / "out", attempt.parent.name).deaths == {}
    assert workers() == []


def test_workers_that_never_get_to_an_image_end_the_run(
    explain: Explain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "FRUITLESS", 2)  # each costs a process
    with pytest.raises(DatasetError, match=r"2 workers died over part-.* the last one ended with exit code 3"):
        explain(method=Fatal())
    assert workers() == []


def test_workers_that_cannot_work_say_why(explain: Explain, pictures: Path, tmp_path: Path) -> None:
    bundle = shutil.copytree(demo.BUNDLE, tmp_path / "steel.sightline")

    class Vandal(Watcher):
        def began(self, done: int, total: int, workers: int) -> None:
            shutil.rmtree(bundle)

    with pytest.raises(DatasetError, match=r"the workers cannot work: .*steel\.sightline"):
        dataset.explain_set(bundle, pictures, tmp_path / "out", engine=ENGINE, workers=1, watcher=Vandal())
    assert attempts.past(tmp_path / "out", "part-00000.parquet").deaths == {}
    assert workers() == []
