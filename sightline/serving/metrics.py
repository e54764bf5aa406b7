"""What a server counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """The counters of one server. Labels hold only what the server itself names: no client can make new ones."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        self.requests = Counter(
            "sightline_requests", "Requests answered.", ("model", "verb", "status"), registry=self._registry
        )
        self.seconds = Histogram(
            "sightline_request_seconds",
            "From the arrival of a request to the last byte of its answer.",
            ("model", "verb"),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.images = Counter(
            "sightline_images", "Images explained or classified.", ("model", "method"), registry=self._registry
        )
        self.passes = Counter("sightline_passes", "Masked images scored.", ("model",), registry=self._registry)
        self.slots = Counter(
            "sightline_batch_slots",
            "Places in the batches passed: sightline_passes_total over this is how full they were.",
            ("model",),
            registry=self._registry,
        )
        self.drops = Counter(
            "sightline_drops",
            "Images not computed: the queue was full, the deadline passed, or the client had left.",
            ("model", "reason"),
            registry=self._registry,
        )
        self.loads = Counter("sightline_loads", "Bundles opened.", ("model", "outcome"), registry=self._registry)
        self.queue = Gauge("sightline_queue_length", "Images that wait.", ("model",), registry=self._registry)
        self.hand = Gauge("sightline_images_in_hand", "Images under way.", ("model",), registry=self._registry)
        self.ready = Gauge("sightline_ready", "Whether a model serves.", ("model",), registry=self._registry)
        self.held = Gauge(
            "sightline_held", "Bytes or pixels of requests in memory.", ("what",), registry=self._registry
        )

    def watch(
        self, model: str, queue: Callable[[], float], hand: Callable[[], float], ready: Callable[[], bool]
    ) -> None:
        """Read a model's gauges from it whenever they are asked for."""
        self.queue.labels(model).set_function(queue)
        self.hand.labels(model).set_function(hand)
        self.ready.labels(model).set_function(lambda: float(ready()))

    def hold(self, what: str, held: Callable[[], float]) -> None:
        """Read how much is held from a room whenever it is asked for."""
        self.held.labels(what).set_function(held)

    def text(self) -> bytes:
        """All of it, in Prometheus' format."""
        return generate_latest(self._registry)
