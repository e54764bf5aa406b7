"""Compiles CUDA C for the CPU (see cuda_host.h) and launches its kernels with CUDA's own calling convention."""

from __future__ import annotations

import ctypes
import hashlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

_HEADER = Path(__file__).with_name("cuda_host.h")
_KERNEL = re.compile(r"__global__\s+void\s+(?:__launch_bounds__\([^)]*\)[\s\\]*)?(?!__)(\w+)\s*\(")
_INSTANCE = re.compile(r"^[A-Z_]+\((\w+), [^)]*\)$", re.MULTILINE)
"""A kernel that a macro defines: NAME(kernel, …) on a line of its own, the macro calling its kernel ``name``."""

_FLAGS = ("-std=c++17", "-O2", "-fPIC", "-shared", "-ffp-contract=off", "-fno-strict-aliasing", "-U_FORTIFY_SOURCE")


def compiler() -> str | None:
    """A C++ compiler of this machine, if it has one."""
    return shutil.which("g++") or shutil.which("c++")


class HostKernel:
    """One ``__global__`` function that runs on the CPU."""

    def __init__(self, library: ctypes.CDLL, name: str) -> None:
        self.name = name
        self._launch = getattr(library, f"launch_{name}")
        self._launch.restype = ctypes.c_char_p
        sizes = (ctypes.c_int * 64)()
        self.parameters: list[int] = list(sizes[: getattr(library, f"parameters_{name}")(sizes)])
        """Bytes of every parameter; negative where it is a pointer."""

    def __call__(self, grid: Sequence[int], block: Sequence[int], shared: int, arguments: Sequence[bytes]) -> None:
        """Run the whole grid.

        Raises:
            RuntimeError: the kernel did what a GPU does not allow.
        """
        held = [ctypes.create_string_buffer(value, len(value)) for value in arguments]
        pointers = (ctypes.c_void_p * max(1, len(held)))(*(ctypes.addressof(value) for value in held))
        size = (ctypes.c_uint * 6)(*grid, *block)
        failure = self._launch(size, ctypes.c_size_t(shared), pointers)
        if failure:
            raise RuntimeError(f"{self.name}: {failure.decode()}")


@lru_cache(maxsize=8)
def compiled(source: str) -> dict[str, HostKernel]:
    """The kernels of a source, by name; compiled once per process.

    Raises:
        RuntimeError: the source does not compile.
    """
    names = [name for name in _KERNEL.findall(source) if name != "name"] + _INSTANCE.findall(source)
    entries = "\n".join(
        f'extern "C" const char* launch_{name}(const unsigned* s, size_t m, void** a) '
        f"{{ return host::launch({name}, s, m, a); }}\n"
        f'extern "C" int parameters_{name}(int* sizes) {{ return host::parameters({name}, sizes); }}'
        for name in names
    )
    key = hashlib.sha256(f"{_HEADER.read_text()}{source}{_FLAGS}".encode()).hexdigest()[:16]
    folder = Path(tempfile.mkdtemp(prefix=f"kernels-{key}-"))
    try:
        unit, library = folder / "kernels.cpp", folder / "kernels.so"
        unit.write_text(f'#include "{_HEADER}"\n#line 1 "kernels.cu"\n{source}\n{entries}\n')
        done = subprocess.run(
            [str(compiler()), *_FLAGS, "-o", str(library), str(unit)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"the kernels do not compile for the CPU:\n{done.stderr}")
        loaded = ctypes.CDLL(str(library))
    finally:
        shutil.rmtree(folder)
    return {name: HostKernel(loaded, name) for name in names}
