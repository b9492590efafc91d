"""Our histograms are told as prometheus_client tells its own."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.exposition import generate_latest

from service.observability.histograms import Histograms
from service.observability.metrics import BATCH_SIZES, CONVENTIONAL_SECONDS, FILLS, SECONDS

VALUES = (0.0, 0.001, 0.0010001, 0.0009999, 0.3, 1.0, 1, 3, 8, 64, 65, 30.0, 1e9)
"""On a bound, beside one, below all and above all."""


@pytest.mark.parametrize("bounds", [SECONDS, CONVENTIONAL_SECONDS, BATCH_SIZES, FILLS], ids=str)
@pytest.mark.parametrize("labels", [(), ("route", "status")], ids=["no labels", "labels"])
def test_the_same_text(bounds: tuple[float, ...], labels: tuple[str, ...]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    own = Histograms("maskserve_x", "What it is.", labels, bounds)
    ours.register(own)
    reference = Histogram("maskserve_x", "What it is.", labels, buckets=bounds, registry=theirs)
    for of in {("/predict", "200")[: len(labels)], ('/"\\', "404")[: len(labels)]}:
        for value in VALUES:
            own.of(*of).add(value)
            (reference.labels(*of) if labels else reference).observe(value)
    assert sorted(generate_latest(ours).splitlines()) == sorted(generate_latest(theirs).splitlines())


def test_what_is_named_once_is_told_before_anything_is_counted() -> None:
    registry = CollectorRegistry()
    histograms = Histograms("maskserve_x", "What it is.", ("stage",), (1.0,))
    registry.register(histograms)
    histograms.of("decode")
    assert b'maskserve_x_count{stage="decode"} 0.0\n' in generate_latest(registry)
