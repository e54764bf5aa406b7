"""From the CUDA C sources to kernels: one program, compiled by NVRTC on the machine that runs it, or ahead of time.

A machine of the production line often has a driver but no compiler. For it the kernels are built elsewhere, without a
GPU if need be (``sightline build-kernels``), into one *cubin* (machine code) per architecture. Its name carries the
hash of the sources and of the options, so that kernels of another version are never taken for these.
"""

from __future__ import annotations

import hashlib
import importlib
import logging
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from sightline import cache
from sightline.errors import EngineError, MissingPackageError

FILES = ("element.cu", "sampling.cu", "mask.cu", "reduce.cu", "map.cu")
"""In the order in which they build on each other."""

ARCHITECTURES = (75, 80, 87, 90, 120)
"""Turing, Ampere (and Ada), Orin, Hopper, Blackwell."""

OPTIONS = ("-std=c++17",)
_TEGRA = (53, 62, 72, 87, 101, 110)
_SOURCES = Path(__file__).with_name("cuda")

logger = logging.getLogger(__name__)


@lru_cache(maxsize=1)
def source() -> str:
    """The whole program. It includes nothing, so that NVRTC needs no headers."""
    parts = (f'#line 1 "{name}"\n{(_SOURCES / name).read_text(encoding="utf-8")}' for name in FILES)
    return "\n".join(parts)


def cubin_name(arch: int) -> str:
    """``kernels-sm_90-0123456789abcdef.cubin``."""
    digest = hashlib.sha256("\0".join((source(), *OPTIONS)).encode()).hexdigest()[:16]
    return f"kernels-sm_{arch}-{digest}.cubin"


def folder() -> Path:
    """Where ``build-kernels`` puts cubins by default: ``kernels`` in the user's cache folder."""
    return cache.folder() / "kernels"


def compile_kernels(archs: Sequence[int], target: Path) -> list[Path]:
    """Compile the kernels for some architectures. Needs CuPy and NVRTC, but no GPU.

    Args:
        archs: compute capabilities times ten, e.g. 87 for an Orin.
        target: the folder to write to; every file appears whole or not at all.

    Returns:
        The cubins, one per architecture.

    Raises:
        MissingPackageError: CuPy or NVRTC is not installed.
        EngineError: NVRTC does not know an architecture, or the folder cannot be written.
    """
    nvrtc = _nvrtc()
    known = nvrtc.getSupportedArchs()
    if unknown := [arch for arch in archs if arch not in known]:
        raise EngineError(
            f"NVRTC {'.'.join(map(str, nvrtc.getVersion()))} does not compile for {_listed(unknown)}: it knows "
            f"{_listed(known)}. Leave it out, or install another nvidia-cuda-nvrtc."
        )
    built = []
    for arch in dict.fromkeys(archs):
        cubin, log = compiled(arch)
        if log:
            logger.info("NVRTC on sm_%s: %s", arch, log)
        path = target / cubin_name(arch)
        cache.write(path, cubin)
        built.append(path)
    return built


def compiled(arch: int, options: Sequence[str] = ()) -> tuple[bytes, str]:
    """The machine code of the kernels for one architecture, and what NVRTC had to say.

    Raises:
        MissingPackageError: CuPy or NVRTC is not installed.
        EngineError: NVRTC refused the sources or the options.
    """
    nvrtc = _nvrtc()
    program = nvrtc.createProgram(source(), "kernels.cu", (), ())
    try:
        try:
            nvrtc.compileProgram(program, (*OPTIONS, f"-arch=sm_{arch}", *options))
        except nvrtc.NVRTCError as error:
            log = nvrtc.getProgramLog(program)
            raise EngineError(f"NVRTC cannot compile the kernels for sm_{arch} ({error}): {log}") from error
        return nvrtc.getCUBIN(program), nvrtc.getProgramLog(program).strip("\0\n ")
    finally:
        nvrtc.destroyProgram(program)


def load(cupy: Any) -> Any:
    """The kernels for the current device, as a CuPy module: a cubin of these very sources where there is one, or NVRTC.

    Raises:
        EngineError: there is no cubin for this device, and no NVRTC that could make one.
    """
    arch = int(cupy.cuda.Device().compute_capability)
    for path in _cubins(arch):
        module = cupy.RawModule(path=str(path))
        try:
            module.get_function("take")
        except (RuntimeError, OSError) as error:  # CuPy's error of the driver is a RuntimeError
            logger.warning("%s cannot be loaded (%s) and is ignored", path, error)
            continue
        logger.info("kernels for sm_%s from %s", arch, path)
        return module
    module = cupy.RawModule(code=source(), options=OPTIONS)
    try:
        module.get_function("take")
    except Exception as error:  # CuPy's compile errors share no base class with those of a missing library
        raise EngineError(
            f"the kernels for this GPU (sm_{arch}) cannot be compiled here ({error}): install NVRTC "
            f"(pip install nvidia-cuda-nvrtc), or run 'sightline build-kernels --arch {arch}' on a machine that has it "
            f"and copy {cubin_name(arch)} to {folder()}."
        ) from error
    return module


def _cubins(arch: int) -> Iterator[Path]:
    """The cubins that this architecture runs, best first. Those of other sources are named in the log."""
    # Machine code runs on later minor versions of its architecture, but not from a desktop to a Jetson or back.
    lower = range(arch, arch // 10 * 10 - 1, -1) if arch not in _TEGRA else (arch,)
    for candidate in (a for a in lower if a == arch or a not in _TEGRA):
        name = cubin_name(candidate)
        for where in (folder(), _SOURCES):
            if (where / name).is_file():
                yield where / name
            for other in where.glob(f"kernels-sm_{candidate}-*.cubin"):
                if other.name != name:
                    logger.info("%s is of other sources and is ignored: run 'sightline build-kernels' again", other)


def _nvrtc() -> Any:
    try:
        nvrtc = importlib.import_module("cupy").cuda.nvrtc
    except ImportError as error:
        raise MissingPackageError("cupy-cuda13x", purpose="compiling the CUDA kernels", extra="gpu") from error
    try:
        nvrtc.getVersion()
    except Exception as error:  # how CuPy says that the library is missing depends on its version
        raise MissingPackageError("nvidia-cuda-nvrtc", purpose="compiling the CUDA kernels") from error
    return nvrtc


def _listed(archs: Sequence[int]) -> str:
    return ", ".join(f"sm_{arch}" for arch in archs)
