"""Prometheus metrics in a registry of their own, so that several apps in one process don't mix."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
BATCH_SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64)
STAGES = ("decode", "queue", "inference", "postprocess")

MEDIA_TYPE = CONTENT_TYPE_LATEST

disable_created_metrics()  # type: ignore[no-untyped-call]  # a `_created` series for every counter would double the scrape


class Metrics:
    """What the server counts. Called on the event loop only."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "maskserve_requests",
            "Requests answered, by route template and status; 499 is a client that left before its answer.",
            ("route", "status"),
            registry=self.registry,
        )
        self._request_seconds = Histogram(
            "maskserve_request_seconds",
            "From the request's head to the end of its answer.",
            ("route",),
            buckets=SECONDS,
            registry=self.registry,
        )
        self._stage_seconds = Histogram(
            "maskserve_stage_seconds",
            "Time of one image in each stage of a prediction; queue is all its waiting.",
            ("stage",),
            buckets=SECONDS,
            registry=self.registry,
        )
        self._batch_size = Histogram(
            "maskserve_batch_size",
            "Images that shared a run of the network.",
            buckets=BATCH_SIZES,
            registry=self.registry,
        )
        self._detections = Counter(
            "maskserve_detections", "Detections answered.", ("model", "label"), registry=self.registry
        )
        self._queue_depth = Gauge(
            "maskserve_queue_depth", "Images decoded and waiting for the network.", registry=self.registry
        )
        self._in_flight = Gauge(
            "maskserve_requests_in_flight", "Requests accepted and not yet answered.", registry=self.registry
        )
        self._model_info = Gauge(
            "maskserve_model_info",
            "1 for every model that is served.",
            ("name", "version", "engine", "device"),
            registry=self.registry,
        )
        ProcessCollector(registry=self.registry)
        for stage in STAGES:  # a series that is missing until first used breaks rate() in dashboards
            self._stage_seconds.labels(stage)

    def request(self, route: str, status: int, seconds: float) -> None:
        self._requests.labels(route, str(status)).inc()
        self._request_seconds.labels(route).observe(seconds)

    def stage(self, stage: str, seconds: float) -> None:
        self._stage_seconds.labels(stage).observe(seconds)

    def batch(self, size: int) -> None:
        self._batch_size.observe(size)

    def detections(self, model: str, counts: Mapping[str, int]) -> None:
        for label, count in counts.items():
            self._detections.labels(model, label).inc(count)

    def model(self, name: str, version: int, engine: str, device: str) -> None:
        self._model_info.labels(name, str(version), engine, device).set(1)

    def watch(self, queue_depth: Callable[[], int], in_flight: Callable[[], int]) -> None:
        """Read these gauges from their owners at every scrape."""
        self._queue_depth.set_function(queue_depth)
        self._in_flight.set_function(in_flight)

    def render(self) -> bytes:
        """The registry in Prometheus' text format."""
        return generate_latest(self.registry)
