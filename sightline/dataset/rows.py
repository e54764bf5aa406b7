"""Rows of the results, and the Parquet file of a shard: what it holds, to the column (docs/datasets.md).

The bytes of a file follow from its rows and the version of pyarrow: no times, no paths of a machine, nothing random.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from sightline.dataset.listing import Key
from sightline.dataset.recipe import Maps
from sightline.errors import DatasetError, MissingPackageError
from sightline.runtime.explanation import Explanation

Row: TypeAlias = dict[str, Any]
_FACTS = b"sightline"
"""Key of the file's metadata under which the images and failures of a shard stand."""


@dataclass(frozen=True)
class Failure:
    """An image without a row."""

    path: str
    sha256: str
    reason: str


@dataclass(frozen=True)
class Contents:
    """Of which images a file tells."""

    images: list[Key]
    """In order, failures included."""
    failures: list[Failure]


def arrow() -> Any:
    """The package pyarrow, what reads and writes Parquet loaded.

    Raises:
        MissingPackageError: it is not installed.
    """
    try:
        import pyarrow.compute
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise MissingPackageError("pyarrow", purpose="a set of explanations", extra="dataset") from error
    return pyarrow


def schema() -> Any:
    """The columns."""
    pa = arrow()
    region = [(name, pa.int32()) for name in ("x0", "y0", "x1", "y1")]
    region += [(name, pa.float64()) for name in ("area", "mean", "peak", "mass")]
    return pa.schema(
        [
            ("path", pa.string()),
            ("sha256", pa.string()),
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("target", pa.int32()),
            ("label", pa.string()),
            ("score", pa.float64()),
            ("probabilities", pa.list_(pa.float32())),
            ("method", pa.string()),
            ("parameters", pa.string()),
            ("passes", pa.int32()),
            ("completeness", pa.float64()),
            ("engine", pa.string()),
            ("precision", pa.string()),
            ("bundle", pa.string()),
            ("regions", pa.list_(pa.struct(region))),
            ("map", pa.binary()),
            ("map_shape", pa.list_(pa.int32())),
            ("map_dtype", pa.string()),
        ]
    )


_REPEATED = ("label", "method", "parameters", "engine", "precision", "bundle", "map_dtype")
"""Columns that are kept as a dictionary: few values, again and again."""


def row(key: Key, explanation: Explanation, maps: Maps, probabilities: list[float] | None = None) -> Row:
    """One explanation as a row."""
    path, digest = key
    found: Row = {
        "path": path,
        "sha256": digest,
        "width": explanation.picture.width,
        "height": explanation.picture.height,
        "target": explanation.target,
        "label": explanation.label,
        "score": explanation.score,
        "probabilities": probabilities,
        "method": explanation.method,
        "parameters": json.dumps(dict(explanation.parameters), sort_keys=True),
        "passes": explanation.passes,
        "completeness": explanation.completeness,
        "engine": explanation.engine,
        "precision": explanation.precision,
        "bundle": explanation.bundle_hash,
        "regions": [
            dict(zip(("x0", "y0", "x1", "y1"), region.box, strict=True))
            | {"area": region.area, "mean": region.mean, "peak": region.peak, "mass": region.mass}
            for region in explanation.regions()
        ],
    }
    if maps != "none":
        found |= {
            "map": packed(explanation.saliency, maps),
            "map_shape": list(explanation.saliency.shape),
            "map_dtype": maps,
        }
    return found


def packed(saliency: npt.NDArray[np.float32], maps: Maps) -> bytes:
    """A map, H×W in [0, 1], row by row: a byte a pixel, 255 for 1; or two, half precision, the lower byte first."""
    return (np.rint(saliency * 255).astype(np.uint8) if maps == "uint8" else saliency.astype("<f2")).tobytes()


def unpacked(content: bytes, shape: Sequence[int], dtype: str) -> npt.NDArray[np.float32]:
    """What :func:`packed` made of a map: H×W float32 in [0, 1]."""
    kept = np.frombuffer(content, np.uint8 if dtype == "uint8" else "<f2").reshape(shape)
    saliency: npt.NDArray[np.float32] = kept.astype(np.float32)
    return saliency / np.float32(255) if dtype == "uint8" else saliency


def parquet(images: Sequence[Key], rows: Sequence[Row], failures: Sequence[Failure]) -> bytes:
    """The file of a shard.

    Args:
        images: all of the shard, in order.
        rows: of the images that could be explained, in the same order.
        failures: of the others.
    """
    pa = arrow()
    facts = {"schema": 1, "images": [list(key) for key in images], "failures": [asdict(one) for one in failures]}
    columns = schema().with_metadata({_FACTS: json.dumps(facts, separators=(",", ":")).encode()})
    buffer = io.BytesIO()
    pa.parquet.write_table(
        pa.Table.from_pylist(list(rows), columns),
        buffer,
        row_group_size=max(1, len(rows)),
        version="2.6",
        compression="zstd",
        use_dictionary=list(_REPEATED),
        write_statistics=["path", "target", "label", "score"],
    )
    return buffer.getvalue()


def contents(path: Path) -> Contents:
    """Of which images a file tells, without reading its rows.

    Raises:
        DatasetError: it cannot be read, or is not one of Sightline's.
    """
    pa = arrow()
    try:
        facts = json.loads(pa.parquet.read_schema(path).metadata[_FACTS])
        return Contents(
            [(str(name), str(digest)) for name, digest in facts["images"]],
            [Failure(**failure) for failure in facts["failures"]],
        )
    except (OSError, ValueError, KeyError, TypeError) as error:  # pyarrow's own errors are ValueErrors and OSErrors
        raise DatasetError(
            f"{path} is damaged or not a file of an explained set ({error}): its images will be explained again."
        ) from error


def rows_of(path: Path, keys: Iterable[Key]) -> dict[Key, list[Row]]:
    """The rows of some images, by image.

    Raises:
        DatasetError: the file cannot be read.
    """
    pa = arrow()
    wanted = set(keys)
    try:
        table = pa.parquet.read_table(path, use_threads=False)
        where = [pair in wanted for pair in zip(*(table[name].to_pylist() for name in ("path", "sha256")), strict=True)]
        found: dict[Key, list[Row]] = {}
        for one in table.filter(pa.array(where, pa.bool_())).to_pylist():
            found.setdefault((one["path"], one["sha256"]), []).append(one)
        return found
    except (OSError, ValueError, KeyError) as error:
        raise DatasetError(f"{path} cannot be read ({error}): its images are explained again.") from error


def failed_in(found: Contents, keys: Iterable[Key]) -> dict[Key, str]:
    """Why some of these images have no row."""
    wanted = set(keys)
    return {key: one.reason for one in found.failures if (key := (one.path, one.sha256)) in wanted}
