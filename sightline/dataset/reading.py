"""A set of explanations read back: rows with their maps, or a table."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sightline.dataset import recipe, rows
from sightline.dataset.rows import Failure
from sightline.errors import DatasetError
from sightline.runtime.regions import Region


@dataclass(frozen=True, eq=False)
class Explained:
    """One row: why a network gave a class its score on an image."""

    path: str
    """Of the image, relative to the folder of the set."""
    sha256: str
    """Of the image's file."""
    size: tuple[int, int]
    """Width and height of the upright image, in pixels."""
    target: int
    label: str
    score: float
    probabilities: list[float] | None
    """Of all classes; None where they were not kept."""
    method: str
    parameters: Mapping[str, Any]
    passes: int
    completeness: float
    engine: str
    precision: str
    bundle_hash: str
    regions: list[Region]
    saliency: npt.NDArray[np.float32] | None = field(repr=False)
    """H×W at the network's size, in [0, 1], as exact as it was kept; None where maps were not."""


class ExplainedSet:
    """The results in a folder, read shard by shard: memory does not grow with their number."""

    def __init__(self, out: Path) -> None:
        """Look at a folder.

        Raises:
            DatasetError: it holds no explained set.
        """
        self.path = out
        facts = recipe.read(out)
        self.settings: Mapping[str, Any] = facts["settings"]
        """How the rows were made."""
        self.versions: Mapping[str, str] = facts["versions"]
        """Of what made them."""
        self.files: Sequence[Path] = sorted(out.glob("part-*.parquet"))
        """The shards, in order."""

    @property
    def complete(self) -> bool:
        """Whether the run that makes the set is over."""
        return (self.path / "failures.json").exists()

    @property
    def failures(self) -> list[Failure]:
        """The images without a row, in order."""
        return [failure for path in self.files for failure in rows.contents(path).failures]

    def __len__(self) -> int:
        """How many rows there are."""
        return sum(rows.arrow().parquet.read_metadata(path).num_rows for path in self.files)

    def __iter__(self) -> Iterator[Explained]:
        """The rows, in the order of their images' paths."""
        for path in self.files:
            for row in _table(path).to_pylist():
                yield _explained(row)

    def table(self, columns: Sequence[str] | None = None) -> Any:
        """A ``pyarrow.Table`` of some columns; by default of all but the maps, which are most of the bytes.

        Raises:
            DatasetError: there is no such column, or a file cannot be read.
        """
        pa = rows.arrow()
        names = rows.schema().names
        if unknown := [name for name in columns or () if name not in names]:
            raise DatasetError(f"there is no column {unknown[0]!r}: choose of {', '.join(names)}.")
        wanted = [name for name in names if name != "map"] if columns is None else list(columns)
        tables = [_table(path, wanted) for path in self.files]
        if not tables:
            return pa.schema([rows.schema().field(name) for name in wanted]).empty_table()
        return pa.concat_tables(table.replace_schema_metadata() for table in tables)


def read(out: str | Path) -> ExplainedSet:
    """The results in a folder that ``sightline explain-set`` or :func:`~sightline.dataset.explain_set` wrote.

    Raises:
        DatasetError: it holds none.
        MissingPackageError: pyarrow is not installed.
    """
    rows.arrow()
    return ExplainedSet(Path(out))


def _table(path: Path, columns: Sequence[str] | None = None) -> Any:
    pa = rows.arrow()
    try:
        return pa.parquet.read_table(path, columns=columns)
    except (OSError, ValueError, KeyError) as error:
        raise DatasetError(f"{path} cannot be read ({error}): run the same command again to make it anew.") from error


def _explained(row: rows.Row) -> Explained:
    saliency = None if row["map"] is None else rows.unpacked(row["map"], row["map_shape"], row["map_dtype"])
    return Explained(
        path=row["path"],
        sha256=row["sha256"],
        size=(row["width"], row["height"]),
        target=row["target"],
        label=row["label"],
        score=row["score"],
        probabilities=row["probabilities"],
        method=row["method"],
        parameters=json.loads(row["parameters"]),
        passes=row["passes"],
        completeness=row["completeness"],
        engine=row["engine"],
        precision=row["precision"],
        bundle_hash=row["bundle"],
        regions=[
            Region((one["x0"], one["y0"], one["x1"], one["y1"]), one["area"], one["mean"], one["peak"], one["mass"])
            for one in row["regions"]
        ],
        saliency=saliency,
    )
