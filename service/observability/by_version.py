"""What each version of each model did: as metrics, and for the Open Inference Protocol's statistics."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from service.observability.record import ImageRecord, RequestRecord

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
STAGES = ("decode", "queue", "inference", "postprocess")
FORGOTTEN_SECONDS = 3600.0
"""What is served no more and did nothing for so long is no longer counted: versions come for years."""

Key = tuple[str, int]
"""Name and version."""


@dataclass(slots=True)
class Total:
    """How often something was done, and the seconds of all of it."""

    count: int = 0
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        self.count += 1
        self.seconds += seconds


@dataclass(slots=True)
class Times(Total):
    """The same with a histogram: how many fall between the bounds SECONDS, not cumulative."""

    buckets: list[int] = field(default_factory=lambda: [0] * (len(SECONDS) + 1))

    def add(self, seconds: float) -> None:
        Total.add(self, seconds)
        self.buckets[bisect_left(SECONDS, seconds)] += 1


@dataclass(slots=True, eq=False)
class Deeds:
    """What one version did. `runs` are the network's by batch size, `sizes` the images answered by the batch size of
    their run: seconds of decoding and of postprocessing. `last` is when it was last asked, in `time.time()`, and
    `since` the same in `time.monotonic()`, which nobody sets.
    """

    requests: Counter[str] = field(default_factory=Counter)
    answered: Times = field(default_factory=Times)
    failed: Total = field(default_factory=Total)
    stages: dict[str, Times] = field(default_factory=lambda: {stage: Times() for stage in STAGES})
    runs: defaultdict[int, Total] = field(default_factory=lambda: defaultdict(Total))
    sizes: defaultdict[int, tuple[Total, Total]] = field(
        default_factory=lambda: defaultdict(lambda: (Total(), Total()))
    )
    busy_seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    last: float = field(default_factory=time.time)
    since: float = field(default_factory=time.monotonic)


class ByVersion(Collector):
    """Called on the event loop only."""

    def __init__(self) -> None:
        self._deeds: defaultdict[Key, Deeds] = defaultdict(Deeds)
        self.served: Callable[[], set[Key]] = set
        """What is served now."""

    @property
    def deeds(self) -> Mapping[Key, Deeds]:
        return self._deeds

    def begin(self, model: str, version: int) -> None:
        """It is loaded: what another of this number did before is not its own."""
        self._forget()  # not only where metrics are read: a server that nobody watches gets new versions, too
        self._deeds.pop((model, version), None)

    def request(self, record: RequestRecord) -> None:
        """A request that is over and came as far as to a model."""
        if record.model is None or record.version is None:
            return
        deeds = self._deeds[record.model, record.version]
        deeds.last, deeds.since = time.time(), time.monotonic()
        deeds.requests[str(record.status)] += 1
        (deeds.answered if record.status < 400 else deeds.failed).add(record.seconds)

    def image(self, model: str, version: int, record: ImageRecord) -> None:
        """An image that is answered."""
        deeds, seconds = self._deeds[model, version], record.stage_seconds()
        for stage, times in deeds.stages.items():
            times.add(seconds.get(stage, 0.0))
        decoding, postprocessing = deeds.sizes[record.batch_size]
        decoding.add(seconds.get("decode", 0.0))
        postprocessing.add(seconds.get("postprocess", 0.0))

    def batch(self, model: str, version: int, device: str, size: int, seconds: float, failed: bool) -> None:
        """A run of the network."""
        deeds = self._deeds[model, version]
        deeds.busy_seconds[device] += seconds
        if not failed:
            deeds.runs[size].add(seconds)

    def collect(self) -> Iterable[Metric]:
        self._forget()
        labels = ("model", "version")
        requests = CounterMetricFamily(
            "maskserve_model_requests", "Requests by the version that answered.", labels=(*labels, "status")
        )
        seconds = HistogramMetricFamily(
            "maskserve_model_request_seconds", "Time of a request that was answered, by version.", labels=labels
        )
        stages = HistogramMetricFamily(
            "maskserve_model_stage_seconds", "Time of one image in each stage, by version.", labels=(*labels, "stage")
        )
        busy = CounterMetricFamily(
            "maskserve_model_busy_seconds",
            "Time that a device has computed for a version; a batch counts when it has ended.",
            labels=(*labels, "device"),
        )
        for (model, version), deeds in self._deeds.items():
            key = (model, str(version))
            for status, count in deeds.requests.items():
                requests.add_metric((*key, status), count)
            seconds.add_metric(key, _cumulative(deeds.answered), deeds.answered.seconds)
            for stage, times in deeds.stages.items():
                stages.add_metric((*key, stage), _cumulative(times), times.seconds)
            for device, spent in deeds.busy_seconds.items():
                busy.add_metric((*key, device), spent)
        yield from (requests, seconds, stages, busy)

    def _forget(self) -> None:
        served, now = self.served(), time.monotonic()
        for key in [*self._deeds]:
            if key not in served and now - self._deeds[key].since > FORGOTTEN_SECONDS:
                del self._deeds[key]


def _cumulative(times: Times) -> list[tuple[str, float]]:
    bounds = (*map(str, SECONDS), "+Inf")
    return list(zip(bounds, map(float, accumulate(times.buckets)), strict=True))
