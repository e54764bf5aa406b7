"""A bundle or a network in words and columns."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from sightline.bundle import Bundle, Manifest
from sightline.cli.table import table


def of_bundle(bundle: Bundle) -> str:
    """Everything a bundle says about itself, for a person."""
    return f"{bundle.path}: {megabytes(size(bundle))}, SHA-256 {bundle.hash[:12]}…\n\n{of_manifest(bundle.manifest)}"


def of_manifest(manifest: Manifest) -> str:
    """Input, output, blocks and self-check of a network, for a person."""
    image = manifest.input
    activation = manifest.activation + (" (in the graph)" if manifest.activation_found else "")
    facts = [
        ("input", f"{image.name!r} {'×'.join(map(str, image.shape))} {image.layout}"),
        ("pixels", f"{image.colour}, 0…{image.range:g}, mean {_listed(image.mean)}, std {_listed(image.std)}"),
        ("output", f"{manifest.classes} classes, {activation}"),
        ("labels", _shortened(manifest.labels) if manifest.labels else "none"),
        ("opset", manifest.opset),
    ]
    if manifest.versions:
        facts.append(("made with", ", ".join(f"{name} {version}" for name, version in manifest.versions.items())))
    if "classifier" in manifest.checks:
        facts.append(("self-check", f"the classifier is {manifest.checks['classifier']:.1e} off the original"))
    return f"{table(facts, indent=0)}\n\n{_blocks(manifest)}"


def _blocks(manifest: Manifest) -> str:
    """The block outputs, shallow to deep, with what the self-check found at each."""
    checks = {name.removeprefix("gradient."): f"{value:.1e}" for name, value in manifest.checks.items()}
    rows = [
        ("block", "maps", "size", "gradient off by" if checks else ""),
        *((b.name, b.channels, f"{b.height}×{b.width}", checks.get(str(b.index), "")) for b in manifest.blocks),
        ("total", sum(block.channels for block in manifest.blocks), "", ""),
    ]
    return table(rows, right=[1, 2, 3], indent=0)


def as_json(manifest: Manifest, bundle: Bundle | None = None) -> str:
    """The same for a program."""
    document = asdict(manifest)
    if bundle is not None:
        document |= {"path": str(bundle.path), "hash": bundle.hash, "bytes": size(bundle)}
    return json.dumps(document, indent=2)


def size(bundle: Bundle) -> int:
    """Bytes on disk."""
    return sum(file.stat().st_size for file in bundle.path.iterdir())


def megabytes(count: int) -> str:
    """``12.3 MB``, in units of 10⁶ bytes."""
    return f"{count / 1e6:.1f} MB"


def _listed(values: Sequence[float]) -> str:
    return " ".join(f"{value:g}" for value in values)


def _shortened(labels: Sequence[str], limit: int = 8) -> str:
    shown = ", ".join(labels[:limit])
    return shown if len(labels) <= limit else f"{shown}, … ({len(labels)})"
