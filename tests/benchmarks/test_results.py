"""What benchmarks measured is on record, and the README claims nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
NETWORKS = {"ResNet-50": "resnet50", "VGG-16": "vgg16", "MobileNetV3-L": "mobilenet_v3_large"}


def figures(name: str) -> dict[str, Any]:
    return dict(json.loads((RESULTS / f"{name}.json").read_text())["figures"])


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_a_record_follows_the_schema_and_names_no_path(path: Path) -> None:
    record = json.loads(path.read_text())
    jsonschema.validate(record, json.loads((ROOT / "benchmarks" / "schema.json").read_text()))
    # Run on another machine as well, and there with some contenders again.
    assert path.stem.removeprefix(record["benchmark"]) in ("", "-avx2", "-avx2-openvino")
    assert not [word for word in record["command"] if "/" in word]


def test_the_docs_state_what_sharing_gains() -> None:
    found = figures("sharing")
    order = [
        f"{network}, batch {size}{beside}: over one request"
        for beside in ("", ", 1 busy beside")
        for network in ("resnet50", "mobilenet_v3_large")
        for size in (8, 16)
    ]
    text = (ROOT / "docs" / "engines.md").read_text()
    text = text[text.index("OpenVINO shares a batch") : text.index("benchmarks/sharing.py")]
    assert re.findall(r"\d\.\d\d", text) == [f"{found[key]['median']:.2f}" for key in order]


def test_the_docs_state_mobilenet_s_overhead_without_avx512() -> None:
    measured = figures("overhead-mobilenet_v3_large-avx2")
    stated = [measured[f"{engine} fp32: overhead_ratio"]["median"] for engine in ("onnxruntime-cpu", "openvino")]
    assert "({:.3f} and {:.3f},".format(*stated) in (ROOT / "docs" / "benchmarks.md").read_text()


def test_the_readme_states_the_pointing_figures() -> None:
    measured = figures("pointing")
    rows = re.findall(
        r"^\| ([\w -]+?) \| (\d+\.\d) \| (\d+\.\d) to (\d+\.\d) \|$", (ROOT / "README.md").read_text(), re.M
    )
    stated = {name.lower(): numbers for name, *numbers in rows}
    assert stated.keys() >= {"sise", "ada-sise", "grad-cam", "input gradient", "centre blob"}
    for name, numbers in stated.items():
        assert numbers == [f"{measured[f'{name} {what}']:.1f}" for what in ("EBPG %", "low", "high")], name


def test_the_readme_states_the_quality_figures() -> None:
    measured = figures("quality-neu-det")
    labels = {
        "SISE": "sise",
        "SISE, `max_passes=16`": "sise:max_passes=16",
        "REMISE, ours": "remise",
        "REMISE, `max_passes=64`": "remise:max_passes=64",
        "Score-CAM": "score-cam",
        "Grad-CAM": "grad-cam",
        "RISE": "rise:passes=500",
    }
    text = (ROOT / "README.md").read_text()
    rows = re.findall(r"^\| ([^|]+) \| (\d+) \| (\d+\.\d) \| (.+) \|$", text, re.M)
    assert {name for name, *_ in rows} == labels.keys()
    for name, passes, ebpg, others in rows:
        shown = [measured[f"{labels[name]}: {metric}"] for metric in ("ebpg", "miou", "bbox", "deletion", "insertion")]
        assert [ebpg, *others.split(" | ")] == [
            f"{value:.{digits}f}" for value, digits in zip(shown, (1, 1, 1, 3, 3), strict=True)
        ], name
        assert int(passes) == round(measured[f"{labels[name]}: passes"]), name
    for passes in (16, 64):
        assert f"{measured[f'sise:max_passes={passes}: r']:.2f}" in text


def test_the_readme_states_overhead_and_memory() -> None:
    text = (ROOT / "README.md").read_text()
    rows = re.findall(r"^\| (ResNet-50|VGG-16|MobileNetV3-L), ([\d or]+) passes \| (.+) \|$", text, re.M)
    assert {name for name, *_ in rows} == {"ResNet-50", "VGG-16", "MobileNetV3-L"}
    for name, passes, cells in rows:
        measured = figures(f"overhead-{NETWORKS[name]}")
        stated = [cell.strip() for cell in cells.split("|")]
        expected = []
        settings = ("onnxruntime-cpu fp32", "openvino fp32", "openvino bf16")
        assert passes == " or ".join(map(str, sorted({measured[f"{setting}: passes"] for setting in settings})))
        for setting in settings:
            ratio, latency = (measured[f"{setting}: {what}"] for what in ("overhead_ratio", "latency"))
            low, high = ratio["quartiles"]
            expected.append(f"{ratio['median']:.3f} ({low:.3f} to {high:.3f}), {latency['median']:.3g} s")
        assert stated == expected, name
    memory = figures("memory")
    assert f"{memory['peak MiB at 400']:.0f} MiB" in text
    assert f"{memory['peak MiB at 4000']:.0f} MiB" in text


def test_the_page_of_benchmarks_states_what_sharing_gains_and_how_deadlines_are_kept() -> None:
    measured = figures("batching")
    lines = (ROOT / "docs" / "benchmarks.md").read_text().splitlines()

    def spread(value: dict[str, Any]) -> str:
        low, high = value["quartiles"]
        return f"{value['median']:.2f} ({low:.2f} to {high:.2f})"

    for name in {key.partition(": ")[0] for key in measured}:
        found = {key.partition(": ")[2]: value for key, value in measured.items() if key.startswith(f"{name}: ")}
        if "deadlines" in name:
            cells = [
                name.replace(", deadlines", ""),
                f"{found['deadline low']:.2f} to {found['deadline high']:.2f}",
                f"{found['batch']['median']:.3f}, longest {found['longest batch']:.3f}",
                *(str(found[what]) for what in ("kept", "kept to a median batch", "kept to the longest batch")),
                f"{found['latest']:.3f}",
            ]
        else:
            cells = [
                name,
                f"{found['masks_per_image']:.0f}",
                f"{1e3 * found['raw']['median']:.2f}",
                *(spread(found[what]) for what in ("shared over alone", "shared over raw", "alone over raw")),
            ]
        assert f"| {' | '.join(cells)} |" in lines


def test_the_page_of_benchmarks_states_what_lower_precisions_gain_and_cost() -> None:
    measured = figures("precision")
    lines = (ROOT / "docs" / "benchmarks.md").read_text().splitlines()
    for name in {key.partition(": ")[0] for key in measured}:
        faster = measured[f"{name}: times as fast as onnxruntime-cpu fp32"]
        agreement = measured[f"{name}: pearson"]
        low, high = faster["quartiles"]
        cells = [
            f"{measured[f'{name}: latency']['median']:.3g}",
            f"{faster['median']:.1f} ({low:.1f} to {high:.1f})",
            *(f"{agreement[what]:.4f}" for what in ("median", "least")),
            *(f"{measured[f'{name}: {what} %']:.1f}" for what in ("EBPG", "accuracy")),
        ]
        assert f"| {name} | {' | '.join(cells)} |" in lines


def test_bf16_on_amx_is_four_times_as_fast_with_the_same_maps() -> None:
    measured = figures("precision")
    assert measured["openvino bf16: times as fast as onnxruntime-cpu fp32"]["least"] >= 4  # of every picture
    assert measured["openvino bf16: pearson"]["least"] >= 0.99


def test_sise_beats_what_it_must_beat() -> None:
    measured = figures("pointing")
    for other in ("grad-cam", "input gradient", "centre blob"):
        assert measured[f"sise minus {other} low"] > 0, other
