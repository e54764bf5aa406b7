"""The bundle: written whole or not at all, and never opened when something about it is wrong.

These tests need no engine: the contract does not read the graphs, it only guards them.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sightline.bundle import MANIFEST, SCHEMA, Block, Bundle, ImageInput, Manifest, Memory, load, write
from sightline.errors import BundleError, SightlineError, TargetError

MANIFEST_WRITTEN = Manifest(
    input=ImageInput("image", 3, 8, 9, mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0), colour="BGR", range=255.0),
    classes=3,
    activation="softmax",
    activation_found=True,
    blocks=(Block("stem", 0, 4, 4, 5), Block("head", 1, 8, 2, 3)),
    opset=20,
    memory=Memory(weights=16384, classifier=4000, attribution=9000),
    labels=("good", "crack", "7"),
    checks={"gradient": 1e-5},
    versions={"sightline": "0.1.0"},
)


def save_graphs(folder: Path) -> Manifest:
    (folder / "classifier.onnx").write_bytes(b"the classifier")
    (folder / "attribution.onnx").write_bytes(b"the attribution graph")
    (folder / "weights.bin").write_bytes(bytes(range(256)) * 64)
    return MANIFEST_WRITTEN


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return write(tmp_path / "steel.sightline", save_graphs)


def edit(bundle: Bundle, change: Callable[[dict[str, Any]], Any]) -> None:
    path = bundle.path / MANIFEST
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def test_what_was_written_is_read_back(bundle: Bundle) -> None:
    found = load(bundle.path)
    assert found.manifest == MANIFEST_WRITTEN
    assert found.hash == bundle.hash == hashlib.sha256((bundle.path / MANIFEST).read_bytes()).hexdigest()
    assert (found.classifier.read_bytes(), found.attribution.read_bytes()) == (
        b"the classifier",
        b"the attribution graph",
    )
    assert sorted(file.name for file in bundle.path.parent.iterdir()) == ["steel.sightline"]


def test_the_same_content_has_the_same_hash(bundle: Bundle, tmp_path: Path) -> None:
    assert write(tmp_path / "copy.sightline", save_graphs).hash == bundle.hash


@pytest.mark.parametrize("wrong", [1.5, {0, 1}, None, "1.5"])
def test_what_is_no_target(bundle: Bundle, wrong: Any) -> None:
    with pytest.raises(TargetError):
        bundle.target(wrong)


def test_targets_by_index_and_label(bundle: Bundle) -> None:
    assert [bundle.target(target) for target in (1, "1", "crack")] == [1, 1, 1]
    assert bundle.target("7") == 2, "a label goes before an index of the same digits"
    assert bundle.label(1) == "crack"
    for target in (3, -1, "rust", "12", ""):
        with pytest.raises(TargetError):
            bundle.target(target)


@pytest.mark.parametrize("name", ["classifier.onnx", "attribution.onnx", "weights.bin"])
def test_one_changed_byte_is_noticed(bundle: Bundle, name: str) -> None:
    content = bytearray((bundle.path / name).read_bytes())
    content[len(content) // 2] ^= 1
    (bundle.path / name).write_bytes(content)
    with pytest.raises(BundleError, match=rf"{name} was changed or damaged .*copy it again"):
        load(bundle.path)


@pytest.mark.parametrize("name", ["classifier.onnx", "attribution.onnx", "weights.bin"])
def test_a_truncated_file_is_noticed(bundle: Bundle, name: str) -> None:
    content = (bundle.path / name).read_bytes()
    (bundle.path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(BundleError, match=name):
        load(bundle.path)


@pytest.mark.parametrize("name", ["classifier.onnx", "attribution.onnx", "weights.bin"])
def test_a_missing_file_is_named(bundle: Bundle, name: str) -> None:
    (bundle.path / name).unlink()
    with pytest.raises(BundleError, match=f"lacks {name}"):
        load(bundle.path)


def test_a_newer_schema_asks_for_an_upgrade(bundle: Bundle) -> None:
    edit(bundle, lambda document: document.update(schema=SCHEMA + 1))
    with pytest.raises(BundleError, match=rf"schema {SCHEMA + 1}.*upgrade"):
        load(bundle.path)


def test_an_older_schema_asks_for_an_export(bundle: Bundle) -> None:
    def make_old(document: dict[str, Any]) -> None:
        document.update(schema=1)
        del document["memory"], document["variants"]

    edit(bundle, make_old)
    with pytest.raises(BundleError, match=r"schema 1 .*export the bundle again"):
        load(bundle.path)


@pytest.fixture
def with_fp16(tmp_path: Path) -> Bundle:
    def save(folder: Path) -> Manifest:
        manifest = save_graphs(folder)
        (folder / "classifier.fp16.onnx").write_bytes(b"the half classifier")
        return replace(manifest, variants={"fp16": {"error": 5e-4}})

    return write(tmp_path / "half.sightline", save)


def test_variants_are_listed_and_found(bundle: Bundle, with_fp16: Bundle) -> None:
    assert bundle.variants == ("fp32",)
    assert bundle.graph("fp32") == bundle.classifier
    found = load(with_fp16.path)
    assert found.variants == ("fp32", "fp16")
    assert found.graph("fp16").read_bytes() == b"the half classifier"
    assert found.manifest.variants == {"fp16": {"error": 5e-4}}


@pytest.mark.parametrize(
    ("variant", "way_out"),
    [
        ("int8", r"fp32, fp16, but not in int8.*sightline build .*--precision int8 --images"),
        ("torch", "export the network again from its torch module"),
        ("fp4", "no variant 'fp4' .*choose fp32, fp16, int8, torch"),
    ],
)
def test_a_missing_variant_says_how_to_add_it(with_fp16: Bundle, variant: str, way_out: str) -> None:
    with pytest.raises(BundleError, match=way_out):
        with_fp16.graph(variant)


def test_a_variant_is_guarded_like_the_rest(with_fp16: Bundle) -> None:
    with_fp16.graph("fp16").write_bytes(b"another")
    with pytest.raises(BundleError, match=r"classifier\.fp16\.onnx was changed"):
        load(with_fp16.path)


def test_a_variant_without_its_file(with_fp16: Bundle) -> None:
    edit(with_fp16, lambda document: document["files"].pop("classifier.fp16.onnx"))
    with pytest.raises(BundleError, match=r"does not list classifier\.fp16\.onnx"):
        load(with_fp16.path)


def test_an_unknown_variant(with_fp16: Bundle) -> None:
    edit(with_fp16, lambda document: document["variants"].update(fp4={}))
    with pytest.raises(BundleError, match="unknown variant fp4"):
        load(with_fp16.path)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe\x00", b"[]", b"null", b"{}", b'{"schema": "one"}', b'{"schema": null}'],
    ids=["empty", "cut", "not-utf8", "list", "null", "no-keys", "schema-text", "schema-null"],
)
def test_a_damaged_manifest(bundle: Bundle, content: bytes) -> None:
    (bundle.path / MANIFEST).write_bytes(content)
    with pytest.raises(BundleError, match="export the bundle again"):
        load(bundle.path)


@pytest.mark.parametrize(
    "key", ["schema", "input", "classes", "activation", "blocks", "opset", "memory", "labels", "variants", "files"]
)
def test_a_manifest_without_a_key(bundle: Bundle, key: str) -> None:
    edit(bundle, lambda document: document.pop(key))
    with pytest.raises(BundleError, match=f"schema .*{key}"):
        load(bundle.path)


@pytest.mark.parametrize(
    "change",
    [
        lambda document: document["input"].update(surprise=1),
        lambda document: document["input"].pop("height"),
        lambda document: document.update(blocks=[{"name": "stem"}]),
        lambda document: document.update(classes="many"),
        lambda document: document.update(files=["classifier.onnx"]),
        lambda document: document.update(memory={"weights": 1}),
        lambda document: document.update(variants=["fp16"]),
    ],
    ids=["unknown-fact", "no-height", "half-a-block", "classes-text", "files-list", "half-a-memory", "variants-list"],
)
def test_a_manifest_with_a_wrong_value(bundle: Bundle, change: Callable[[dict[str, Any]], Any]) -> None:
    edit(bundle, change)
    with pytest.raises(BundleError, match="does not follow the schema"):
        load(bundle.path)


@pytest.mark.parametrize("name", ["../classifier.onnx", "/etc/hostname", "sub/weights.bin"])
def test_a_path_outside_the_bundle_is_refused(bundle: Bundle, name: str) -> None:
    edit(bundle, lambda document: document["files"].update({name: "0" * 64}))
    with pytest.raises(BundleError, match="outside the bundle"):
        load(bundle.path)


@pytest.mark.parametrize("name", ["classifier.onnx", "attribution.onnx"])
def test_a_graph_that_is_not_listed(bundle: Bundle, name: str) -> None:
    edit(bundle, lambda document: document["files"].pop(name))
    with pytest.raises(BundleError, match=f"does not list {name}"):
        load(bundle.path)


@pytest.mark.parametrize("kind", ["nothing", "file", "folder"])
def test_what_is_no_bundle(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "place"
    if kind == "file":
        place.write_bytes(b"onnx")
    elif kind == "folder":
        place.mkdir()
    with pytest.raises(BundleError, match=r"is no bundle.*sightline export"):
        load(place)


def test_a_bundle_is_replaced_only_on_request(bundle: Bundle) -> None:
    with pytest.raises(BundleError, match=r"exists already.*--force"):
        write(bundle.path, save_graphs)

    def save_others(folder: Path) -> Manifest:
        manifest = save_graphs(folder)
        (folder / "classifier.onnx").write_bytes(b"another")
        return manifest

    assert write(bundle.path, save_others, overwrite=True).hash != bundle.hash
    assert sorted(file.name for file in bundle.path.parent.iterdir()) == ["steel.sightline"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_is_no_bundle_is_never_replaced(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "holiday-pictures"
    if kind == "file":
        place.write_bytes(b"precious")
    else:
        place.mkdir()
        (place / "beach.png").write_bytes(b"precious")
    with pytest.raises(BundleError, match="exists already: choose another name"):
        write(place, save_graphs, overwrite=True)
    assert (place if kind == "file" else place / "beach.png").read_bytes() == b"precious"


def full_disk(folder: Path) -> Manifest:
    (folder / "classifier.onnx").write_bytes(b"the first half")
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def crash(folder: Path) -> Manifest:
    save_graphs(folder)
    raise ZeroDivisionError


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"steel\.sightline could not be written: No space left on device"):
        write(tmp_path / "steel.sightline", full_disk)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("save", [full_disk, crash])
def test_a_failure_leaves_the_old_bundle_as_it_was(bundle: Bundle, save: Callable[[Path], Manifest]) -> None:
    with pytest.raises((SightlineError, ZeroDivisionError)):
        write(bundle.path, save, overwrite=True)
    assert load(bundle.path).hash == bundle.hash
    assert sorted(file.name for file in bundle.path.parent.iterdir()) == ["steel.sightline"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB, where the machine lets us have one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    command = [mount or "mount", "-t", "tmpfs", "-o", "size=64k", "sightline-test", str(disk)]
    if mount is None or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("mounting a tmpfs is not permitted here")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_disk_that_is_really_full(small_disk: Path) -> None:
    def save_too_much(folder: Path) -> Manifest:
        manifest = save_graphs(folder)
        (folder / "weights.bin").write_bytes(bytes(1 << 20))
        return manifest

    with pytest.raises(BundleError, match="could not be written: No space left on device"):
        write(small_disk / "steel.sightline", save_too_much)
    assert list(small_disk.iterdir()) == []


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(BundleError, match="could not be written"):
        write(tmp_path / "file" / "steel.sightline", save_graphs)


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="a file that cannot be read by anyone")
def test_a_file_that_cannot_be_read(bundle: Bundle) -> None:
    bundle.classifier.unlink()
    bundle.classifier.symlink_to("/proc/self/mem")
    with pytest.raises(BundleError, match=r"cannot be read .*check who may read it"):
        load(bundle.path)
