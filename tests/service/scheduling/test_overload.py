"""Ten times as many requests as the server can answer: a part is answered, the rest is refused, and all are counted."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import httpx

from tests.patience import PATIENCE
from tests.service.harness import Server, encode, picture, until

IMAGE = encode(picture(slow=64))
DURATION = 4.0
"""Seconds of overload."""


@dataclass(frozen=True)
class Outcome:
    status: int
    retry_after: str | None


async def _overload(url: str, interval: float) -> list[Outcome]:
    """A request every `interval` seconds, whatever becomes of those before."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=100)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=PATIENCE) as client:

        async def ask() -> Outcome:
            answer = await client.post("/predict", content=IMAGE, headers={"Content-Type": "image/png"})
            return Outcome(answer.status_code, answer.headers.get("retry-after"))

        tasks = []
        began = time.monotonic()
        while time.monotonic() - began < DURATION:
            tasks.append(asyncio.create_task(ask()))
            await asyncio.sleep(max(0.0, began + len(tasks) * interval - time.monotonic()))
        return await asyncio.gather(*tasks)


def test_overload(start_server: Callable[..., Server]) -> None:
    """What becomes of each request, and that all are counted; `python -m benchmarks.overload` measures the times."""
    server = start_server("--timeout-ms", "6000", "--max-batch-size", "1", "--max-queue-size", "8")
    answers = [server.predict(IMAGE) for _ in range(5)]
    seconds = statistics.median(answer.json()["timing_ms"]["inference"] for answer in answers) / 1e3
    before = Counter(server.metrics())
    outcomes = asyncio.run(_overload(server.url, seconds / 10))
    grown = Counter(server.metrics())
    grown.subtract(before)
    statuses = Counter(outcome.status for outcome in outcomes)
    assert set(statuses) <= {200, 429, 504}
    assert statuses[429] > statuses[200] > 0, f"this was no overload: {statuses}"
    for outcome in outcomes:
        assert (outcome.status == 429) == (outcome.retry_after is not None)
        assert int(outcome.retry_after or 1) >= 1

    for status, count in statuses.items():
        assert grown[f'maskserve_requests_total{{route="/predict",status="{status}"}}'] == count
    shed = {name: count for name, count in grown.items() if name.startswith("maskserve_dropped_total") and count}
    assert sum(count for name, count in shed.items() if 'outcome="shed"' in name) == statuses[429]
    assert sum(shed.values()) == statuses[429] + statuses[504]
    assert statuses[200] <= grown["maskserve_batch_size_sum"] <= statuses[200] + statuses[504]
    assert grown["maskserve_requests_in_flight"] == 0
    until(lambda: sum('"status":429' in line for line in server.log) >= statuses[429])
    assert sum('"status":429' in line for line in server.log) == statuses[429]
