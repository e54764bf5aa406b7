"""What a rule is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from sightline.exporter.builder import Term
from sightline.exporter.gradient import Step

Gradients: TypeAlias = Term | Mapping[int, Term]
Rule: TypeAlias = Callable[[Step], Gradients]
