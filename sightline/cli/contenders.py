"""Methods with parameters as words of a command line: ``sise:mu=0.3,rise:passes=1000:seed=1``."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Any

from sightline.cli.method import MOST_PASSES
from sightline.errors import MethodError

if TYPE_CHECKING:
    from sightline.metrics.evaluation import Contender

BUDGET = "max_passes"
"""A parameter that every method takes: it is the explainer's."""


def parse(text: str) -> list[Contender]:
    """Methods separated by commas, their parameters by colons.

    Raises:
        MethodError: there is no such method or parameter, a value is out of range, or a method comes twice.
    """
    found: dict[str, Contender] = {}
    for word in filter(None, (word.strip() for word in text.split(","))):
        if word in found:
            raise MethodError(f"the method {word!r} comes twice: name it once.")
        found[word] = _contender(word)
    if not found:
        raise MethodError("no method was named.")
    return list(found.values())


def _contender(word: str) -> Contender:
    from sightline.metrics.evaluation import Contender
    from sightline.runtime.explainer import METHODS

    name, *given = word.split(":")
    if name not in METHODS:
        raise MethodError(f"there is no method {name!r}: choose of {', '.join(METHODS)}.")
    defaults = {
        field.name: field.default for field in fields(METHODS[name]()) if field.init and field.default is not MISSING
    }
    parameters: dict[str, Any] = {}
    for part in given:
        parameter, equals, value = part.partition("=")
        if not equals or parameter not in {*defaults, BUDGET}:
            known = ", ".join(f"{known}=…" for known in (*defaults, BUDGET))
            raise MethodError(f"{part!r} is no parameter of {name}: choose of {known}.")
        if parameter in parameters:
            raise MethodError(f"{parameter} comes twice in {word!r}: give it once.")
        parameters[parameter] = _value(value, 0 if parameter == BUDGET else defaults[parameter], part)
    budget = parameters.pop(BUDGET, None)
    if budget is not None and budget < 1:
        raise MethodError(f"{BUDGET}={budget} is out of range: choose a whole number from 1.")
    if parameters.get("passes", 0) > MOST_PASSES:
        raise MethodError(f"passes={parameters['passes']} is out of range: choose at most {MOST_PASSES}.")
    return Contender(word, METHODS[name](**parameters), budget)


def _value(text: str, default: object, part: str) -> object:
    """The text as the type of the default."""
    try:
        if isinstance(default, bool):
            return {"true": True, "false": False}[text.lower()]
        if isinstance(default, int):
            return int(text)
        if isinstance(default, float):
            return float(text)
    except (KeyError, ValueError) as error:
        raise MethodError(f"{part!r} needs {'true or false' if isinstance(default, bool) else 'a number'}.") from error
    return text
