"""``sightline build-kernels``: compile the CUDA kernels for machines that have no compiler."""

from __future__ import annotations

import argparse
from pathlib import Path

NAME = "build-kernels"
HELP = "compile the CUDA kernels ahead of time, for machines without a compiler"
DESCRIPTION = """\
Compile the CUDA kernels for one or more GPU architectures. Needs CuPy and NVRTC (pip install 'sightline[gpu]'
nvidia-cuda-nvrtc), but no GPU. A machine that explains finds the files in its own cache folder, under 'kernels', and
then needs no compiler. A file belongs to exactly this version of Sightline: build again after every upgrade."""
EXAMPLES = """\
examples:
  sightline build-kernels                            for every supported GPU, into the cache folder
  sightline build-kernels --arch 87 -o kernels       for a Jetson Orin, to be copied there"""

ARCHITECTURES = (75, 80, 87, 90, 120)  # as sightline.kernels.build has it, without importing that for a --help


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument(
        "--arch",
        metavar="N,…",
        type=_architectures,
        default=ARCHITECTURES,
        help="compute capabilities times ten: 87 is an Orin, 90 an H100 (default: 75,80,87,90,120)",
    )
    parser.add_argument(
        "-o", "--output", metavar="FOLDER", type=Path, help="where to write (default: 'kernels' in the cache folder)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Compile and say what was written."""
    from sightline.kernels.build import compile_kernels, folder

    for path in compile_kernels(arguments.arch, arguments.output or folder()):
        print(path)
    return 0


def _architectures(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part.strip().removeprefix("sm_")) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of architectures like 87,90") from None
