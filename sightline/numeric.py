"""Numbers that callers pass: Python's, or NumPy's, as a sweep over an array has them."""

from __future__ import annotations

import math
import operator
from numbers import Real

from sightline.errors import SightlineError


def whole(name: str, value: object, error: type[SightlineError], least: int = 1) -> int:
    """A whole number as Python's.

    Args:
        name: what the caller knows it by.
        value: what was passed.
        error: what to raise.
        least: the smallest one that will do.

    Raises:
        SightlineError: of the given type, where it is none, or too small.
    """
    number = _index(value)
    if number is None or number < least:
        raise error(f"{name}={value!r} is out of range: choose a whole number from {least}.")
    return number


def whole_or_none(name: str, value: object, error: type[SightlineError]) -> int | None:
    """A whole number from 1, or None.

    Raises:
        SightlineError: of the given type, where it is neither.
    """
    number = _index(value)
    if value is not None and (number is None or number < 1):
        raise error(f"{name}={value!r} is out of range: choose a whole number from 1, or None.")
    return number


def real(value: object) -> float:
    """A number as Python's; NaN where it is none, so that no range holds it."""
    try:
        return float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    except OverflowError:  # an integer beyond all floats
        return math.inf


def _index(value: object) -> int | None:
    try:
        return None if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return None
