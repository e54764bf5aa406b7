"""Which files an ONNX graph is read from: itself, and the files beside it that hold its weights.

Read from the protobuf encoding, for a machine that explains has no ``onnx`` package.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from sightline.errors import EngineError

# The fields of onnx.proto on the way from a model to the names of its external files, by message.
_MESSAGES: Mapping[str, Mapping[int, str]] = {
    "model": {7: "graph", 25: "function"},
    "function": {7: "node"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def files(path: Path) -> list[Path]:
    """The ONNX file and, in the order of their names, the files of its external weights.

    Raises:
        EngineError: the file cannot be read, or is no ONNX file.
    """
    try:
        content = memoryview(path.read_bytes())
        names = sorted({bytes(name).decode() for name in _locations(content, "model")})
    except OSError as error:
        raise EngineError(
            f"TensorRT cannot open {path}: {error.strerror or error}. Export the bundle again."
        ) from error
    except (IndexError, ValueError) as error:
        raise EngineError(
            f"TensorRT cannot open {path}: it is no ONNX file, or a damaged one ({error}). Export the bundle again."
        ) from error
    return [path, *(path.parent / name for name in names)]


def _locations(data: memoryview, message: str) -> Iterator[memoryview]:
    if message == "entry":
        entry = dict(_fields(data))
        if bytes(entry.get(1, b"")) == b"location":
            yield entry[2]
        return
    for number, value in _fields(data):
        if part := _MESSAGES[message].get(number):
            yield from _locations(value, part)


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """The length-delimited fields of a message: number and content."""
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        kind = key & 7
        if kind == _VARINT:
            _, place = _varint(data, place)
        elif kind in (_FIXED32, _FIXED64):
            place += 4 if kind == _FIXED32 else 8
        elif kind == _BYTES:
            size, place = _varint(data, place)
            if place + size > len(data):
                raise ValueError("it ends too early")
            yield key >> 3, data[place : place + size]
            place += size
        else:
            raise ValueError(f"a field of type {kind} at byte {place}")


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place
