"""One Chromium for all tests of pages. Where there is none they are skipped, except in CI, which installs it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.pages.browser import Browser, installed


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    found = installed()
    if found is None:
        reason = "no chromium with its chromedriver is installed (Debian: apt-get install chromium chromium-driver)"
        if os.environ.get("SIGHTLINE_BROWSER") == "required":
            pytest.fail(reason)
        pytest.skip(reason)
    opened = Browser(*found)
    yield opened
    opened.close()
