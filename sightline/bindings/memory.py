"""Telling an exhausted device from a broken graph, which inference engines report in the same way: by their words."""

from __future__ import annotations

import re

_WORDS = (
    "failed to allocate memory",
    "out of memory",
    "out_of_memory",
    "bad_alloc",
    "bad allocation",
    "cudaerrormemoryallocation",
    "cudnn_status_alloc_failed",
    "cublas_status_alloc_failed",
    "cl_mem_object_allocation_failure",
    "cl_out_of_host_memory",
    "cl_out_of_resources",
    "exceeded max size of memory",
    "smaller than requested bytes",
)
_SIZED = re.compile(r"failed to allocate \d+ bytes")
"""OpenVINO's."""


def exhausted(error: BaseException) -> bool:
    """Whether an engine's error means that the device has no room, so that a smaller batch may do."""
    if isinstance(error, MemoryError):  # CuPy's OutOfMemoryError is one
        return True
    said = str(error).lower()
    return any(words in said for words in _WORDS) or _SIZED.search(said) is not None
