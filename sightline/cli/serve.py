"""``sightline serve``: explanations over HTTP."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from sightline.cli.explain import seconds
from sightline.cli.method import METHODS, chosen, positive
from sightline.cli.method import add_arguments as add_method_arguments
from sightline.errors import MissingPackageError

NAME = "serve"
HELP = "answer over HTTP, by KServe's conventions"
DESCRIPTION = """\
Serve bundles over HTTP (docs/serving.md): each is a model, named after its folder. A model's requests are answered by
one explainer, in order, their masks packed into the same batches; a bundle that changes on disk is replaced while it
serves. Stops gently on SIGTERM or Ctrl+C: what was begun is finished. Logs one JSON object a line to stderr."""
EXAMPLES = """\
examples:
  sightline serve steel.sightline
  sightline serve steel.sightline weld.sightline --host 0.0.0.0 --port 80 --api-key-file keys.txt
  sightline serve steel.sightline --method sise --mu 0.3 --queue 16 --deadline 2 --methods sise,grad-cam
  sightline serve steel.sightline --engine openvino --precision bf16 --batch-size 16"""
LEVELS = ("debug", "info", "warning", "error")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("bundles", metavar="BUNDLE", type=Path, nargs="+", help="made by 'sightline export'")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1: this machine only)"
    )
    parser.add_argument("--port", metavar="N", type=_port, default=8080, help="default 8080; 0 for any that is free")
    add_method_arguments(parser)
    parser.add_argument(
        "--methods", metavar="NAME,…", type=_methods, default=METHODS, help="that requests may name (default: all)"
    )
    parser.add_argument(
        "--queue",
        metavar="N",
        type=positive,
        default=64,
        help="images of a model that may wait; past it 429 (default 64)",
    )
    parser.add_argument(
        "--max-bytes", metavar="N", type=positive, default=16 * 2**20, help="of a request (default 16777216)"
    )
    parser.add_argument(
        "--max-pixels", metavar="N", type=positive, default=25_000_000, help="of an image (default 25000000)"
    )
    parser.add_argument(
        "--deadline",
        metavar="SECONDS",
        type=seconds,
        help="from the arrival of a request: the default, and the most that one may name (default: none)",
    )
    parser.add_argument(
        "--api-key-file",
        metavar="FILE",
        type=Path,
        help="keys, one in a line, of which a request must bring one (default: SIGHTLINE_API_KEY, or none)",
    )
    parser.add_argument(
        "--grace",
        metavar="SECONDS",
        type=seconds,
        default=30.0,
        help="in which what was begun has to end once the server is told to stop (default 30)",
    )
    parser.add_argument(
        "--no-reload", action="store_true", help="do not look for changed bundles; POST …/load still reads one again"
    )
    parser.add_argument("--log-level", choices=LEVELS, default="info", help="default info: a line for every request")


def run(arguments: argparse.Namespace) -> int:
    """Serve until a signal comes."""
    try:
        from sightline.serving import keys, logs
        from sightline.serving.limits import Limits
        from sightline.serving.models import Choices
        from sightline.serving.server import LOOK, Server
    except ModuleNotFoundError as error:
        raise MissingPackageError(error.name or "", purpose="sightline serve", extra="serve") from error
    method = chosen(arguments)
    choices = Choices(
        method,
        arguments.methods,
        arguments.engine,
        arguments.precision,
        arguments.batch_size,
        arguments.threads,
    )
    limits = Limits(arguments.queue, arguments.max_bytes, arguments.max_pixels, arguments.deadline)
    known = keys.from_file(arguments.api_key_file)
    logs.install("debug" if arguments.verbose else arguments.log_level)
    server = Server(
        arguments.bundles,
        host=arguments.host,
        port=arguments.port,
        choices=choices,
        limits=limits,
        keys=known,
        grace=arguments.grace,
        look=None if arguments.no_reload else LOOK,
    )

    def opened() -> None:
        host, port = server.address
        names = ", ".join(model.name for model in server.registry)
        print(f"serving {names} on http://{f'[{host}]' if ':' in host else host}:{port}", flush=True)
        if not known and host not in ("127.0.0.1", "::1"):
            print(f"sightline: warning: {host} is open to whoever reaches it: use --api-key-file", file=sys.stderr)

    server.run(opened)
    return 0


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port from 0 to 65535")
    return int(text)


def _methods(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    if unknown := [name for name in names if name not in METHODS]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(METHODS)}")
    return names
