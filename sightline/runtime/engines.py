"""Which engines an explainer opens, at which batch size, within which memory: decided before anything runs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sightline import cache
from sightline.bindings import Engine, attribution_engine, available, choose, open_engine, variant
from sightline.bindings.engine import Device, Precision, Product
from sightline.bundle import LOGITS, PROBABILITIES, Bundle
from sightline.runtime import batch_size as batch_sizes
from sightline.runtime.batching import MaskedPasses
from sightline.runtime.memo import Memo, machine
from sightline.runtime.memory_plan import MemoryPlan, memory_plan
from sightline.runtime.whole import WholePass

logger = logging.getLogger(__name__)

OpenBatch = Callable[[int], Engine]
"""Opens an engine with the bundle's classifier at a batch size: its inputs and outputs, by their names."""

_BATCH_SIZES = Memo("batch-size")


@dataclass(frozen=True, eq=False)
class Engines:
    """The engines of an explainer."""

    attribution: Engine
    passes: MaskedPasses
    whole: WholePass | None
    """For images that are only classified; None on a GPU, where an engine may take minutes to build."""
    plan: MemoryPlan
    facts: Mapping[str, Any] | None
    """What measurements of these engines depend on; None for an engine of the caller's own, which nobody can tell from
    another one."""

    def close(self) -> None:
        """Free them all."""
        self.attribution.close()
        self.passes.close()
        if self.whole is not None:
            self.whole.close()


def open_engines(
    bundle: Bundle,
    engine: str | OpenBatch,
    precision: Precision,
    batch_size: int | None,
    threads: int | None,
) -> Engines:
    """Open the attribution pass, in float32, and the classifier, at a batch size that fits and is fast.

    Args:
        bundle: what to open.
        engine: a name, ``auto``, or a function that opens an engine of the caller's own.
        precision: of the masked passes.
        batch_size: None to take the fastest one: measured once, then kept in the cache folder.
        threads: how many CPU threads a pass may use.

    Raises:
        EngineError, MissingPackageError, PrecisionError: as :func:`sightline.bindings.open_engine`.
        OutOfMemoryError: not even a batch of one fits.
    """
    spec = bundle.input
    channels_last = spec.layout == "NHWC"
    shape = (spec.height, spec.width, spec.channels) if channels_last else spec.shape
    mask = (spec.height, spec.width, 1) if channels_last else (1, spec.height, spec.width)
    named = isinstance(engine, str)
    if isinstance(engine, str):
        chosen = choose(engine, variants=bundle.variants, precision=precision)
    else:  # beside an engine of the caller's own, the attribution pass runs on the fastest one that there is
        chosen = choose("auto", variants=("fp32",), precision="fp32")
    folder = cache.folder() / bundle.hash[:16]

    def open_named(size: int) -> Engine:
        return open_engine(
            bundle.graph(variant(chosen, precision)),
            chosen,
            shapes={spec.name: (size, *shape)},
            outputs=[LOGITS, PROBABILITIES],
            threads=threads,
            precision=precision,
            cache=folder,
            product=Product(spec.name, (size, *mask)),
        )

    open_batch = open_named if isinstance(engine, str) else engine
    device, version = _installed(chosen) if named else _probed(open_batch)
    beside = attribution_engine(chosen)
    plan = memory_plan(bundle, device, precision, shared=_installed(beside)[0] == device)
    logger.info("memory plan: %s", plan)

    def open_one() -> Engine:
        return open_engine(
            bundle.classifier,
            beside,
            shapes={spec.name: (1, *shape)},
            outputs=[LOGITS, PROBABILITIES],
            threads=threads,
            cache=folder,
        )

    whole = WholePass(bundle, open_one) if _installed(beside)[0] == "cpu" else None
    attribution = open_engine(
        bundle.attribution,
        beside,
        shapes={spec.name: (1, *shape)},
        threads=threads,
        cache=folder,
    )
    try:
        facts = None
        if named:
            facts = {
                "bundle": bundle.hash,
                "engine": chosen,
                "version": version,
                "precision": precision,
                "threads": threads,
                "machine": machine(device),
            }
        if batch_size is None:
            candidates = batch_sizes.CANDIDATES[device]
            batch_size = _measured(open_batch, plan, candidates, spec.name, facts)
        elif batch_size > plan.largest_batch:
            logger.warning("a batch of %d may not fit: %s", batch_size, plan)
        return Engines(attribution, MaskedPasses(open_batch, batch_size, spec.name), whole, plan, facts)
    except BaseException:
        attribution.close()
        raise


def _installed(name: str) -> tuple[Device, str | None]:
    """Device and version of an engine in the table."""
    return next((entry.device, entry.version) for entry in available() if entry.name == name)


def _probed(open_batch: OpenBatch) -> tuple[Device, str | None]:
    """The device of an engine that only its opener knows."""
    with open_batch(1) as engine:
        return engine.device, None


def _measured(
    open_batch: OpenBatch,
    plan: MemoryPlan,
    candidates: tuple[int, ...],
    image: str,
    facts: Mapping[str, Any] | None,
) -> int:
    if facts is not None and (kept := _BATCH_SIZES.recall(facts)):
        size = int(kept["batch_size"])
        if size <= plan.largest_batch:
            logger.info("batch size %d, measured before on this machine", size)
            return size
    logger.info("measuring the batch size, once for this network, engine and machine")
    size, seconds = batch_sizes.measured(open_batch, batch_sizes.fitting(candidates, plan.largest_batch), image)
    table = ", ".join(f"{count}: {1000 * time:.2f} ms" for count, time in seconds.items())
    logger.info("batch size %d (per image at %s)", size, table)
    if facts is not None:
        _BATCH_SIZES.keep(facts, {"batch_size": size, "seconds_per_image": {str(n): t for n, t in seconds.items()}})
    return size
