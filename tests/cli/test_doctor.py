"""What is installed, what can be used, what is missing and how to get it."""

from __future__ import annotations

import dataclasses
import importlib
import json
import types
from importlib import metadata

import onnxruntime
import pytest

import sightline.bindings as bindings
from sightline.bindings import probe
from sightline.bindings.probe import Obstacle
from sightline.bindings.table import ENGINES
from sightline.cli import doctor, main
from tests.fakes import cupy as fake_cupy
from tests.fakes.cuda import State


def usable(monkeypatch: pytest.MonkeyPatch, *names: str, obstacle: Obstacle) -> None:
    """A machine on which these engines can be used, and the others cannot."""
    found = {
        name: dataclasses.replace(
            entry, probe=(lambda: None) if name in names else (lambda: obstacle), lacks=lambda precision: None
        )
        for name, entry in ENGINES.items()
    }
    monkeypatch.setattr(bindings, "ENGINES", found)


def test_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert onnxruntime.__version__ in said
    assert "CPUExecutionProvider" in said
    assert all(f"\n  {name} " in said for name in (*ENGINES, "serve", "data sets"))


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["packages"]["numpy"] == metadata.version("numpy")
    ready = [engine["name"] for engine in found["engines"] if engine["ready"]]
    assert "onnxruntime-cpu" in ready
    assert found["auto"]["engine"] in ready


def test_every_engine_with_its_reason_and_remedy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usable(monkeypatch, "onnxruntime-cpu", obstacle=Obstacle("it is not there", "pip install it"))
    assert main(["doctor"]) == 0
    engines = capsys.readouterr().out.partition("\n\n")[2].partition("\n\n")[0].splitlines()[1:]
    assert len(engines) == len(ENGINES)
    for line in engines:
        expected = "ready: fp32, int8" if line.split()[0] == "onnxruntime-cpu" else "it is not there; pip install it"
        assert line.endswith(expected)


def test_what_auto_takes_and_why(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    usable(monkeypatch, "tensorrt", "onnxruntime-cuda", "onnxruntime-cpu", obstacle=Obstacle("no"))
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert "engine auto: tensorrt, the fastest one usable here in fp32, with onnxruntime-cuda for the attrib" in said


@pytest.mark.parametrize("names", [(), ("torch",), ("tensorrt",)])
def test_a_machine_that_cannot_explain(
    names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """torch alone runs no ONNX graph, and native TensorRT alone no attribution pass."""
    usable(
        monkeypatch,
        *names,
        obstacle=Obstacle("onnxruntime is not installed", "pip install onnxruntime", "onnxruntime"),
    )
    assert main(["doctor"]) == 1
    assert "pip install onnxruntime" in capsys.readouterr().out.partition("engine auto: ")[2].partition("\n")[0]


def test_a_gpu(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    State.reset()
    fake_cupy.install(monkeypatch)
    assert main(["doctor"]) == 0
    assert "Fake GPU  compute capability 9.0  8 GiB  CUDA 13.0" in capsys.readouterr().out
    monkeypatch.setattr(State, "devices", 0)
    assert main(["doctor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["gpus"] == []


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
def test_engines_that_do_not_load(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(name: str) -> None:
        raise error

    monkeypatch.setattr(importlib, "import_module", fail)
    monkeypatch.setattr(probe, "installed", lambda name: name in ("onnxruntime", "openvino"))
    assert main(["doctor"]) == 1
    said = capsys.readouterr().out
    assert "ready" not in said.partition("other tasks")[0]
    assert f"onnxruntime is installed but cannot be imported ({error}); install it again" in said
