"""Histograms that cost little to count in. prometheus_client's own take a lock for each of several numbers and look at
one bound after the other, which for the dozen values of a request takes longer than its scheduling.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString


@dataclass(slots=True)
class Total:
    """How many values there were, and their sum."""

    count: int = 0
    sum: float = 0.0

    def add(self, value: float) -> None:
        self.count += 1
        self.sum += value


@dataclass(slots=True)
class Histogram(Total):
    """The same with how many are above one of the rising `bounds` and not above the next; not cumulative."""

    bounds: Sequence[float] = ()
    buckets: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.buckets = [0] * (len(self.bounds) + 1)

    def add(self, value: float) -> None:
        self.count += 1
        self.sum += value
        self.buckets[bisect_left(self.bounds, value)] += 1

    def cumulative(self) -> list[tuple[str, float]]:
        """As Prometheus has it: values up to each bound, which is given as text, and up to infinity."""
        bounds = (*map(floatToGoString, self.bounds), "+Inf")
        return list(zip(bounds, map(float, accumulate(self.buckets)), strict=True))


class Histograms(Collector):
    """A metric: a histogram for each combination of its labels' values. Called on the event loop only."""

    def __init__(self, name: str, documentation: str, labels: Sequence[str], bounds: Sequence[float]) -> None:
        self.by_labels: dict[tuple[str, ...], Histogram] = {}
        self._name, self._documentation = name, documentation
        self._labels, self._bounds = labels, bounds

    def of(self, *labels: str) -> Histogram:
        """Of these labels; from now on it is there, if nothing else is counted."""
        found = self.by_labels.get(labels)
        if found is None:
            found = self.by_labels[labels] = Histogram(bounds=self._bounds)
        return found

    def collect(self) -> Iterable[Metric]:
        family = HistogramMetricFamily(self._name, self._documentation, labels=self._labels)
        for labels, histogram in self.by_labels.items():
            family.add_metric(labels, histogram.cumulative(), histogram.sum)
        yield family
