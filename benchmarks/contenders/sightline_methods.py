"""Sightline: SISE on each of its CPU engines, and RISE and Score-CAM with as many passes as the peers'."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .contender import RISE_CELLS, RISE_KEPT, Case, Contender, Counter, Map, Opened, UnavailableError
from .counting import count_calls

if TYPE_CHECKING:
    from sightline.bindings.engine import Precision


def opener(method: str, engine: str, precision: Precision) -> Callable[[Case], Opened]:
    def open_sightline(case: Case) -> Opened:
        import sightline

        _settle(method, engine, precision, case)
        counter, sent = Counter(), Counter()
        _count_engine(engine, sent)
        explainer = sightline.Explainer(
            case.bundle,
            _method(method, case),
            engine,
            precision=precision,
            threads=case.threads,
            progress=_progress(counter),
        )
        image = case.image

        def explain() -> Map:
            sent.take()
            explanation = explainer(image, case.target)
            if counter.passes != explanation.passes or sent.take() * explainer.batch_size < explanation.passes:
                raise AssertionError("fewer masks went through the engine than were reported")
            return np.asarray(explanation.saliency)

        return Opened(explain, counter, _stands_on(engine, precision))

    return open_sightline


def _stands_on(engine: str, precision: Precision) -> str:
    """The raw engine."""
    package = engine.split("-")[0]
    return f"{package} {precision}" if package == "openvino" else package


def _method(name: str, case: Case) -> Any:
    import sightline
    from sightline.runtime.explainer import METHODS

    if name == "sise":
        return sightline.SISE(mu=case.mu)
    chosen: Any = METHODS[name]
    if name == "rise":
        return chosen(passes=case.passes, cells=RISE_CELLS, share=RISE_KEPT, seed=case.seed)
    return chosen()


def _settle(method: str, engine: str, precision: Precision, case: Case) -> None:
    """Have the batch size measured and a lower precision accepted, as users have it once on their machine: in a process
    of its own, because what that takes is no part of an explanation. Nothing is refused; how well the maps agree is a
    figure of the record.
    """
    refusal = case.folder / f"{method} {engine} {precision}.txt"
    if not refusal.exists():
        settling = multiprocessing.get_context("spawn").Process(
            target=_settle_here, args=(method, engine, precision, case, refusal)
        )
        settling.start()
        settling.join()
    if said := refusal.read_text(encoding="utf-8"):
        raise UnavailableError(said)


def _settle_here(method: str, engine: str, precision: Precision, case: Case, refusal: Path) -> None:
    import sightline
    from sightline.errors import SightlineError

    gate: dict[str, Any] = {} if precision == "fp32" else {"gate": [case.image], "gate_threshold": 0.0}
    said = ""
    try:
        sightline.Explainer(
            case.bundle, _method(method, case), engine, precision=precision, threads=case.threads, **gate
        ).close()
    except SightlineError as error:
        said = str(error)
    refusal.write_text(said, encoding="utf-8")


def _progress(counter: Counter) -> Callable[[int, int], None]:
    """Count masks as they are scored. Padding is no mask, and counts against Sightline's time per pass."""

    def advanced(done: int, _total: int) -> None:
        counter.passes = done

    return advanced


def _count_engine(engine: str, sent: Counter) -> None:
    """Count the calls of the engine's own package, beneath Sightline."""
    if engine == "openvino":
        import openvino

        for name in ("infer", "start_async"):
            count_calls(openvino.InferRequest, name, sent, lambda *_, **__: 1)
    elif engine == "torch":
        import torch

        torch.nn.modules.module.register_module_forward_pre_hook(
            lambda module, _inputs: sent.add(isinstance(module, torch.fx.GraphModule))
        )
    else:
        import onnxruntime

        count_calls(onnxruntime.InferenceSession, "run_with_iobinding", sent, lambda *_, **__: 1)


def _contender(title: str, method: str, engine: str, precision: Precision, settings: str) -> Contender:
    return Contender(
        f"Sightline {title} ({_stands_on(engine, precision)})",
        ("sightline.runtime.explainer", engine.split("-")[0]),
        f"the batch size that it measures, {settings}",
        opener(method, engine, precision),
    )


_ENGINES: tuple[tuple[str, Precision], ...] = (
    ("onnxruntime-cpu", "fp32"),
    ("openvino", "fp32"),
    ("openvino", "bf16"),
    ("torch", "fp32"),
)
CONTENDERS = tuple(
    _contender(title, method, engine, precision, settings)
    for title, method, settings in (
        ("SISE", "sise", "all blocks"),
        ("Score-CAM", "score-cam", "all maps of the last block, however many passes were asked for"),
        ("RISE", "rise", "seeded"),
    )
    for engine, precision in _ENGINES
)
