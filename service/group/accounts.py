"""One account of what several processes have counted: counters and histograms are added, gauges as their meaning is.

prometheus_client's own mode for several processes knows nothing of collectors that are not its own, and most are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

Account = list[list[Any]]
"""Name, text and type of each metric with its samples, each name, labels and value: lists, for JSON."""

LAST_DEED: Final = "last deed"
COUNTED: Final = ("counter", "histogram")
TOGETHER: Final[Mapping[str, Callable[[float, float], float]]] = {
    "maskserve_queue_oldest_seconds": max,
    "maskserve_device_memory_used_bytes": max,  # of the device, whoever asks
    "maskserve_device_memory_bytes": max,
    "maskserve_model_info": max,
    "maskserve_model_pinned": max,
    "maskserve_batch_limit": min,
    "process_start_time_seconds": min,
    LAST_DEED: max,
}
"""Of what there is not simply more with more processes."""


def counts(of: Account) -> Account:
    """Without what is true only of the moment, and of a process that lives."""
    return [metric for metric in of if metric[2] in COUNTED]


def total(accounts: Iterable[Account]) -> Account:
    """Everybody's."""
    metrics: dict[str, list[Any]] = {}
    samples: dict[str, dict[tuple[object, ...], list[Any]]] = {}
    for name, text, kind, given in (metric for one in accounts for metric in one):
        metrics.setdefault(name, [name, text, kind])
        together = TOGETHER.get(name, _added)
        merged = samples.setdefault(name, {})
        for sample, labels, value in given:
            key = (sample, *labels.items())
            if key in merged:
                merged[key][2] = together(merged[key][2], value)
            else:
                merged[key] = [sample, labels, value]
    return [[*metric, list(samples[name].values())] for name, metric in metrics.items()]


def of_group(ready: int, deaths: int) -> Account:
    """What the parent knows itself: processes that are ready, and those that died so far."""
    text = "Processes that died and were started again."
    return [
        ["maskserve_processes", "Processes that are ready.", "gauge", [["maskserve_processes", {}, ready]]],
        ["maskserve_process_deaths", text, "counter", [["maskserve_process_deaths_total", {}, deaths]]],
    ]


def _added(one: float, other: float) -> float:
    return one + other
