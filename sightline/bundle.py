"""The bundle: the one contract between the exporter and the runtime.

A bundle is a folder::

    classifier.onnx    image (N×C×H×W) -> logits (N×K), probabilities (N×K); N is dynamic
    attribution.onnx   image (1×C×H×W), target, seed, [rivals] -> logits, probabilities and, of every block i,
                       features.i (1×C×h×w), gradient.i (1×C×h×w), alpha.i (1×C); every shape is static
    weights.bin        the weights of both graphs, stored once
    manifest.json      what is written below

and, where they were asked for, the classifier in other precisions and forms, its inputs and outputs named alike::

    classifier.fp16.onnx   float16 throughout: a float16 image, float32 logits and probabilities
    classifier.int8.onnx   8-bit integers between QuantizeLinear and DequantizeLinear: a float32 image
    classifier.pt2         a program of torch

and, for hierarchies, one stage for every block::

    stage.i.onnx       features.i (1×C×h×w), seed (N×C'×h'×w', of the next block, or N×K, of the logits; N is dynamic)
                       -> gradient, evidence (both N×C×h×w), support (N×C), position (N×C)

``target`` is an int64 tensor of shape (1,): the class to explain, -1 for the predicted one, or -2 for any other
function of the logits, whose gradient ``seed`` (1×K, otherwise unused) then is. ``rivals`` exists for softmax
networks only, a float32 tensor of shape (1,): the gradient is that of z_c − rivals·log Σ_{j≠c} exp(z_j), so 1 seeds
the log-odds of p_c (what SISE needs; ∂p_c/∂z up to the positive factor p_c(1−p_c)) and 0 the bare logit (what the
Grad-CAMs need). A network whose image is stored channels last has N×H×W×C for its image and says so in
``input.layout``; features and gradients are always channels first.

The ``seed`` of a stage picks N decisions, units of the next block or classes: ``gradient`` is that of Σ seed·(next
block), ``evidence`` is ReLU(gradient ⊙ features), ``support`` its sum over each map and ``position`` the place (row·w +
column) of its largest entry, int64. A stage also takes the image where there is a way around its block.

This module reads and checks a bundle with the standard library alone: a machine that explains needs neither
onnx nor torch.
"""

from __future__ import annotations

import hashlib
import json
import math
import operator
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from sightline.errors import BundleError, TargetError

SCHEMA = 3
MANIFEST = "manifest.json"
CLASSIFIER = "classifier.onnx"
ATTRIBUTION = "attribution.onnx"
WEIGHTS = "weights.bin"
VARIANTS: Mapping[str, str] = {
    "fp32": CLASSIFIER,
    "fp16": "classifier.fp16.onnx",
    "int8": "classifier.int8.onnx",
    "torch": "classifier.pt2",
}
"""The forms of the classifier that a bundle may hold, and their files. ``fp32`` is always there."""

TARGET = "target"
SEED = "seed"
RIVALS = "rivals"
PREDICTED, SEEDED = -1, -2
"""Values of ``target`` that name no class."""
LOGITS = "logits"
PROBABILITIES = "probabilities"
GRADIENT, EVIDENCE, SUPPORT, POSITION = "gradient", "evidence", "support", "position"
"""Outputs of a stage."""

Activation = Literal["softmax", "sigmoid", "none"]
Layout = Literal["NCHW", "NHWC"]
Colour = Literal["RGB", "BGR", "GRAY", "NONE"]
"""``NONE``: the channels are no colours (infrared, depth); such a network is given arrays, not image files."""


@dataclass(frozen=True)
class ImageInput:
    """What the network expects of an image.

    A pixel v in [0, 255] becomes (v / 255 · ``range`` − mean) / std, per channel in the order of ``colour``.
    """

    name: str
    channels: int
    height: int
    width: int
    layout: Layout = "NCHW"
    colour: Colour = "RGB"
    range: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W), whatever the layout."""
        return self.channels, self.height, self.width


@dataclass(frozen=True)
class Block:
    """The output of one convolutional block: ``channels`` feature maps of ``height``×``width``."""

    name: str
    index: int
    channels: int
    height: int
    width: int

    @property
    def features(self) -> str:
        """Name of the feature maps among the outputs of ``attribution.onnx``."""
        return f"features.{self.index}"

    @property
    def gradient(self) -> str:
        """Name of the gradient with respect to the feature maps."""
        return f"gradient.{self.index}"

    @property
    def alpha(self) -> str:
        """Name of the spatial means of the gradient."""
        return f"alpha.{self.index}"


@dataclass(frozen=True)
class Span:
    """What the units of a block see along one axis of the image: unit i the pixels from ``offset`` + i·``stride`` on,
    ``size`` of them, as far as they lie in the image."""

    offset: float
    stride: float
    size: float

    def pixels(self, index: int, length: int) -> tuple[int, int]:
        """The first pixel that a unit sees of ``length`` ones, and the one after the last."""
        first = self.offset + index * self.stride
        begin, end = math.ceil(first), math.floor(first + self.size - 1) + 1
        return min(max(begin, 0), length - 1), max(min(end, length), 1)


@dataclass(frozen=True)
class Stage:
    """One step of a hierarchy: from decisions at the next block, or at the logits, down to a block's units."""

    index: int
    """Of the block that is walked down to."""
    memory: int
    """Bytes that the stage's tensors hold at once for one decision, in float32, before an engine fuses anything."""
    rows: Span | None
    """What a unit of the block sees of the image's rows; None: it may see all of them."""
    columns: Span | None

    @property
    def file(self) -> str:
        """Beside the other graphs, not in a folder: engines read external weights from the graph's own folder only."""
        return f"stage.{self.index}.onnx"


