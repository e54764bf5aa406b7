"""Methods that do to a worker what bad luck does."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from sightline.kernels import Kernels
from sightline.runtime.attributions import Attributions
from sightline.runtime.cam import GradCAM
from sightline.runtime.method import Plan


@dataclass(frozen=True)
class Lethal(GradCAM):
    """Kills its process over every image of one class."""

    victim: int = 0

    def plan(self, attributions: Attributions, kernels: Kernels) -> Plan:
        if int(attributions.logits.argmax()) == self.victim:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().plan(attributions, kernels)


@dataclass(frozen=True)
class Interrupting(GradCAM):
    """Lets the user press Ctrl-C while an image is in hand, and stays with it."""

    def plan(self, attributions: Attributions, kernels: Kernels) -> Plan:
        os.kill(os.getppid(), signal.SIGINT)
        threading.Event().wait()
        return super().plan(attributions, kernels)


@dataclass(frozen=True)
class Fatal(GradCAM):
    """Ends every process that it is sent to."""

    def __reduce__(self) -> tuple[Callable[[int], NoReturn], tuple[int]]:
        return os._exit, (3,)
