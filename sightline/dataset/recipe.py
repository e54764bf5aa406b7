"""How every image of a set is explained: what a row depends on besides its image."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import sightline
from sightline.bindings import available, choose
from sightline.bindings.engine import Device, Precision
from sightline.bundle import Bundle
from sightline.dataset import files
from sightline.errors import DatasetError
from sightline.runtime.method import Method

RUN = "run.json"
"""The file of the output folder that says how its rows were made."""
SCHEMA = 1
BATCH: Mapping[Device, int] = {"cpu": 16, "cuda": 64}
"""Masked images per pass where the user names no number. Not measured: rows must not depend on a measurement."""

Maps = Literal["uint8", "float16", "none"]
"""How maps are kept: in steps of 1/255, in half precision, or not at all."""


@dataclass(frozen=True)
class Recipe:
    """Everything that a row depends on besides its image, and how many threads a worker computes it with."""

    bundle: Path
    bundle_hash: str
    method: Method
    targets: tuple[int | None, ...]
    """Classes to explain, one row each; None for the predicted one."""
    max_passes: int | None
    engine: str
    precision: Precision
    batch_size: int
    maps: Maps
    probabilities: bool
    """Whether rows hold those of all classes: one more batch of passes for each image."""
    threads: int

    def settings(self) -> dict[str, Any]:
        """What decides about the rows, in types that JSON knows."""
        return {
            "bundle": self.bundle_hash,
            "method": self.method.name,
            "parameters": asdict(self.method),
            "targets": list(self.targets),
            "max_passes": self.max_passes,
            "engine": self.engine,
            "precision": self.precision,
            "batch_size": self.batch_size,
            "maps": self.maps,
            "probabilities": self.probabilities,
        }

    def versions(self) -> dict[str, str | None]:
        """Of what computes and writes the rows."""
        (engine,) = (entry.version for entry in available() if entry.name == self.engine)
        packages = ("numpy", "pillow", "pyarrow")
        return {"sightline": sightline.__version__, self.engine: engine} | {
            name: metadata.version(name) for name in packages
        }


def engine_for(bundle: Bundle, engine: str, precision: Precision) -> tuple[str, Device]:
    """The name of the engine, once ``auto`` is decided, and where it runs.

    Raises:
        EngineError, MissingPackageError, PrecisionError: as :func:`sightline.bindings.choose`.
    """
    name = choose(engine, variants=bundle.variants, precision=precision)
    return name, next(entry.device for entry in available() if entry.name == name)


def batch_size_for(device: Device, max_passes: int | None) -> int:
    """Masked images per pass: the usual number, or less where a budget then fills every batch to the last place."""
    usual = BATCH[device]
    if max_passes is None:
        return usual
    batches = -(-max_passes // usual)
    return -(-max_passes // batches)


def keep(out: Path, recipe: Recipe, shard_size: int) -> None:
    """Write down how the rows of a folder are made, or make sure that this is how they were made before.

    Raises:
        DatasetError: they were made otherwise.
        SaveError: the folder cannot be written.
    """
    facts = {
        "schema": SCHEMA,
        "settings": {**recipe.settings(), "shard_size": shard_size},
        "versions": recipe.versions(),
    }
    path = out / RUN
    if not path.exists():
        files.write(path, (json.dumps(facts, indent=2, sort_keys=True) + "\n").encode())
        return
    before = read(out)
    differing = [
        f"{name} was {json.dumps(before[part].get(name))} and is {json.dumps(facts[part].get(name))}"  # type: ignore[attr-defined]
        for part in ("settings", "versions")
        for name in sorted({*before[part], *facts[part]})  # type: ignore[misc]
        if before[part].get(name) != facts[part].get(name)  # type: ignore[attr-defined]
    ]
    if differing:
        raise DatasetError(
            f"{out} was begun with other settings: {'; '.join(differing)}. Use the same ones, name another folder, or "
            "begin anew with --restart (restart=True), which removes what is there."
        )


def read(out: Path) -> dict[str, Any]:
    """How the rows of a folder were made: ``settings`` and ``versions``.

    Raises:
        DatasetError: the folder holds no explained set, or one of a later Sightline.
    """
    path = out / RUN
    try:
        found = json.loads(path.read_bytes())
        schema = found["schema"]
        readable = isinstance(found["settings"], dict) and isinstance(found["versions"], dict)
    except FileNotFoundError as error:
        raise DatasetError(
            f"{out} holds no explained set, for there is no {RUN} in it: name the folder given to 'explain-set -o'."
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(
            f"{path} cannot be read ({error!r}): restore it, or begin anew with --restart (restart=True)."
        ) from error
    if schema != SCHEMA or not readable:
        raise DatasetError(f"{path} has schema {schema!r}; this Sightline reads {SCHEMA}: upgrade it.")
    return dict(found)
