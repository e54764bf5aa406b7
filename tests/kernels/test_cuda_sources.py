"""The CUDA C sources, compiled by NVRTC for the GPUs that Sightline supports. Needs no GPU."""

from __future__ import annotations

import importlib
import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sightline.cli import build_kernels
from sightline.cli.main import main
from sightline.errors import EngineError, MissingPackageError
from sightline.kernels import build, tiling
from sightline.kernels.gpu import GpuKernels
from tests.fakes import cuda
from tests.fakes import cupy as fake


@pytest.fixture(scope="module")
def nvrtc() -> Any:
    try:
        return build._nvrtc()
    except MissingPackageError as error:
        pytest.skip(str(error))


def test_every_source_is_part_of_the_program() -> None:
    assert sorted(build.FILES) == sorted(path.name for path in build._SOURCES.glob("*.cu"))
    assert "#include" not in build.source()


@pytest.mark.parametrize("arch", build.ARCHITECTURES)
def test_every_kernel_compiles_and_keeps_its_values_in_registers(nvrtc: Any, arch: int) -> None:
    cubin, log = build.compiled(arch, ("--ptxas-options=-v",))
    assert cubin.startswith(b"\x7fELF")
    assert "warning" not in log
    spills = re.findall(r"entry function '(\w+)'.*?(\d+) bytes spill stores.*?Used (\d+) registers", log, re.DOTALL)
    assert {name for name, *_ in spills} >= {"mask_float16_3", "extrema", "aggregate", "histogram", "pick_bfloat16"}
    assert {name: int(stores) for name, stores, _ in spills if int(stores)} == {}
    # Three blocks of 256 threads share 65536 registers: what tiling counts on.
    assert max(int(registers) for *_, registers in spills) <= 80


def test_cubins_are_written_whole_and_found_by_their_hash(nvrtc: Any, tmp_path: Path) -> None:
    (path,) = build.compile_kernels([90, 90], tmp_path / "new")
    assert path.name == build.cubin_name(90)
    assert path.read_bytes().startswith(b"\x7fELF")
    assert [found.name for found in path.parent.iterdir()] == [path.name]


def test_an_unknown_architecture_is_refused(nvrtc: Any, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="does not compile for sm_19: it knows sm_75"):
        build.compile_kernels([75, 19], tmp_path)
    assert not list(tmp_path.iterdir())


def test_without_nvrtc_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake.install(monkeypatch)
    monkeypatch.setattr(cuda, "nvrtc", None, raising=False)
    with pytest.raises(MissingPackageError, match="nvidia-cuda-nvrtc"):
        build.compile_kernels([90], tmp_path)


class Loader:
    """A CuPy that loads cubins, or not, and compiles, or not."""

    def __init__(self, arch: str, *, loads: bool = True, compiles: bool = True) -> None:
        self.loaded: list[str] = []
        outer = self

        class Device:
            compute_capability = arch

        class RawModule:
            def __init__(self, code: str | None = None, path: str | None = None, options: tuple[str, ...] = ()) -> None:
                self.place = path and Path(path).name

            def get_function(self, name: str) -> None:
                if not (loads if self.place else compiles):
                    raise RuntimeError("libnvrtc.so.13 cannot be opened")
                outer.loaded.append(self.place or "compiled")

        self.cuda = type("cuda", (), {"Device": Device})
        self.RawModule = RawModule


@pytest.fixture
def cubins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("SIGHTLINE_CACHE", str(tmp_path))
    (tmp_path / "kernels").mkdir()
    return tmp_path / "kernels"


def test_a_cubin_of_these_sources_is_taken(cubins: Path) -> None:
    (cubins / build.cubin_name(80)).touch()
    (cubins / build.cubin_name(87)).touch()
    for arch, expected in (("80", [80]), ("86", [80]), ("87", [87]), ("90", [])):
        cupy = Loader(arch)
        build.load(cupy)
        assert cupy.loaded == ([build.cubin_name(expected[0])] if expected else ["compiled"])


def test_a_cubin_of_other_sources_is_never_loaded(cubins: Path, caplog: pytest.LogCaptureFixture) -> None:
    (cubins / "kernels-sm_90-0123456789abcdef.cubin").touch()
    cupy = Loader("90")
    with caplog.at_level(logging.INFO, "sightline"):
        build.load(cupy)
    assert cupy.loaded == ["compiled"]
    assert "other sources" in caplog.text


def test_a_cubin_that_does_not_load_is_ignored_with_a_warning(cubins: Path, caplog: pytest.LogCaptureFixture) -> None:
    (cubins / build.cubin_name(90)).touch()
    cupy = Loader("90", loads=False)
    build.load(cupy)
    assert cupy.loaded == ["compiled"]
    assert build.cubin_name(90) in caplog.text


def test_without_cubin_and_nvrtc_the_error_says_how_to_get_one(cubins: Path) -> None:
    with pytest.raises(EngineError, match=r"sightline build-kernels --arch 87"):
        build.load(Loader("87", compiles=False))


def test_kernels_need_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    original = importlib.import_module

    def without_cupy(name: str, package: str | None = None) -> Any:
        if name == "cupy":
            raise ModuleNotFoundError(name)
        return original(name, package)

    monkeypatch.setattr(importlib, "import_module", without_cupy)
    with pytest.raises(MissingPackageError, match=r"sightline\[gpu\]"):
        GpuKernels()


def test_the_command_prints_what_it_wrote(
    nvrtc: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.import_module("sightline.cli.main"), "_COMMANDS", (build_kernels,))
    assert main(["build-kernels", "--arch", "87,sm_90", "-o", str(tmp_path)]) == 0
    written = sorted(tmp_path.iterdir())
    assert capsys.readouterr().out.splitlines() == [str(path) for path in written]
    assert [path.name for path in written] == [build.cubin_name(87), build.cubin_name(90)]
    assert build_kernels.ARCHITECTURES == build.ARCHITECTURES
    with pytest.raises(SystemExit):
        main(["build-kernels", "--arch", "hopper"])


@pytest.mark.parametrize("item_bytes", [2, 4])
@pytest.mark.parametrize("count", [1, 7, 64, 5000])
def test_plans_cover_every_pixel_within_the_limits_of_a_gpu(count: int, item_bytes: int) -> None:
    for height, width in ((1, 1), (224, 224), (224, 672), (299, 299), (3, 5000), (2160, 3840)):
        for map_width in (1, 7, 112, 500, 3000):
            found = tiling.plan(count, height, width, map_width, item_bytes, aligned=True, processors=132)
            assert found is not None
            assert found.lanes * found.tiles * (16 // item_bytes) >= width
            assert found.lanes * found.rows <= 256
            assert found.shared <= 49152
            assert 1 <= found.groups <= count
            assert not found.vectors or width % (16 // item_bytes) == 0


def test_the_plan_of_the_usual_case_fills_whole_warps_and_the_gpu_once() -> None:
    found = tiling.plan(64, 224, 224, 14, 2, aligned=True, processors=132)
    assert found == tiling.Plan(lanes=28, rows=8, tiles=1, groups=14, vectors=True, shared=8 * 15 * 4 * 5)
    assert tiling.plan(64, 224, 224, 20000, 2, aligned=True, processors=132) is None


def test_sums_are_split_alike_on_every_gpu() -> None:
    assert [tiling.parts(k, n) for k, n in ((1, 49), (2048, 49), (64, 12544), (4000, 50176))] == [1, 64, 4, 20]
    assert np.prod((tiling.parts(10**6, 10**7), 1)) == 1
