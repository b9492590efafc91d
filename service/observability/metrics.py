"""Prometheus metrics in a registry of their own, so that several apps in one process don't mix."""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from service.observability.by_version import SECONDS, STAGES, ByVersion
from service.observability.record import UNMATCHED, ImageRecord, RequestRecord

CONVENTIONAL_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""The bounds that OpenTelemetry's conventions give `http.server.request.duration`."""
BATCH_SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64)
FILLS = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)
SCORES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
_SCORES = np.array(SCORES)
OUTCOMES = {408: "expired", 429: "shed", 499: "cancelled", 500: "failed", 503: "shed", 504: "expired"}
"""What happened to a request that ended with this status; the others are answers, or the client's mistakes."""

MEDIA_TYPE = CONTENT_TYPE_LATEST

# A `_created` series for every counter would double the scrape.
disable_created_metrics()  # type: ignore[no-untyped-call]  # prometheus_client leaves it untyped


@dataclass(frozen=True, slots=True)
class ServedInfo:
    """One version that is served, as the metrics show it. `newest` is the one that answers when none is named;
    `batch_limit` is what is left of it when memory was short.
    """

    name: str
    version: int
    engine: str
    precision: str
    devices: tuple[str, ...]
    newest: bool
    pinned: bool
    batch_limit: int


