"""The C++ headers, compiled and run on ONNX Runtime and on OpenVINO."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image

import sightline
from sightline import demo
from sightline.runtime import rendering
from tests.embed.conftest import Case, assert_same_map
from tests.embed.tools import EMBED, run, skip, tool

HEADERS = "SIGHTLINE_ONNXRUNTIME_HEADERS"
_REGION = re.compile(r"^region (\d+) (\d+) (\d+) (\d+) area (\S+) mean (\S+) peak (\S+) mass (\S+)$", re.MULTILINE)


def onnxruntime_options(folder: Path) -> list[str]:
    """The headers from wherever they are, and the library out of the Python wheel under the name that it goes by."""
    candidates = [Path(found) for found in (os.environ.get(HEADERS), "/usr/include/onnxruntime") if found]
    headers = [path for path in candidates if (path / "onnxruntime_cxx_api.h").is_file()]
    if not headers:
        skip(f"there are no headers of ONNX Runtime: run embed/cpp/fetch-headers.sh FOLDER and set {HEADERS}=FOLDER")
    libraries = [*(Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.1.*")]
    if not libraries:
        skip("the package onnxruntime holds no library for C++ on this system")
    library = folder / "libonnxruntime.so.1"
    library.symlink_to(libraries[0])
    return [f"-DONNXRUNTIME_INCLUDE_DIR={headers[0]}", f"-DONNXRUNTIME_LIBRARY={library}"]


def openvino_options(folder: Path) -> list[str]:
    openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed")
    return ["-DSIGHTLINE_OPENVINO=ON", f"-DOpenVINO_DIR={Path(openvino.__file__).parent / 'cmake'}"]


@pytest.fixture(scope="module")
def compiled() -> dict[str, Path]:
    """The folders of what is compiled already, so that it is compiled once in whatever order the tests run."""
    return {}


@pytest.fixture(params=[onnxruntime_options, openvino_options], ids=["onnxruntime", "openvino"])
def programs(
    request: pytest.FixtureRequest, compiled: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of the compiled programs."""
    cmake = tool("cmake")
    tool("c++")
    options: Callable[[Path], list[str]] = request.param
    if options.__name__ not in compiled:
        folder = tmp_path_factory.mktemp("cpp")
        run(cmake, "-S", EMBED / "cpp", "-B", folder / "build", *options(folder))
        run(cmake, "--build", folder / "build", "--parallel", "2")
        compiled[options.__name__] = folder / "build"
    return compiled[options.__name__]


def explain(programs: Path, *words: str | Path) -> str:
    return run(programs / "explain", *words)


@pytest.mark.parametrize("kind", ["float32", "uint8"])
def test_the_same_map_as_python(
    kind: str,
    programs: Path,
    files: Mapping[str, Path],
    picture: Path,
    wanted: sightline.Explanation,
    tmp_path: Path,
) -> None:
    said = explain(programs, files[f"sise {kind}"], picture, tmp_path / "overlay.png", "--map", tmp_path / "map.f32")
    assert_same_map(np.fromfile(tmp_path / "map.f32", np.float32), wanted.saliency)
    label, target, score, method, passes = re.findall(
        r"^(\S+) \(class (\d+)\) (\S+), (\S+), (\d+) passes$", said, re.M
    )[0]
    assert (label, int(target), method, int(passes)) == (wanted.label, wanted.target, "sise", wanted.passes)
    assert float(score) == pytest.approx(wanted.score, abs=1e-4)
    regions = _REGION.findall(said)
    assert [tuple(map(int, region[:4])) for region in regions] == [region.box for region in wanted.regions()]
    for found, region in zip(regions, wanted.regions(), strict=True):
        assert [float(value) for value in found[4:]] == pytest.approx(
            [region.area, region.mean, region.peak, region.mass], rel=1e-3
        )
    close(Image.open(tmp_path / "overlay.png"), wanted.overlay())


