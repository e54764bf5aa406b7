"""What doctor says on a Jetson, by the files that Jetson Linux keeps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sightline.cli import jetson, main

ORIN = (
    "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8 01:49:37 UTC 2025",
    "NVIDIA Jetson AGX Orin Developer Kit",
    "MemTotal:       64349044 kB\nMemFree:        60000000 kB",
)
THOR = (
    "# R38 (release), REVISION: 2.0, GCID: 41844464, BOARD: generic, EABI: aarch64",
    "NVIDIA Jetson AGX Thor Developer Kit",
    "MemTotal:       128000000 kB",
)


def machine(root: Path, release: str | None, model: str | None, memory: str) -> Path:
    for name, text in (("etc/nv_tegra_release", release), ("proc/device-tree/model", model), ("proc/meminfo", memory)):
        if text is not None:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(text.encode() + (b"\0" if "device-tree" in name else b"\n"))
    return root


@pytest.fixture
def power(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A nvpmodel that answers; the test may change its answer."""
    program = tmp_path / "programs" / "nvpmodel"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\n[ "$1" = -q ] && printf "NV Power Mode: MODE_30W\\n2\\n"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    return program


def test_another_machine_is_no_jetson(tmp_path: Path) -> None:
    assert jetson.findings(tmp_path) is None
    board = machine(tmp_path / "pi", None, "Raspberry Pi 5 Model B Rev 1.0", "MemTotal: 8000000 kB")
    assert jetson.findings(board) is None


def test_orin(tmp_path: Path, power: Path) -> None:
    found = jetson.findings(machine(tmp_path / "orin", *ORIN))
    assert found is not None
    advice = " ".join(found.pop("advice"))
    assert found == {
        "model": "NVIDIA Jetson AGX Orin Developer Kit",
        "l4t": "36.4.3",
        "jetpack": "6",
        "cuda": 12,
        "memory_bytes": 64349044 * 1024,
        "power_mode": "MODE_30W",
        "target": "jetson-orin",
    }
    assert "cupy-cuda12x" in advice
    assert "--target jetson-orin" in advice
    assert "MAXN" in advice


def test_thor_at_full_power(tmp_path: Path, power: Path) -> None:
    power.write_text('#!/bin/sh\necho "NV Power Mode: MAXN"\n')
    found = jetson.findings(machine(tmp_path / "thor", *THOR))
    assert found is not None
    assert (found["jetpack"], found["cuda"], found["target"], found["power_mode"]) == ("7", 13, "jetson-thor", "MAXN")
    advice = " ".join(found["advice"])
    assert "cupy-cuda12x" not in advice
    assert "power mode" not in advice


@pytest.mark.parametrize("script", ["#!/bin/sh\nexit 1\n", "#!/nowhere\n"])
def test_a_power_mode_that_cannot_be_asked(script: str, tmp_path: Path, power: Path) -> None:
    power.write_text(script)
    found = jetson.findings(machine(tmp_path / "thor", *THOR))
    assert found is not None
    assert found["power_mode"] is None
    assert ("power mode", "unknown") in jetson.lines(found)


def test_a_module_that_is_not_known(tmp_path: Path) -> None:
    found = jetson.findings(machine(tmp_path / "new", "# R99 (release), REVISION: 1.0", None, ""))
    assert found is not None
    assert (found["jetpack"], found["target"], found["memory_bytes"]) == (None, None, None)
    said = dict(row for row in jetson.lines(found) if row[0])
    assert said["software"] == "Jetson Linux 99.1.0, not known here"
    assert said["module"] == "unknown"


def test_doctor_says_it(
    tmp_path: Path, power: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = jetson.findings(machine(tmp_path / "orin", *ORIN))
    monkeypatch.setattr(jetson, "findings", lambda: found)
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert "\nJetson\n" in said
    assert "JetPack 6 (Jetson Linux 36.4.3, CUDA 12)" in said
    assert "61.4 GiB, shared by CPU and GPU" in said
    assert main(["doctor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["jetson"] == found
