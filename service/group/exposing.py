"""Between a process's metrics and an account of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from service.group.accounts import Account, counts, total
from service.group.deeds import HIDDEN, packed
from service.observability.by_version import Deeds, Key


def account(registry: CollectorRegistry, deeds: Mapping[Key, Deeds], before: Account) -> Account:
    """What a process has counted, and what those whose place it took had counted before."""
    own = [
        [metric.name, metric.documentation, metric.type, [[one.name, one.labels, one.value] for one in metric.samples]]
        for metric in registry.collect()
    ]
    return total([own, packed(deeds), counts(before)])


def exposition(of: Account) -> bytes:
    """In Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(_Account([metric for metric in of if metric[0] not in HIDDEN]))
    return generate_latest(registry)


class _Account(Collector):
    def __init__(self, of: Account) -> None:
        self._of = of

    def collect(self) -> Iterable[Metric]:
        for name, text, kind, samples in self._of:
            metric = Metric(name, text, kind)
            for sample, labels, value in samples:
                metric.add_sample(sample, labels, value)
            yield metric
