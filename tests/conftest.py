"""Nothing that tests build or measure reaches the user's own cache folder; no test has a time limit; one Chromium."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING

# Hypothesis imports it when it first needs it, pytest rewrites it then, and CPython 3.11 cannot parse in two threads at
# once (gh-106905): a server's may be the other one.
import hypothesis.internal.conjecture.optimiser  # noqa: F401
import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from tests.pages.browser import Browser

# Who runs the tests in the background of a script has Ctrl-C ignored, by the children as well, and tests press it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


def pytest_collection_finish() -> None:
    """What was imported stays: no collection need look at it again, of which each would take a second."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def cache_of_the_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    before = os.environ.get("SIGHTLINE_CACHE")
    os.environ["SIGHTLINE_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["SIGHTLINE_CACHE"]
    else:
        os.environ["SIGHTLINE_CACHE"] = before


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One Chromium for all tests of pages. Where there is none they are skipped, except in CI, which installs it."""
    from tests.pages.browser import Browser, installed

    found = installed()
    if found is None:
        reason = "no chromium with its chromedriver is installed (Debian: apt-get install chromium chromium-driver)"
        if os.environ.get("SIGHTLINE_BROWSER") == "required":
            pytest.fail(reason)
        pytest.skip(reason)
    opened = Browser(*found)
    yield opened
    opened.close()
