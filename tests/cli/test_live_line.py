"""The last line of a terminal, and nothing at all elsewhere."""

from __future__ import annotations

import io
import sys

import pytest

from sightline.cli.live_line import LiveLine


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    def screen(self) -> list[str]:
        """What is to be seen: a carriage return and the code for erasing begin the line again."""
        return [line.split("\r\x1b[2K")[-1] for line in self.getvalue().split("\n")]


def on(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """In the test itself: pytest's own capture comes after fixtures."""
    found = Terminal()
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, found)
    monkeypatch.setenv("COLUMNS", "20")
    return found


def test_other_lines_pass_above_it(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on(monkeypatch)
    times = iter([0.0, 0.05, 0.2])
    with LiveLine(times.__next__) as line:
        line.say("before")
        line.show("1 frame")
        line.say("one")
        assert terminal.screen() == ["before", "one", "1 frame"]
        line.show("2 frames")
        assert terminal.screen()[-1] == "1 frame", "too soon"
        line.say("more")
        assert terminal.screen()[-1] == "2 frames"
        line.show("3 frames")
        line.say("two", error=True)
        assert terminal.screen() == ["before", "one", "more", "two", "3 frames"]
    assert terminal.screen() == ["before", "one", "more", "two", ""]


def test_it_never_breaks_into_two(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on(monkeypatch)
    with LiveLine() as line:
        line.show("x" * 50)
        assert terminal.screen() == ["x" * 19]


def test_where_there_is_no_terminal_only_the_lines_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with LiveLine() as line:
        line.show("1 frame")
        line.say("one")
        line.say("two", error=True)
        line.show("2 frames")
    said = capsys.readouterr()
    assert (said.out, said.err) == ("one\n", "two\n")
