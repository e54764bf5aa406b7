"""Requests that are none: what a server is sent that must answer each with 4xx, and go on."""

from __future__ import annotations

import base64
import io
import json
import random
import struct
import zlib
from dataclasses import dataclass
from typing import Any

from PIL import Image

from sightline import demo

NAME = demo.BUNDLE.stem
EXPLAIN, PREDICT = f"/v1/models/{NAME}:explain", f"/v1/models/{NAME}:predict"
INFER, DECOMPOSE = f"/v2/models/{NAME}/infer", f"/v1/models/{NAME}:decompose"
JSON = {"Content-Type": "application/json"}


def asking(picture: bytes, **parameters: Any) -> bytes:
    """A request that is well formed but for what these are."""
    return json.dumps({"instances": [{"b64": text(picture)}], "parameters": parameters}).encode()


def text(data: bytes) -> str:
    """Base64."""
    return base64.b64encode(data).decode()


@dataclass(frozen=True)
class Case:
    kind: str
    body: bytes
    path: str = EXPLAIN
    method: str = "POST"
    headers: dict[str, str] | None = None


class Kinds:
    """Malformed requests of every kind, in equal shares."""

    def __init__(self, rng: random.Random, picture: bytes) -> None:
        self._rng, self._picture = rng, picture
        self._makers = (
            self._flipped,
            self._cut,
            self._bomb,
            self._noise,
            self._field,
            self._parameter,
            self._tensor,
            self._deep,
            self._broken_json,
            self._name,
            self._headers,
        )

    def next(self) -> Case:
        case = self._rng.choice(self._makers)()
        return Case(case.kind, case.body, case.path, case.method, {**JSON, **(case.headers or {})})

    def _flipped(self) -> Case:
        """A file of any format with some bytes changed. Now and then it still is a picture."""
        buffer = io.BytesIO()
        image = Image.open(io.BytesIO(self._picture)).resize((48, 48))
        image.save(buffer, self._rng.choice(("PNG", "JPEG", "BMP", "TIFF", "WEBP")))
        data = bytearray(buffer.getvalue())
        for _ in range(self._rng.randint(1, 20)):
            data[self._rng.randrange(len(data))] = self._rng.randrange(256)
        return Case("flipped", asking(bytes(data)), PREDICT)

    def _cut(self) -> Case:
        return Case("cut", asking(self._picture[: self._rng.randrange(len(self._picture))]))

    def _bomb(self) -> Case:
        """A small file that claims, or unpacks to, very much."""
        side = self._rng.choice((6000, 20_000, 65_000, 2**31 - 1))
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, self._rng.choice((1, side)), 8, 0, 0, 0, 0))
        inside = chunk(b"IDAT", zlib.compress(b"\0" * 1_000_000))
        if self._rng.random() < 0.2:
            header = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0))
            inside = chunk(b"zTXt", b"x\0\0" + zlib.compress(b"\0" * 20_000_000)) + inside
        return Case("bomb", asking(b"\x89PNG\r\n\x1a\n" + header + inside + chunk(b"IEND", b"")))

    def _noise(self) -> Case:
        return Case("noise", asking(self._rng.randbytes(self._rng.randint(0, 4000))))

    def _any(self, depth: int = 0) -> Any:
        plain: tuple[Any, ...] = (
            None,
            True,
            -1,
            2**63,
            1.5,
            1e308,
            "",
            "x",
            "../..",
            "\x00",
            "🔥" * 9,
            [],
            {},
            [[]],
            {"b64": 1},
            "A" * 9999,
        )
        if depth < 3 and self._rng.random() < 0.3:
            return [self._any(depth + 1) for _ in range(3)] if self._rng.random() < 0.5 else {"k": self._any(depth + 1)}
        return self._rng.choice(plain)

    def _field(self) -> Case:
        document: dict[str, Any] = {"instances": [{"b64": text(self._picture)}], "parameters": {}}
        place = self._rng.randrange(5)
        if place == 0:
            document["instances"] = self._any()
        elif place == 1:
            document["instances"][0]["b64"] = self._any()
        elif place == 2:
            document["instances"][0]["target"] = self._rng.choice(
                (True, 1.5, 99, -1, "nothing", [], {}, [None], [0, "x"])
            )
        elif place == 3:
            document[self._rng.choice(("x", "inputs", "signature_name"))] = self._any()
        else:
            document["parameters"] = self._rng.choice((1, "x", [1], None, True))
        return Case("field", json.dumps(document).encode(), self._rng.choice((EXPLAIN, PREDICT, DECOMPOSE)))

    def _parameter(self) -> Case:
        name = self._rng.choice(
            (
                "method",
                "settings",
                "max_passes",
                "deadline",
                "overlay",
                "saliency",
                "layers",
                "maps",
                "format",
                "x",
                "top_k",
            )
        )
        value = self._rng.choice(
            (0, -1, -1.5, "3", "lime", [1], {"mu": 2}, {"x": 1}, float("nan"), float("inf"), {"passes": 10**9})
        )
        path = self._rng.choice((EXPLAIN, DECOMPOSE))
        return Case("parameter", asking(self._picture, **{name: value}), path)

    def _tensor(self) -> Case:
        tensor: dict[str, Any] = {"name": "pixels", "datatype": "UINT8", "shape": [1, 2, 2, 1], "data": [1, 2, 3, 4]}
        key = self._rng.choice(tuple(tensor))
        tensor[key] = self._rng.choice(
            (
                self._any(),
                [1, 2, 2, 3],
                [-1],
                [2**31] * 4,
                [0.5] * 4,
                [300] * 4,
                ["a"] * 4,
                [[1, 2], [3]],
                "FP32",
                "tensor",
                "image",
            )
        )
        if tensor == {"name": "pixels", "datatype": "UINT8", "shape": [1, 2, 2, 1], "data": [1, 2, 3, 4]}:
            tensor["data"] = None
        return Case("tensor", json.dumps({"inputs": [tensor]}).encode(), INFER)

    def _deep(self) -> Case:
        count = self._rng.choice((1000, 100_000, 1_000_000))
        body = self._rng.choice(
            (
                b'{"instances": ' + b"[" * count,
                b'{"x":' * count,
                b'{"instances": [' + b"{}," * count + b"{}]}",
                b'{"instances": [{"b64": "' + b"A" * count * 4 + b'"}]}',
                b'{"instances": [{"target": 1' + b"0" * count + b"}]}",
                b" " * 17 * 2**20,
            )
        )
        return Case("deep or broad", body, self._rng.choice((EXPLAIN, INFER)))

    def _broken_json(self) -> Case:
        body = bytearray(asking(self._picture[:300]))
        for _ in range(self._rng.randint(1, 5)):
            body[self._rng.randrange(30)] = self._rng.randrange(256)
        return Case("broken JSON", bytes(body[: self._rng.randrange(len(body))]))

    def _name(self) -> Case:
        name = self._rng.choice(
            (
                "..",
                "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
                "../../etc/passwd",
                "surface%00",
                "%FF",
                "a" * 3000,
                "surface/..",
                "~root",
                "*",
            )
        )
        place = self._rng.choice(
            ("/v1/models/{}:explain", "/v2/models/{}/infer", "/v2/repository/models/{}/load", "/{}")
        )
        return Case(
            "name", asking(self._picture), place.format(name), self._rng.choice(("POST", "GET", "PUT", "DELETE"))
        )

    def _headers(self) -> Case:
        headers = self._rng.choice(
            (
                {"Content-Type": "text/plain"},
                {"Content-Type": "multipart/form-data"},
                {"Content-Encoding": "gzip"},
                {"Accept": "x" * 5000, "Content-Type": ""},
                {"X-Request-ID": "a b" * 50, "Content-Type": "x"},
            )
        )
        return Case("headers", asking(self._picture), headers=headers)


def chunk(kind: bytes, data: bytes) -> bytes:
    """Of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
