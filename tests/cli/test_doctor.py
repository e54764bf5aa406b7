"""What is installed, what is missing and how to get it."""

from __future__ import annotations

import json
import types
from importlib import metadata

import onnxruntime
import pytest

from sightline.cli import doctor, main


def test_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert onnxruntime.__version__ in said
    assert "CPUExecutionProvider" in said


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["packages"]["numpy"] == metadata.version("numpy")
    assert any(engine["ready"] for engine in found["engines"])


def without(monkeypatch: pytest.MonkeyPatch, *missing: str) -> None:
    def version(name: str) -> str:
        if name in missing:
            raise metadata.PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(doctor, "metadata", types.SimpleNamespace(version=version, **EXPORTED))


EXPORTED = {"PackageNotFoundError": metadata.PackageNotFoundError}


def test_what_is_missing_comes_with_its_remedy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without(monkeypatch, "torch", "onnxruntime-gpu")
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert "torch missing: pip install 'sightline[torch]'" in said
    assert "export ONNX files     ready" in said


def test_two_builds_of_onnx_runtime(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    without(monkeypatch)
    main(["doctor"])
    assert "both installed and overwrite each other: pip uninstall" in capsys.readouterr().out


@pytest.mark.parametrize("error", [ImportError("libonnxruntime.so: cannot open"), ModuleNotFoundError("onnxruntime")])
def test_an_engine_that_does_not_load(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(name: str) -> None:
        raise error

    monkeypatch.setattr(doctor, "importlib", types.SimpleNamespace(import_module=fail))
    assert main(["doctor"]) == 1
    assert "ready" not in capsys.readouterr().out.partition("other tasks")[0]
