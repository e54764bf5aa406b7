"""The progress bar: on a terminal only, and out of the way of what is printed."""

from __future__ import annotations

import io
import sys

import pytest

from sightline.cli.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def explain_two_images() -> None:
    with Progress() as progress:
        for name in ("first.png", "second.png"):
            progress.image(name)
            for done in range(8, 81, 8):
                progress(done, 80)
            progress.say(f"{name} done")


def test_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    explain_two_images()
    assert "first.png:   0%" in terminal.getvalue()
    assert "second.png:   0%" in terminal.getvalue()
    assert capsys.readouterr().out == "first.png done\nsecond.png done\n"


def test_in_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    explain_two_images()
    assert capsys.readouterr().err == ""
