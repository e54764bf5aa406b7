"""Sightline: SISE on each of its CPU engines, and RISE and Score-CAM with as many passes as the peers'."""

from __future__ import annotations

import inspect
import multiprocessing
from collections.abc import Callable
from typing import Any

import numpy as np

from .contender import RISE_CELLS, RISE_KEPT, Case, Contender, Counter, Map, Opened, UnavailableError
from .counting import count_calls

BATCH = 16


def opener(method: str, engine: str, precision: str) -> Callable[[Case], Opened]:
    def open_sightline(case: Case) -> Opened:
        import sightline
        from sightline.errors import SightlineError

        options: dict[str, Any] = {"batch_size": BATCH, "threads": case.threads, "engine": engine}
        if precision != "fp32":
            if "gate" not in inspect.signature(sightline.Explainer).parameters:
                raise UnavailableError("this Sightline has no precision but fp32")
            options["precision"] = precision
            _gate(method, case, options)
        counter, sent = Counter(), Counter()
        _count_engine(engine, sent)
        try:
            explainer = sightline.Explainer(case.bundle, _method(method, case), progress=_progress(counter), **options)
        except SightlineError as error:
            raise UnavailableError(str(error)) from error
        image = case.image

        def explain() -> Map:
            sent.take()
            explanation = explainer(image, case.target)
            if counter.passes != explanation.passes or sent.take() * BATCH < explanation.passes:
                raise AssertionError("fewer masks went through the engine than were reported")
            return np.asarray(explanation.saliency)

        return Opened(explain, counter, "onnxruntime" if engine == "onnxruntime-cpu" else f"{engine} {precision}")

    return open_sightline


def _method(name: str, case: Case) -> Any:
    import sightline
    from sightline.runtime.explainer import METHODS

    if name == "sise":
        return sightline.SISE(mu=case.mu)
    if name not in METHODS:
        raise UnavailableError(f"this Sightline has no {name}")
    chosen: Any = METHODS[name]
    if name == "rise":
        return chosen(passes=case.passes, cells=RISE_CELLS, share=RISE_KEPT, seed=case.seed)
    return chosen()


def _gate(name: str, case: Case, options: dict[str, Any]) -> None:
    """Have the lower precision accepted, once and in a process of its own: the float32 engine that it takes is no part
    of an explanation. Nothing is refused; how well the maps agree is a figure of the record.
    """
    from sightline.errors import SightlineError, UngatedError

    try:
        import sightline

        sightline.Explainer(case.bundle, _method(name, case), **options).close()
    except UngatedError:
        gating = multiprocessing.get_context("spawn").Process(target=_open_gated, args=(name, case, options))
        gating.start()
        gating.join()
        if gating.exitcode:
            raise UnavailableError("the gate of its precision failed") from None
    except SightlineError as error:
        raise UnavailableError(str(error)) from error


def _open_gated(name: str, case: Case, options: dict[str, Any]) -> None:
    import sightline

    explainer = sightline.Explainer(case.bundle, _method(name, case), gate=[case.image], gate_threshold=0.0, **options)
    explainer.close()


def _progress(counter: Counter) -> Callable[[int, int], None]:
    """Count masks as they are scored. Padding is no mask, and counts against Sightline's time per pass."""

    def advanced(done: int, _total: int) -> None:
        counter.passes = done

    return advanced


def _count_engine(engine: str, sent: Counter) -> None:
    """Count the calls of the engine's own package, beneath Sightline."""
    if engine == "openvino":
        try:
            import openvino
        except ImportError as error:
            raise UnavailableError("openvino is not installed") from error
        for name in ("infer", "start_async"):
            count_calls(openvino.InferRequest, name, sent, lambda *_, **__: 1)
    else:
        import onnxruntime

        count_calls(onnxruntime.InferenceSession, "run_with_iobinding", sent, lambda *_, **__: 1)


def _contender(title: str, method: str, engine: str, precision: str, settings: str) -> Contender:
    package = engine.split("-")[0]
    stands_on = package if package == "onnxruntime" else f"{package} {precision}"
    return Contender(
        f"Sightline {title} ({stands_on})",
        ("sightline.runtime.explainer", package),
        f"batch {BATCH}, {settings}",
        opener(method, engine, precision),
    )


_ENGINES = (("onnxruntime-cpu", "fp32"), ("openvino", "fp32"), ("openvino", "bf16"))
CONTENDERS = tuple(
    _contender(title, method, engine, precision, settings)
    for title, method, settings in (
        ("SISE", "sise", "all blocks"),
        ("Score-CAM", "score-cam", "all maps of the last block, however many passes were asked for"),
        ("RISE", "rise", "seeded"),
    )
    for engine, precision in _ENGINES
)
