"""The metrics of several processes in one account."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

import service.observability.metrics  # noqa: F401  # it keeps the library from adding a series for each counter's start
from service.group.accounts import counts, total
from service.group.deeds import unpacked
from service.group.exposing import account, exposition
from service.observability.by_version import Deeds, Key


class Process:
    """One process's metrics."""

    def __init__(self, limit: int, memory: int, device: str) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("maskserve_requests", "Text.", ("status",), registry=self.registry)
        self.seconds = Histogram("maskserve_seconds", "Text.", buckets=(1, 2), registry=self.registry)
        for name, value in (
            ("maskserve_requests_in_flight", limit),
            ("maskserve_batch_limit", limit),
            ("maskserve_queue_oldest_seconds", limit / 2),
        ):
            Gauge(name, "Text.", registry=self.registry).set(value)
        for name, value in (("maskserve_device_memory_bytes", memory), ("maskserve_model_info", 1)):
            Gauge(name, "Text.", ("device",), registry=self.registry).labels(device).set(value)


def lines(text: bytes) -> list[str]:
    return [line for line in text.decode().splitlines() if not line.startswith("#")]


def test_counts_are_added_and_gauges_as_they_mean() -> None:
    one, two, three = Process(8, 70, "cuda:0"), Process(4, 80, "cuda:1"), Process(6, 75, "cuda:0")
    one.requests.labels("200").inc(3)
    two.requests.labels("200").inc(4)
    two.requests.labels("429").inc()
    for process, seconds in ((one, 0.5), (two, 1.5), (two, 3)):
        process.seconds.observe(seconds)
    together = total(account(process.registry, {}, []) for process in (one, two, three))
    assert lines(exposition(together)) == [
        'maskserve_requests_total{status="200"} 7.0',
        'maskserve_requests_total{status="429"} 1.0',
        'maskserve_seconds_bucket{le="1.0"} 1.0',
        'maskserve_seconds_bucket{le="2.0"} 2.0',
        'maskserve_seconds_bucket{le="+Inf"} 3.0',
        "maskserve_seconds_count 3.0",
        "maskserve_seconds_sum 5.0",
        "maskserve_requests_in_flight 18.0",
        "maskserve_batch_limit 4.0",
        "maskserve_queue_oldest_seconds 4.0",
        'maskserve_device_memory_bytes{device="cuda:0"} 75.0',
        'maskserve_device_memory_bytes{device="cuda:1"} 80.0',
        'maskserve_model_info{device="cuda:0"} 1.0',
        'maskserve_model_info{device="cuda:1"} 1.0',
    ]


def test_what_a_dead_process_counted_stays_and_its_gauges_go() -> None:
    first, second = Process(8, 70, "cuda:0"), Process(4, 70, "cuda:0")
    first.requests.labels("200").inc(3)
    second.requests.labels("200").inc(1)
    left = account(first.registry, {}, [])
    assert lines(exposition(counts(left)))[0] == 'maskserve_requests_total{status="200"} 3.0'
    assert not any("in_flight" in line for line in lines(exposition(counts(left))))
    after = account(second.registry, {}, left)
    assert lines(exposition(after))[0] == 'maskserve_requests_total{status="200"} 4.0'
    assert "maskserve_requests_in_flight 4.0" in lines(exposition(after))
    assert lines(exposition(account(Process(4, 70, "cuda:0").registry, {}, after)))[0].endswith(" 4.0"), (
        "it is kept twice"
    )


def test_one_account_reads_as_the_process_itself_does() -> None:
    process = Process(8, 70, "cuda:0")
    process.requests.labels('a "quoted" one').inc()
    assert exposition(account(process.registry, {}, [])) == generate_latest(process.registry)


def deeds(last: float, size: int) -> dict[Key, Deeds]:
    """Of a version that has answered one image in a run of `size`, half a second of each stage."""
    did = Deeds(last=last)
    for spent in (did.answered, did.runs[size], *did.sizes[size], *did.stages.values()):
        spent.add(0.5)
    return {("nuclei", 2): did}


def test_what_versions_did_is_added_by_its_parts_and_no_metric() -> None:
    registry = CollectorRegistry()
    dead = account(registry, deeds(30.0, 1), [])
    together = total([account(registry, deeds(20.0, 1), dead), account(registry, deeds(10.0, 4), [])])
    assert exposition(together) == b""
    ((key, found),) = unpacked(together).items()
    assert key == ("nuclei", 2)
    assert (found.last, found.failed.count) == (30.0, 0)
    assert (found.answered.count, found.answered.seconds) == (3, 1.5)
    assert {size: run.count for size, run in found.runs.items()} == {1: 2, 4: 1}
    assert {size: [side.count for side in sides] for size, sides in found.sizes.items()} == {1: [2, 2], 4: [1, 1]}
    assert [times.seconds for times in found.stages.values()] == [1.5] * 4
