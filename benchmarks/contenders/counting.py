"""Counts the images that go through a network, where they go through it: no parameter of a contender is believed."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .contender import Counter

if TYPE_CHECKING:
    from torch import nn


def count_module(module: nn.Module, counter: Counter) -> None:
    """Count what a torch module is called with."""
    module.register_forward_pre_hook(lambda _module, inputs: counter.add(len(inputs[0])))


def count_calls(owner: Any, method: str, counter: Counter, images: Callable[..., int]) -> None:
    """Count the calls of a method of a class or an object; ``images`` tells their size from the call's arguments."""
    original = getattr(owner, method)

    @functools.wraps(original)
    def counted(*arguments: Any, **options: Any) -> Any:
        counter.add(images(*arguments, **options))
        return original(*arguments, **options)

    setattr(owner, method, counted)