@dataclass(frozen=True, slots=True)
class Now:
    """The state of the moment that a scrape reads.

    `queue_depth` is by (model, priority); `stuck_threads` are those of runs that hang; `busy_seconds` and
    `memory_bytes` (used, total) by device; `answered_again` are images by (model, version, reason).
    """

    queue_depth: Mapping[tuple[str, str], int]
    oldest_wait: float
    in_flight: int
    uploads: int
    stuck_threads: int
    busy_seconds: Mapping[str, float]
    memory_bytes: Mapping[str, tuple[int, int]]
    served: tuple[ServedInfo, ...]
    answered_again: Mapping[tuple[str, str, str], int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class ScoreCounts:
    """How many scores fall between the bounds SCORES (int64 [S + 1], not cumulative), and their sum."""

    buckets: NDArray[np.int64]
    total: float

    @classmethod
    def of(cls, scores: NDArray[np.float32]) -> ScoreCounts:
        """Not for the event loop: numpy lets other threads take the interpreter, and waits until it gets it back."""
        return cls(np.bincount(np.searchsorted(_SCORES, scores), minlength=len(SCORES) + 1), float(scores.sum()))

    def __add__(self, other: ScoreCounts) -> ScoreCounts:
        return ScoreCounts(self.buckets + other.buckets, self.total + other.total)


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
            ("route", "status"),
            buckets=SECONDS,
            registry=self.registry,
        )
        self._conventional_seconds = Histogram(
            "http_server_request_duration_seconds",
            "maskserve_request_seconds by the names of OpenTelemetry's conventions (http.server.request.duration).",
            ("http_request_method", "url_scheme", "http_response_status_code", "http_route", "error_type"),
            buckets=CONVENTIONAL_SECONDS,
            registry=self.registry,
        )
        self._dropped = Counter(
            "maskserve_dropped",
            "Requests without an answer of their own, by what happened (shed, expired, cancelled, failed) and why: the "
            "problem's type, or the stage where an expired or cancelled one was.",
            ("outcome", "reason"),
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
        self._batch_fill = Histogram(
            "maskserve_batch_fill",
            "Share of the batch limit that a run of the network used.",
            buckets=FILLS,
            registry=self.registry,
        )
        self._failed_batches = Counter(
            "maskserve_failed_batches", "Runs of the network that failed.", ("model",), registry=self.registry
        )
        self._stalls = Counter(
            "maskserve_engine_stalls",
            "Runs of the network that hung, after each of which the engine was replaced.",
            ("model", "device"),
            registry=self.registry,
        )
        self._losses = Counter(
            "maskserve_engine_losses",
            "Runs of the network by which a device failed that the process cannot use again, so that it ended.",
            ("model", "device"),
            registry=self.registry,
        )
        self._loads = Counter(
            "maskserve_model_loads",
            "Versions that were loaded while serving, by whether they were served or refused.",
            ("model", "result"),
            registry=self.registry,
        )
        self._scores = _Scores()
        self.by_version = ByVersion()
        for collector in (self._scores, self.by_version):
            self.registry.register(collector)
        ProcessCollector(registry=self.registry)
        # Made now: a series that is missing until first used breaks rate() in dashboards.
        self._stages = {stage: self._stage_seconds.labels(stage) for stage in STAGES}

    def request(self, record: RequestRecord) -> None:
        """A request that is over."""
        status = str(record.status)
        self._requests.labels(record.route, status).inc()
        self._request_seconds.labels(record.route, status).observe(record.seconds)
        self._conventional_seconds.labels(
            record.known_method,
            record.scheme,
            status,
            "" if record.route == UNMATCHED else record.route,
            status if record.is_server_error else "",
        ).observe(record.seconds)
        self.by_version.request(record)
        outcome = OUTCOMES.get(record.status)
        if outcome is not None:
            by_stage = outcome == "cancelled" or record.status == 504
            self._dropped.labels(outcome, record.at if by_stage else record.problem or "unknown").inc()

    def image(self, model: str, version: int, record: ImageRecord) -> None:
        """An image that is answered."""
        stage_seconds = record.stage_seconds()
        for stage, seconds in self._stages.items():
            seconds.observe(stage_seconds.get(stage, 0.0))
        self.by_version.image(model, version, record)

    def batch(
        self, model: str, version: int, device: str, *, size: int, limit: int, seconds: float, failed: bool
    ) -> None:
        """A run of the network. `limit` is the most images that it could have had."""
        self.by_version.batch(model, version, device, size, seconds, failed)
        if failed:
            self._failed_batches.labels(model).inc()
        else:
            self._batch_size.observe(size)
            self._batch_fill.observe(size / limit)

    def stall(self, model: str, device: str) -> None:
        """A run of the network that hangs."""
        self._stalls.labels(model, device).inc()

    def loss(self, model: str, device: str) -> None:
        """A run of the network that has lost its device."""
        self._losses.labels(model, device).inc()

    def load(self, model: str, version: int, served: bool) -> None:
        if served:
            self.by_version.begin(model, version)
        self._loads.labels(model, "served" if served else "refused").inc()

    def scores(self, model: str, counts: Iterable[tuple[str, ScoreCounts]]) -> None:
        """Of the detections in an image at the model's own thresholds, by label."""
        self._scores.images[model] += 1
        for label, of_label in counts:
            self._scores.add(model, label, of_label)

    def watch(self, now: Callable[[], Now]) -> None:
        """Read the state of the moment at every scrape."""
        self.registry.register(_Gauges(now))
        self.by_version.served = lambda: {(one.name, one.version) for one in now().served}

    def render(self) -> bytes:
        """The registry in Prometheus' text format."""
        return generate_latest(self.registry)


class _Scores(Collector):
    """Detections and the histogram of their scores by model and label: how either drifts tells of changed images.

    Only detections above the model's own thresholds, and only images of which all of those are known, whatever the
    request asked for: a page that asks for all scores must not look like other images.

    prometheus_client's own histogram takes one value at a time, and an answer may hold hundreds.
    """

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], ScoreCounts] = {}
        self.images: Counts[str] = Counts()

    def add(self, model: str, label: str, counts: ScoreCounts) -> None:
        before = self._counts.get((model, label))
        self._counts[model, label] = counts if before is None else before + counts

    def collect(self) -> Iterable[Metric]:
        labels = ("model", "label")
        detections = CounterMetricFamily(
            "maskserve_detections", "Detections above the model's own thresholds.", labels=labels
        )
        scores = HistogramMetricFamily("maskserve_detection_score", "Scores of these detections.", labels=labels)
        images = CounterMetricFamily("maskserve_scored_images", "Images that they were found in.", labels=("model",))
        for model, count in self.images.items():
            images.add_metric((model,), count)
        for key, counts in self._counts.items():
            rising = np.cumsum(counts.buckets).tolist()
            detections.add_metric(key, rising[-1])
            bounds = [*map(str, SCORES), "+Inf"]
            scores.add_metric(key, list(zip(bounds, map(float, rising), strict=True)), counts.total)
        yield from (detections, scores, images)


