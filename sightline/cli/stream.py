"""``sightline stream``: frames from a folder, a video or a camera, explained as they come."""

from __future__ import annotations

import argparse
import json
import math
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from sightline.cli.explain import formats, plain, seconds, short
from sightline.cli.method import add_arguments as add_method_arguments
from sightline.cli.method import chosen, opened, positive

if TYPE_CHECKING:
    from sightline import Bundle, FrameResult, Prediction, Stream
    from sightline.cli.live_line import LiveLine
    from sightline.runtime.stream_statistics import Latency, StreamStatistics

NAME = "stream"
HELP = "explain frames as they come from a folder, a video or a camera, within a deadline"
DESCRIPTION = """\
Explain what the network in a bundle decides about frames as they come, in order: those that --only and --below want
explained, each within its deadline. SOURCE is a folder of pictures, a quoted pattern, a picture, a video, the number of
a camera (0) or its address (rtsp://…). Writes one picture for every frame explained, named NUMBER-NAME.METHOD.png, and
says how it went at the end. A frame that cannot be read does not stop the others; the exit code is then 1. Ctrl-C ends
the stream at once; SIGTERM lets it finish what has arrived."""
EXAMPLES = """\
examples:
  sightline stream steel.sightline line/ -o out/ --deadline 0.2
  sightline stream steel.sightline 'line/**/*.png' --only crack,pit --below 0.9 --json > results.jsonl
  sightline stream steel.sightline line.mp4 --rate 10 --preset speed --save png,npz
  sightline stream steel.sightline 0 --deadline 0.2 --when-full drop-oldest --save none
  sightline stream steel.sightline rtsp://hall-2/camera-1 --deadline 0.5"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="made by 'sightline export'")
    parser.add_argument("source", metavar="SOURCE", help="folder, 'pattern', picture, video, camera number or address")
    parser.add_argument("--rate", metavar="N", type=_rate, help="read at most so many frames per second")
    parser.add_argument(
        "--only", metavar="CLASS,…", help="explain only frames for which one of these is predicted, by label or index"
    )
    parser.add_argument(
        "--below", metavar="P", type=_share, help="explain only frames whose predicted class has less than this, 0 to 1"
    )
    parser.add_argument(
        "--target",
        metavar="CLASS",
        action="append",
        help="index or label to explain (default: what was predicted); again for several",
    )
    add_method_arguments(parser)
    parser.add_argument(
        "--deadline",
        metavar="SECONDS",
        type=seconds,
        help="begin no batch of masks later than this after a frame's arrival, its time in the queue included (after "
        "its turn has come, of files without --rate)",
    )
    parser.add_argument("--max-passes", metavar="N", type=positive, help="score at most so many masks of a frame")
    parser.add_argument("--queue", metavar="N", type=positive, default=4, help="frames that may wait (default 4)")
    parser.add_argument(
        "--when-full",
        choices=("wait", "drop-oldest"),
        help="let the source wait (default; a camera loses frames meanwhile unseen), or drop the frame that has waited "
        "longest (default of a camera) and count it",
    )
    parser.add_argument(
        "-o", "--output", metavar="FOLDER", type=Path, default=Path("explanations"), help="default: explanations/"
    )
    parser.add_argument(
        "--save", metavar="KIND,…", type=_formats, default=("png",), help="any of png (default), npz, json; or none"
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print one JSON object for every frame, and one with the statistics at the end, instead of lines of text",
    )


def run(arguments: argparse.Namespace) -> int:
    """Explain frames until there are no more."""
    import sightline
    from sightline.cli.live_line import LiveLine
    from sightline.runtime.saving import make
    from sightline.serving.sources import Pictures, live, open_source

    method = chosen(arguments)
    bundle = sightline.load(arguments.bundle)
    targets = [bundle.target(target) for target in arguments.target or ()] or None
    only_if = _only_if(arguments, bundle)
    source = open_source(arguments.source, rate=arguments.rate)
    inner = getattr(source, "source", source)
    first = inner.paths if isinstance(inner, Pictures) else []
    lively = live(source)
    with opened(bundle, method, arguments, first, lambda done, total: None) as explainer:
        if arguments.save:
            make(arguments.output)
        stream = explainer.stream(
            source,
            deadline=arguments.deadline,
            only_if=only_if,
            target=targets,
            max_passes=arguments.max_passes,
            queue=arguments.queue,
            when_full=arguments.when_full or ("drop-oldest" if lively else "wait"),
            counts_from="arrival" if lively or arguments.rate else "turn",
            encode=lambda result: _save(result, arguments),
        )
        with LiveLine() as line, _finishing_on_sigterm(stream):
            try:
                with stream:
                    for result in stream:
                        _tell(result, arguments, line)
                        line.show(_state(stream.statistics))
            finally:
                _conclude(stream.statistics, arguments, line)
    return 1 if stream.statistics.failed else 0


def _only_if(arguments: argparse.Namespace, bundle: Bundle) -> Callable[[Prediction], bool] | None:
    if arguments.only is None and arguments.below is None:
        return None
    wanted = None
    if arguments.only is not None:
        wanted = {bundle.target(name.strip()) for name in arguments.only.split(",") if name.strip()}
        if not wanted:
            arguments.usage_error("--only names no class")
    below = math.inf if arguments.below is None else arguments.below
    return lambda prediction: (wanted is None or prediction.target in wanted) and prediction.score < below


def _save(result: FrameResult, arguments: argparse.Namespace) -> list[str]:
    """Write the explanations of a frame; runs on a thread of its own."""
    written = []
    # Numbered, so that no name is taken twice however long the stream runs.
    stem = f"{result.number:06d}-{plain(short(Path(result.name).stem or result.name))}.{arguments.method}"
    for explanation in result.explanations:
        several = f".{explanation.target}-{plain(explanation.label)}" if len(result.explanations) > 1 else ""
        for kind in arguments.save:
            file = arguments.output / f"{stem}{several}.{kind}"
            explanation.save(file)
            written.append(str(file))
    return written


def _tell(result: FrameResult, arguments: argparse.Namespace, line: LiveLine) -> None:
    if arguments.json:
        line.say(json.dumps(_facts(result), ensure_ascii=False, allow_nan=False))
        if result.error is not None:
            line.say(f"sightline: error: {_failure(result)}", error=True)
        return
    if result.dropped:
        gone = f"{result.number - result.dropped}"
        gone += f" to {result.number - 1}" if result.dropped > 1 else ""
        line.say(f"sightline: frames dropped: {gone}", error=True)
    if result.error is not None:
        line.say(f"sightline: error: {_failure(result)}", error=True)
    for explanation in result.explanations:
        cost = f"{explanation.passes} passes, {result.latency:.2f} s after it came"
        if explanation.completeness < 1:
            cost += f", {explanation.completeness:.0%} complete"
        line.say(f"{result.number} {result.name}: {explanation.label} {explanation.score:.3f}, {cost}")


def _failure(result: FrameResult) -> str:
    named = result.name in str(result.error)
    return f"frame {result.number}: " + ("" if named else f"{result.name}: ") + str(result.error)


def _facts(result: FrameResult) -> dict[str, Any]:
    """A frame, in types that JSON knows."""
    prediction = result.prediction
    return {
        "frame": result.number,
        "name": result.name,
        "time": result.time,
        "state": result.state,
        "dropped_before": result.dropped,
        "prediction": prediction
        and {"target": prediction.target, "label": prediction.label, "score": prediction.score},
        "waited": result.waited,
        "latency": result.latency,
        "overrun": result.overrun,
        "written": result.encoded or [],
        "error": None if result.error is None else str(result.error),
        "explanations": [explanation.facts() for explanation in result.explanations],
    }


def _state(facts: StreamStatistics) -> str:
    """The line that is always there."""
    parts = [f"{facts.frames} frames", f"{facts.explained} explained", f"{facts.waiting['decode']} waiting"]
    parts += [f"{facts.dropped} dropped"] if facts.dropped else []
    parts += [f"{facts.failed} failed"] if facts.failed else []
    parts += [f"{facts.rate:.1f}/s"]
    return ", ".join(parts + ([f"half within {facts.latency.p50:.2f} s"] if facts.latency.count else []))


def _conclude(facts: StreamStatistics, arguments: argparse.Namespace, line: LiveLine) -> None:
    """How it went: on stderr, or as the last JSON object."""
    if arguments.json:
        line.say(json.dumps({"statistics": facts.facts()}, allow_nan=False))
        return
    line.say(
        f"\n{facts.frames} frames in {facts.seconds:.1f} s: {facts.explained} explained, {facts.skipped} not wanted, "
        f"{facts.failed} failed, {facts.dropped} dropped",
        error=True,
    )
    for what, latency in (("classified", facts.predicted), ("explained", facts.latency)):
        if latency.count:
            line.say(f"seconds from arrival until {what}: {_percentiles(latency)}", error=True)
    if facts.completeness is not None:
        line.say(f"completeness: {facts.completeness:.1%} on average", error=True)
    if arguments.deadline is not None:
        line.say(
            f"past the deadline of {arguments.deadline:g} s: {facts.overruns} frames, by at most "
            f"{facts.worst_overrun:.3f} s",
            error=True,
        )


def _percentiles(latency: Latency) -> str:
    return (
        f"half within {latency.p50:.3f}, 90 % within {latency.p90:.3f}, 99 % within {latency.p99:.3f}, "
        f"all within {latency.largest:.3f}"
    )


@contextmanager
def _finishing_on_sigterm(stream: Stream) -> Iterator[None]:
    """A service that is told to end reads no more, and finishes what has arrived."""

    def finish(number: int, frame: FrameType | None) -> None:
        stream.finish()

    before = signal.signal(signal.SIGTERM, finish)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _formats(text: str) -> tuple[str, ...]:
    return () if text.strip().lower() == "none" else formats(text)


def _rate(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of frames per second above 0")
    return value


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0 and up to 1")
    return value
