"""sightline build --target: what is prepared for another machine, and the self-test that runs there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import sightline
from sightline.cli import main, selftest
from sightline.cli.jetson import TARGETS
from sightline.errors import MissingPackageError
from sightline.kernels import build

ENGINE = ["--engine", "onnxruntime-cpu", "--batch-size", "4"]


def prepared(bundle: Path, images: list[Path], *more: str) -> int:
    return main(["build", str(bundle), "--target", "jetson-orin", *ENGINE, "--images", *map(str, images), *more])


@pytest.fixture
def device(bundle: Path, images: list[Path], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder, on a machine whose cache knows nothing of it."""
    before = (bundle / "manifest.json").read_bytes()
    assert prepared(bundle, images, "-o", "device") == 0
    assert (bundle / "manifest.json").read_bytes() == before  # the copy has the graphs, the bundle stays as it was
    monkeypatch.setenv("SIGHTLINE_CACHE", str(tmp_path / "cache of the device"))
    return folder / "device"


def test_what_is_prepared(device: Path, images: list[Path]) -> None:
    facts = json.loads((device / "target.json").read_text())
    assert (facts["target"], facts["method"], facts["sightline"]) == ("jetson-orin", "sise", sightline.__version__)
    made = sightline.load(device / facts["bundle"])
    assert {"fp16", "int8"} <= {*made.variants}
    assert made.manifest.variants["int8"]["activations"] == "int8"  # what TensorRT takes
    assert len(list((device / "images").iterdir())) == len(images)  # though both are named part.png
    for picture in (device / "images").iterdir():
        with np.load(device / "expected" / f"{picture.stem}.npz") as expected:
            assert expected["saliency"].shape == made.input.shape[1:]
    session = onnxruntime.InferenceSession(device / "explainer.onnx")
    assert session.get_inputs()[0].type == "tensor(uint8)"


def test_kernels_for_what_nvrtc_knows(device: Path) -> None:
    nvrtc = pytest.importorskip("cupy", reason="CuPy compiles the kernels").cuda.nvrtc
    try:
        known = nvrtc.getSupportedArchs()
    except Exception:  # how CuPy says that the library is missing depends on its version
        pytest.skip("there is no NVRTC")
    wanted = {build.cubin_name(arch) for arch in TARGETS["jetson-orin"].archs if arch in known}
    assert wanted
    assert {path.name for path in (device / "kernels").iterdir()} == wanted


def test_an_architecture_that_cannot_be_compiled_is_named(
    bundle: Path,
    images: list[Path],
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing(archs: list[int], target: Path) -> list[Path]:
        raise MissingPackageError("nvidia-cuda-nvrtc", purpose="compiling the CUDA kernels")

    monkeypatch.setattr(build, "compile_kernels", missing)
    assert prepared(bundle, images) == 0
    assert "not built here: " in capsys.readouterr().out
    assert (folder / "jetson-orin" / "selftest.py").is_file()  # the folder is named after the target


def test_the_self_test_passes_where_the_maps_are_the_same(
    device: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert selftest.main(ENGINE, device) == 0
    said = capsys.readouterr().out
    assert said.count("ok     fp32") == 2
    assert "FAILED" not in said
    cubins = {path.name for path in (device / "kernels").glob("*.cubin")}
    assert {path.name for path in build.folder().glob("*.cubin")} == cubins
    assert build.folder().is_relative_to(tmp_path)


def test_the_self_test_is_a_script(device: Path, images: list[Path]) -> None:
    done = subprocess.run(
        [sys.executable, device / "selftest.py", *ENGINE, "--precision", "fp32", "fp16"],
        cwd=images[0].parent,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.count("ok     fp32") == 2
    assert "FAILED fp16" in done.stdout  # which this engine lacks: said, and no traceback
    assert "Traceback" not in done.stderr
    assert done.returncode == 1


@pytest.mark.parametrize("change", ["map", "class"])
def test_the_self_test_fails_where_something_differs(
    change: str, device: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = sorted((device / "expected").iterdir())[1]
    with np.load(path) as expected:
        saliency, facts = expected["saliency"], json.loads(str(expected["metadata"]))
    if change == "map":
        saliency = saliency[::-1]
    else:
        facts["target"] = (facts["target"] + 1) % 3
    np.savez(path, saliency=saliency, metadata=np.array(json.dumps(facts)))
    assert selftest.main(ENGINE, device) == 1
    said = capsys.readouterr().out
    assert said.count("ok     fp32") == 1
    assert said.count("FAILED fp32") == 1


def test_another_version_of_sightline_is_named(device: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = json.loads((device / "target.json").read_text())
    (device / "target.json").write_text(json.dumps({**facts, "sightline": "0.0.7"}))
    selftest.main(ENGINE, device)
    assert "0.0.7" in capsys.readouterr().out


def test_nothing_is_replaced_or_left_half_done(
    bundle: Path, images: list[Path], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "taken").mkdir()
    assert prepared(bundle, images, "-o", "taken") == 1
    assert "taken" in capsys.readouterr().err
    damaged = folder / "damaged.png"
    damaged.write_bytes(b"no picture")
    assert prepared(bundle, [images[0], damaged], "-o", "new") == 1
    assert "damaged.png" in capsys.readouterr().err
    assert {path.name for path in folder.iterdir()} == {"taken", "damaged.png"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--target", "jetson-orin"], "--images"),
        (["--target", "jetson-orin", "--images", "a.png", "--precision", "int8"], "--precision"),
        (["--target", "toaster"], "jetson-thor"),
        (["-o", "somewhere"], "--target"),
    ],
)
def test_usage(words: list[str], said: str, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["build", str(bundle), *words])
    assert said in capsys.readouterr().err