class _Gauges(Collector):
    """What is read from its owners at the moment of a scrape."""

    def __init__(self, now: Callable[[], Now]) -> None:
        self._now = now

    def collect(self) -> Iterator[Metric]:
        now = self._now()
        depth = GaugeMetricFamily(
            "maskserve_queue_depth", "Images decoded and waiting for the network.", labels=("model", "priority")
        )
        for key, images in now.queue_depth.items():
            depth.add_metric(key, images)
        yield depth
        for name, text, value in (
            ("maskserve_queue_oldest_seconds", "How long the oldest of them has waited.", now.oldest_wait),
            ("maskserve_requests_in_flight", "Images accepted and not yet answered.", now.in_flight),
            ("maskserve_uploads_in_flight", "Bodies being received.", now.uploads),
            ("maskserve_stuck_threads", "Abandoned threads whose run of the network still hangs.", now.stuck_threads),
        ):
            yield GaugeMetricFamily(name, text, value)
        busy = CounterMetricFamily(
            "maskserve_engine_busy_seconds",
            "Time that a device has computed; its rate() is the share of time that it is busy.",
            labels=("device",),
        )
        for device, seconds in now.busy_seconds.items():
            busy.add_metric((device,), seconds)
        yield busy
        again = CounterMetricFamily(
            "maskserve_answered_again",
            "Images that were computed once more, in float32: a number was too large for half precision (overflow), or "
            "fixed rounds of suppression were too few (inexact).",
            labels=("model", "version", "reason"),
        )
        for version, images in now.answered_again.items():
            again.add_metric(version, images)
        yield again
        yield from _memory(now.memory_bytes)
        yield from _models(now.served)


def _memory(memory: Mapping[str, tuple[int, int]]) -> Iterator[Metric]:
    used = GaugeMetricFamily("maskserve_device_memory_used_bytes", "Memory in use, by anybody.", labels=("device",))
    total = GaugeMetricFamily("maskserve_device_memory_bytes", "Memory that the device has.", labels=("device",))
    for device, (used_bytes, total_bytes) in memory.items():
        used.add_metric((device,), used_bytes)
        total.add_metric((device,), total_bytes)
    yield from (used, total)


def _models(served: Iterable[ServedInfo]) -> Iterator[Metric]:
    info = GaugeMetricFamily(
        "maskserve_model_info",
        "1 for every version that is served; newest tells the one that answers when none is named, pinned or not.",
        labels=("name", "version", "engine", "precision", "device", "newest"),
    )
    pinned = GaugeMetricFamily(
        "maskserve_model_pinned",
        "1 for a version that answers whatever is newer, 0 for the others.",
        labels=("name", "version"),
    )
    limit = GaugeMetricFamily(
        "maskserve_batch_limit",
        "Most images in a batch; less than configured after one did not fit into the device's memory.",
        labels=("name", "version"),
    )
    for one in served:
        name, version = one.name, str(one.version)
        runs = (one.engine, one.precision, ",".join(one.devices))
        info.add_metric((name, version, *runs, str(one.newest).lower()), 1)
        pinned.add_metric((name, version), one.pinned)
        limit.add_metric((name, version), one.batch_limit)
    yield from (info, pinned, limit)