@dataclass(frozen=True)
class Memory:
    """What the graphs need, in bytes, in float32 and before an engine fuses anything.

    A batch of N images through the classifier holds about ``weights`` + N·``classifier`` bytes.
    """

    weights: int
    """The weights of both graphs, shared ones once."""
    classifier: int
    """The most that the tensors of the classifier, its input and outputs included, hold at once for one image."""
    attribution: int
    """The same of the attribution graph, which takes one image."""


@dataclass(frozen=True)
class Manifest:
    """What stands in ``manifest.json``, except the hashes of the files."""

    input: ImageInput
    classes: int
    activation: Activation
    activation_found: bool
    blocks: tuple[Block, ...]
    opset: int
    memory: Memory
    labels: tuple[str, ...] | None = None
    checks: Mapping[str, float] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """How the variants that were added were made, and how far they are from float32."""
    stages: tuple[Stage, ...] = ()
    """One for every block, shallow to deep; none where they were not made."""


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk whose schema and hashes have been checked. Made by :func:`load`."""

    path: Path
    manifest: Manifest
    hash: str
    """SHA-256 of the manifest, which holds the hash of every other file."""

    @property
    def input(self) -> ImageInput:
        return self.manifest.input

    @property
    def blocks(self) -> tuple[Block, ...]:
        return self.manifest.blocks

    @property
    def labels(self) -> tuple[str, ...] | None:
        return self.manifest.labels

    @property
    def classes(self) -> int:
        return self.manifest.classes

    @property
    def classifier(self) -> Path:
        return self.path / CLASSIFIER

    @property
    def attribution(self) -> Path:
        return self.path / ATTRIBUTION

    @property
    def variants(self) -> tuple[str, ...]:
        """The forms of the classifier that this bundle holds, ``fp32`` first."""
        return ("fp32", *(name for name in VARIANTS if name in self.manifest.variants))

    def graph(self, variant: str) -> Path:
        """The file of the classifier in one of its :attr:`variants`.

        Raises:
            BundleError: there is no such variant, or this bundle lacks it.
        """
        if variant not in VARIANTS:
            raise BundleError(f"there is no variant {variant!r} of a classifier: choose {', '.join(VARIANTS)}.")
        if variant not in self.variants:
            way_out = f"add it with 'sightline build {self.path} --precision {variant} --images IMAGES'"
            if variant == "torch":
                way_out = "export the network again from its torch module, with torch_program=True (--torch-program)"
            raise BundleError(
                f"{self.path} holds the classifier in {', '.join(self.variants)}, but not in {variant}: {way_out}."
            )
        return self.path / VARIANTS[variant]

    @property
    def stages(self) -> tuple[Stage, ...]:
        """One for every block, shallow to deep.

        Raises:
            BundleError: this bundle has none.
        """
        if not self.manifest.stages:
            raise BundleError(
                f"{self.path} holds no stages, which a hierarchy is made of: add them with "
                f"'sightline export {self.path} --stages', or sightline.add_stages(…)."
            )
        return self.manifest.stages

    def label(self, target: int) -> str:
        """The name of a class, or its number where the bundle has no labels."""
        return self.labels[target] if self.labels else str(target)

    def target(self, target: int | str) -> int:
        """The index of a class given by index or label.

        Raises:
            TargetError: the class does not exist.
        """
        if isinstance(target, str):
            if self.labels and target in self.labels:
                return self.labels.index(target)
            if target.isdecimal():
                return self.target(int(target))
            known = ", ".join(self.labels) if self.labels else "none: this bundle was exported without labels"
            raise TargetError(f"there is no class labelled {target!r}. Labels: {known}.")
        try:
            number = operator.index(target)
        except TypeError:
            raise TargetError(
                f"{target!r} is no class: give its index, a whole number, or its label; a list for several."
            ) from None
        if not 0 <= number < self.classes:
            raise TargetError(f"class {number} does not exist: this network has classes 0 to {self.classes - 1}.")
        return number


def load(path: str | Path) -> Bundle:
    """Open a bundle and check it: schema, completeness, and the SHA-256 of every file.

    Raises:
        BundleError: no bundle there, a file missing or changed, or a schema newer than this Sightline.
    """
    folder = Path(path)
    try:
        return _load(folder)
    except OSError as error:
        raise BundleError(f"{folder} cannot be read ({error}): check who may read it.") from error


def _load(folder: Path) -> Bundle:
    manifest_path = folder / MANIFEST
    if not manifest_path.is_file():
        raise BundleError(f"{folder} is no bundle: it has no {MANIFEST}. Make one with 'sightline export'.")
    content = manifest_path.read_bytes()
    try:
        document = json.loads(content)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise BundleError(f"{manifest_path} is damaged ({error}): export the bundle again.") from error
    manifest, hashes = _parse(document, manifest_path)
    for name, expected in hashes.items():
        file = folder / name
        if not file.is_file():
            raise BundleError(f"{folder} lacks {name}: copy the whole folder, or export the bundle again.")
        if (found := _sha256(file)) != expected:
            raise BundleError(
                f"{file} was changed or damaged after the export (SHA-256 {found[:12]}…, expected {expected[:12]}…): "
                "copy it again, or export the bundle again."
            )
    return Bundle(folder, manifest, hashlib.sha256(content).hexdigest())


def write(path: str | Path, save: Callable[[Path], Manifest], *, overwrite: bool = False) -> Bundle:
    """Write a bundle whole or not at all: into a temporary folder beside it, which is then renamed.

    Args:
        path: the folder to make.
        save: called with the temporary folder; writes the graphs and the weights into it and returns the manifest.
        overwrite: replace a bundle that stands there. Anything that is no bundle is never replaced.

    Raises:
        BundleError: the place is taken, or could not be written (a full disk, no permission).
    """
    target = Path(path)
    if target.exists() and not (overwrite and (target / MANIFEST).is_file()):
        way_out = (
            "pass overwrite=True (--force) to replace it" if (target / MANIFEST).is_file() else "choose another name"
        )
        raise BundleError(f"{target} exists already: {way_out}.")
    temporary: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        manifest = save(temporary)
        files = sorted(file.name for file in temporary.iterdir())
        document = {"schema": SCHEMA, **asdict(manifest), "files": {name: _sha256(temporary / name) for name in files}}
        (temporary / MANIFEST).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        temporary.chmod(0o755)
        _put(temporary, target)
    except OSError as error:
        raise BundleError(
            f"{target} could not be written: {error.strerror or error}. Nothing was left behind."
        ) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
    return load(target)


def _put(temporary: Path, target: Path) -> None:
    """Rename a folder to its final name; one that stands there goes, or comes back if that fails."""
    if not target.exists():
        temporary.rename(target)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
    old = aside / target.name
    try:
        target.rename(old)
        temporary.rename(target)
    except OSError:
        if old.exists():
            old.rename(target)
        aside.rmdir()
        raise
    shutil.rmtree(aside)


def _parse(document: Any, path: Path) -> tuple[Manifest, dict[str, str]]:
    try:
        schema = document["schema"]
        if schema > SCHEMA:
            raise BundleError(
                f"{path} has schema {schema}; this Sightline reads {SCHEMA}: upgrade it (pip install -U sightline)."
            )
        if schema < SCHEMA:
            raise BundleError(
                f"{path} has schema {schema} of an earlier Sightline; this one reads {SCHEMA}: "
                "export the bundle again (sightline export … --force)."
            )
        image = document["input"]
        labels = document["labels"]
        manifest = Manifest(
            input=ImageInput(**{**image, "mean": tuple(image["mean"]), "std": tuple(image["std"])}),
            classes=int(document["classes"]),
            activation=document["activation"],
            activation_found=bool(document["activation_found"]),
            blocks=tuple(Block(**block) for block in document["blocks"]),
            opset=int(document["opset"]),
            memory=Memory(**{name: int(value) for name, value in document["memory"].items()}),
            labels=None if labels is None else tuple(labels),
            checks=document["checks"],
            versions=document["versions"],
            variants={str(name): dict(facts) for name, facts in document["variants"].items()},
            stages=tuple(_stage(stage) for stage in document.get("stages", ())),
        )
        hashes = {name: str(value) for name, value in document["files"].items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BundleError(f"{path} does not follow the schema ({error!r}): export the bundle again.") from error
    if unknown := _missing(list(manifest.variants), VARIANTS):
        raise BundleError(f"{path} holds the unknown variant {', '.join(unknown)}: export the bundle again.")
    needed = [CLASSIFIER, ATTRIBUTION, *(VARIANTS[name] for name in manifest.variants)]
    needed += [stage.file for stage in manifest.stages]
    if manifest.stages and [stage.index for stage in manifest.stages] != [block.index for block in manifest.blocks]:
        raise BundleError(f"{path} does not hold one stage for every block: export the bundle again.")
    if missing := _missing(needed, hashes):
        raise BundleError(f"{path} does not list {', '.join(missing)}: export the bundle again.")
    if any(Path(name).name != name for name in hashes):
        raise BundleError(f"{path} lists a file outside the bundle: do not trust it.")
    return manifest, hashes


def _stage(entry: Mapping[str, Any]) -> Stage:
    rows, columns = (None if span is None else Span(**span) for span in (entry["rows"], entry["columns"]))
    return Stage(int(entry["index"]), int(entry["memory"]), rows, columns)


def _missing(names: Sequence[str], among: Mapping[str, str]) -> list[str]:
    return [name for name in names if name not in among]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
