"""The tools of other languages: where they are, or why a test is skipped."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

EMBED = Path(__file__).parents[2] / "embed"


def skip(reason: str) -> None:
    """Skip the test; where the tools are required (in CI), fail it."""
    if os.environ.get("SIGHTLINE_EMBED") == "required":
        pytest.fail(f"{reason}, and SIGHTLINE_EMBED says that it must be there")
    pytest.skip(reason)


def tool(name: str) -> str:
    """The path of a program."""
    found = shutil.which(name)
    if not found:
        skip(f"there is no {name}")
    assert found
    return found


def run(*words: str | Path, fails: bool = False, environment: Mapping[str, str] | None = None) -> str:
    """What a program says: on stdout, or on stderr where it has to fail."""
    done = subprocess.run(
        [str(word) for word in words],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
    )
    assert (done.returncode != 0) == fails, f"{words[0]} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stderr if fails else done.stdout
