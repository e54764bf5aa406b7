"""Measuring what explaining costs: the kernels alone, the engine alone, and whole explanations held against both."""

from __future__ import annotations

from sightline.bench.end_to_end import end_to_end
from sightline.bench.forward import forward
from sightline.bench.kernel import kernel
from sightline.bench.report import Report, Spread

__all__ = ["Report", "Spread", "end_to_end", "forward", "kernel"]