def close(found: Image.Image, wanted: Image.Image) -> None:
    """Pictures that differ by rounding, if at all."""
    difference = np.abs(np.asarray(found, np.int16) - np.asarray(wanted, np.int16))
    assert difference.max() <= 2
    assert (difference > 0).mean() < 0.01


@pytest.mark.parametrize("size", [(500, 375), (90, 120), (224, 60)])
def test_pictures_of_any_size(
    size: tuple[int, int],
    programs: Path,
    files: Mapping[str, Path],
    quick: sightline.Explainer,
    tmp_path: Path,
) -> None:
    picture = Image.open(demo.samples()[0].image).convert("RGB").resize(size, Image.Resampling.BICUBIC)
    picture.save(tmp_path / "sized.png")
    explain(
        programs,
        files["grad-cam uint8"],
        tmp_path / "sized.png",
        tmp_path / "overlay.png",
        "--map",
        tmp_path / "map.f32",
    )
    found = np.fromfile(tmp_path / "map.f32", np.float32).reshape(224, 224)
    wanted = quick(picture)
    assert_same_map(found, wanted.saliency)
    full = np.asarray(Image.fromarray(found).resize(size, Image.Resampling.BILINEAR))
    close(Image.open(tmp_path / "overlay.png"), rendering.overlay(picture, np.clip(full, 0, 1)))


@pytest.mark.parametrize("pixels", ["float32", "uint8"])
def test_other_kinds_of_images(pixels: str, programs: Path, case: Case, tmp_path: Path) -> None:
    said = explain(programs, case.files[pixels], case.picture, tmp_path / "overlay.png", "--map", tmp_path / "map.f32")
    with sightline.Explainer(case.bundle, sightline.GradCAM(), "onnxruntime-cpu", 1, threads=1) as explainer:
        wanted = explainer(case.picture)
    assert_same_map(np.fromfile(tmp_path / "map.f32", np.float32), wanted.saliency)
    assert said.startswith(f"{wanted.label} (class {wanted.target})")


def test_another_class_and_fewer_passes(
    programs: Path, files: Mapping[str, Path], picture: Path, explainer: sightline.Explainer, tmp_path: Path
) -> None:
    out = tmp_path / "overlay.png"
    said = explain(programs, files["sise uint8"], picture, out, "--target", "3", "--map", tmp_path / "map.f32")
    assert "(class 3)" in said
    found = np.fromfile(tmp_path / "map.f32", np.float32)
    assert_same_map(found, explainer(picture, target=3).saliency)
    passes = int(re.findall(r"(\d+) passes", explain(programs, files["sise uint8"], picture, out, "--mu", "0.5"))[0])
    with sightline.Explainer(demo.BUNDLE, sightline.SISE(mu=0.5), "onnxruntime-cpu", 16, threads=1) as half:
        assert passes == half(picture).passes


@pytest.mark.parametrize("kind", ["float32", "uint8"])
def test_what_the_headers_promise(kind: str, programs: Path, files: Mapping[str, Path], picture: Path) -> None:
    said = run(programs / "contract", files[f"grad-cam {kind}"], picture, demo.BUNDLE / "attribution.onnx")
    assert said.endswith("\n0 failed\n")


def test_the_example_says_what_was_wrong(
    programs: Path, files: Mapping[str, Path], picture: Path, tmp_path: Path
) -> None:
    out = tmp_path / "overlay.png"
    assert "no class 5" in run(programs / "explain", files["grad-cam uint8"], picture, out, "--target", "5", fails=True)
    assert "nowhere.png" in run(programs / "explain", files["grad-cam uint8"], "nowhere.png", out, fails=True)
    assert "usage" in run(programs / "explain", files["grad-cam uint8"], fails=True)
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(files["grad-cam uint8"].read_bytes()[:100_000])
    assert "damaged.onnx" in run(programs / "explain", damaged, picture, out, fails=True)
    assert not out.exists()
