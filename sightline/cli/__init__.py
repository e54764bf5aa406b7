"""The command line: one file per command, each of which imports what it needs only when it runs."""

from sightline.cli.main import main

__all__ = ["main"]
