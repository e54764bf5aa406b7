"""``sightline``: the parser, and what becomes of errors.

Exit codes: 0 done, 1 an error that is shown as one line, 2 a wrong command line, 130 interrupted.
"""

from __future__ import annotations

import argparse
import codecs
import io
import json
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import cast

from sightline import __version__
from sightline.cli import (
    bench,
    build,
    build_kernels,
    decompose,
    demo,
    doctor,
    evaluate,
    explain,
    explain_set,
    export,
    features,
    inspect,
    serve,
    stream,
)
from sightline.errors import SightlineError

_COMMANDS = (
    *(export, inspect, build, explain, explain_set, stream, serve, decompose, features, evaluate),
    *(bench, demo, doctor, build_kernels),
)
_ESCAPED = "sightline-escaped"
"""The name of the error handler :func:`_escaped`."""
_EXAMPLES = """\
examples:
  sightline demo                                     explain the packaged images, write pictures
  sightline export model.onnx steel.sightline        an ONNX file becomes a bundle
  sightline explain steel.sightline part.png         why did the network decide so?
  sightline doctor                                   what is installed, what is missing

'sightline COMMAND --help' shows the options of a command."""


def parser() -> argparse.ArgumentParser:
    """The whole command line. Building it imports nothing beyond the standard library and numpy."""
    top = argparse.ArgumentParser(
        prog="sightline",
        description="Any CNN, explained at the speed of its own inference engine.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"sightline {__version__}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in _COMMANDS:
        subparser = commands.add_parser(
            command.NAME,
            help=command.HELP,
            description=command.DESCRIPTION,
            epilog=command.EXAMPLES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(subparser)
        subparser.add_argument(
            "-v", "--verbose", action="store_true", help="log what is done, and show where an error comes from"
        )
        subparser.set_defaults(run=command.run, usage_error=subparser.error)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    try:
        _open_output()
        arguments = parser().parse_args(argv)
        with _logging(verbose=arguments.verbose):
            return _run(arguments)
    except KeyboardInterrupt:
        print("sightline: interrupted", file=sys.stderr)
        return 130


def _run(arguments: argparse.Namespace) -> int:
    try:
        code = cast(int, arguments.run(arguments))
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The reader of a pipe ('| head') is gone. Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (SightlineError, OSError) as error:
        logging.getLogger("sightline").debug("the error comes from here", exc_info=True)
        print(f"sightline: error: {error}", file=sys.stderr)
        return 1


def _open_output() -> None:
    """Have stdout and stderr take whatever is said: what their encoding lacks is escaped, what is closed drops it."""
    codecs.register_error(_ESCAPED, _escaped)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 (open to the end)
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_ESCAPED)


def _escaped(error: UnicodeError) -> tuple[str, int]:
    """Escape what an encoding lacks as JSON does: JSON stays JSON on every terminal."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


@contextmanager
def _logging(*, verbose: bool) -> Iterator[None]:
    """Show the library's warnings, or all it has to say, on stderr while a command runs."""
    logger = logging.getLogger("sightline")
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("sightline: %(levelname)s: %(message)s"))
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG if verbose else logging.WARNING)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
