"""Does a set of explanations come out the same, byte for byte, whatever befalls its workers; and how much do two help?

Drawn pictures of metal surfaces, some of them damaged, are explained by the packaged network

1. by two workers that nobody disturbs (``plain``),
2. by three workers, one of which is killed by SIGKILL again and again at random moments, and the whole run once, too,
   after which the same command is given again (``killed``),
3. by two actors of Ray on this machine, killed now and then as well (``ray``),

and the files are compared. Then (``scaling``) a part of them is explained by one worker and by two, of one thread each,
in turns; the efficiency is the time of one over twice that of two, start included.

    python benchmarks/dataset.py --keep FOLDER --parts plain,killed,ray
    python benchmarks/dataset.py --keep FOLDER --parts scaling      # on a quiet machine

The parts may be run one by one: the pictures, the results and the figures stay in the folder.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import record
from PIL import Image

from sightline import demo

FIRST_SEED = 8_000_000
"""Away from the seeds of training, test, demo and other benchmarks."""
PARTS = ("plain", "killed", "ray", "scaling")
COMPARED = ("*.parquet", "run.json", "failures.json", "summary.html")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=Path, required=True, help="folder of pictures, results and figures")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--images", type=int, default=2000, help="pictures (2000)")
    parser.add_argument("--corrupt", type=int, default=20, help="of them damaged (20)")
    parser.add_argument("--max-passes", type=int, default=16, help="masked passes of SISE for each (16)")
    parser.add_argument("--engine", default="onnxruntime-cpu")
    parser.add_argument("--kills", type=int, default=12, help="of workers (12)")
    parser.add_argument("--ray-kills", type=int, default=3, help="of actors (3)")
    parser.add_argument("--scaling-images", type=int, default=400, help="(400)")
    parser.add_argument("--rounds", type=int, default=2, help="of the scaling (2)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/dataset.json")
    arguments = parser.parse_args()
    arguments.keep.mkdir(parents=True, exist_ok=True)
    draw(arguments)
    kept = arguments.keep / "figures.json"
    figures: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    parts: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
        "plain": plain,
        "killed": killed,
        "ray": on_ray,
        "scaling": scaling,
    }
    for part in arguments.parts.split(","):
        found = parts[part](arguments)
        print(part, json.dumps(found, indent=2), flush=True)
        figures |= found
        kept.write_text(json.dumps(figures), encoding="utf-8")
    names = ("images", "corrupt", "max_passes", "engine", "kills", "ray_kills", "scaling_images", "rounds", "seed")
    record.write("dataset", {name: getattr(arguments, name) for name in names}, figures, arguments.output)


def draw(arguments: argparse.Namespace) -> None:
    """The pictures, unless they are there."""
    folder = arguments.keep / "pictures"
    if folder.is_dir():
        return
    sys.path.append(str(Path(__file__).resolve().parents[1] / "examples" / "surface"))
    from render import LABELS, render

    chance = random.Random(arguments.seed)
    damaged = set(chance.sample(range(arguments.images), arguments.corrupt))
    unfinished = arguments.keep / "pictures.unfinished"
    for number in range(arguments.images):
        label = LABELS[number % len(LABELS)]
        path = unfinished / f"day-{number % 7}" / f"{number:05d}-{label}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(render(label, FIRST_SEED + number).image).save(path, quality=92)
        if number in damaged:
            content = path.read_bytes()
            torn = content[: chance.randrange(3, len(content) // 2)]
            path.write_bytes(chance.choice((b"", b"no picture", chance.randbytes(len(content)), torn)))
    unfinished.rename(folder)


def words(arguments: argparse.Namespace, out: Path, *options: str) -> list[str]:
    return [
        *(sys.executable, "-m", "sightline.cli", "explain-set", str(demo.BUNDLE), str(arguments.keep / "pictures")),
        *("-o", str(out), "--max-passes", str(arguments.max_passes), "--engine", arguments.engine, *options),
    ]


def plain(arguments: argparse.Namespace) -> dict[str, Any]:
    out = emptied(arguments, "plain")
    began = time.perf_counter()
    expect(subprocess.run(words(arguments, out, "--workers", "2"), stderr=subprocess.DEVNULL).returncode, 1)
    seconds = time.perf_counter() - began
    failed = len(json.loads((out / "failures.json").read_text(encoding="utf-8"))["failures"])
    began = time.perf_counter()
    expect(subprocess.run(words(arguments, out, "--workers", "2"), stderr=subprocess.DEVNULL).returncode, 1)
    size = sum(path.stat().st_size for path in out.glob("*.parquet"))
    return {
        "undisturbed, 2 workers: seconds": seconds,
        "undisturbed: images that failed": failed,
        "undisturbed: a second run that finds nothing to do, seconds": time.perf_counter() - began,
        "bytes of Parquet for each image": size / (arguments.images - failed),
    }


def killed(arguments: argparse.Namespace) -> dict[str, Any]:
    """Workers die at random moments; half-way through the kills, so does the whole run."""
    out = emptied(arguments, "killed")
    chance = random.Random(arguments.seed)
    dead, runs = 0, 0
    began = time.perf_counter()
    code: int | None = None
    while code is None or code < 0:
        runs += 1
        with subprocess.Popen(words(arguments, out, "--workers", "3"), stderr=subprocess.DEVNULL) as run:
            while (code := waited(run, chance.uniform(2, 8))) is None:
                if dead >= arguments.kills:
                    continue
                if dead == arguments.kills // 2 and runs == 1:
                    run.kill()
                    continue
                if workers := named(psutil.Process(run.pid).children(), "spawn_main"):
                    chance.choice(workers).kill()
                    dead += 1
    expect(code, 1)
    return {
        "killed, 3 workers: kills of workers": dead,
        "killed: runs, all but the last one killed": runs,
        "killed: seconds": time.perf_counter() - began,
        "killed: files that differ from the undisturbed run": differing(arguments, "killed"),
    }


def on_ray(arguments: argparse.Namespace) -> dict[str, Any]:
    out = emptied(arguments, "ray")
    chance = random.Random(arguments.seed)
    dead = 0
    began = time.perf_counter()
    with subprocess.Popen(
        words(arguments, out, "--workers", "2", "--ray", "local", "--threads", "1"), stderr=subprocess.DEVNULL
    ) as run:
        while (code := waited(run, chance.uniform(10, 20))) is None:
            # An actor names itself ray::MapWorker… while it works.
            actors = named(psutil.Process(run.pid).children(recursive=True), "MapWorker")
            if actors and dead < arguments.ray_kills:
                chance.choice(actors).kill()
                dead += 1
    expect(code, 1)
    return {
        "Ray, 2 actors: kills of actors": dead,
        "Ray: seconds": time.perf_counter() - began,
        "Ray: files that differ from the undisturbed run": differing(arguments, "ray"),
    }


def scaling(arguments: argparse.Namespace) -> dict[str, Any]:
    seconds: dict[str, list[float]] = {"1": [], "2": []}
    for _ in range(arguments.rounds):
        for workers, times in seconds.items():
            out = emptied(arguments, "scaling")
            limits = ("--limit", str(arguments.scaling_images), "--threads", "1", "--workers", workers)
            began = time.perf_counter()
            subprocess.run(words(arguments, out, *limits), stderr=subprocess.DEVNULL)
            times.append(time.perf_counter() - began)
    efficiencies = [one / (2 * two) for one, two in zip(*seconds.values(), strict=True)]
    return {
        "scaling, 1 worker of 1 thread": record.spread(seconds["1"], "s"),
        "scaling, 2 workers of 1 thread": record.spread(seconds["2"], "s"),
        "scaling: efficiency of 2 workers": record.spread(efficiencies, "of 1"),
    }


def named(processes: Sequence[psutil.Process], word: str) -> list[psutil.Process]:
    """Those in whose command line the word stands; one may be gone by now."""
    found = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            if word in " ".join(process.cmdline()):
                found.append(process)
    return found


def waited(run: subprocess.Popen[bytes], seconds: float) -> int | None:
    try:
        return run.wait(seconds)
    except subprocess.TimeoutExpired:
        return None


def differing(arguments: argparse.Namespace, name: str) -> int:
    one, two = (digests(arguments.keep / folder) for folder in ("plain", name))
    return sum(one.get(file) != two.get(file) for file in {*one, *two})


def digests(out: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for pattern in COMPARED for path in out.glob(pattern)
    }


def emptied(arguments: argparse.Namespace, name: str) -> Path:
    out: Path = arguments.keep / name
    shutil.rmtree(out, ignore_errors=True)
    return out


def expect(code: int, wanted: int) -> None:
    """Damaged images make the exit code 1; another one is no result."""
    if code != wanted:
        raise SystemExit(f"explain-set ended with exit code {code} instead of {wanted}")


if __name__ == "__main__":
    main()
