"""Ten times as many requests as the server can answer: a part is answered in time, the rest is refused at once."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import httpx

from tests.service.harness import Server, encode, picture

IMAGE = encode(picture(slow=90))
TIMEOUT = 6.0
"""Seconds that a request has."""
DURATION = 4.0
"""Seconds of overload."""


@dataclass(frozen=True)
class Outcome:
    status: int
    seconds: float
    retry_after: str | None


async def _overload(url: str, interval: float) -> list[Outcome]:
    """A request every `interval` seconds, whatever becomes of those before."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=100)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=60) as client:

        async def ask() -> Outcome:
            began = time.monotonic()
            answer = await client.post("/predict", content=IMAGE, headers={"Content-Type": "image/png"})
            return Outcome(answer.status_code, time.monotonic() - began, answer.headers.get("retry-after"))

        tasks = []
        began = time.monotonic()
        while time.monotonic() - began < DURATION:
            tasks.append(asyncio.create_task(ask()))
            await asyncio.sleep(max(0.0, began + len(tasks) * interval - time.monotonic()))
        return await asyncio.gather(*tasks)


def test_overload(start_server: Callable[..., Server]) -> None:
    server = start_server("--timeout-ms", str(TIMEOUT * 1e3), "--max-batch-size", "1")
    answers = [server.predict(IMAGE) for _ in range(5)]
    seconds = statistics.median(answer.json()["timing_ms"]["inference"] for answer in answers) / 1e3
    before = Counter(server.metrics())
    outcomes = asyncio.run(_overload(server.url, seconds / 10))
    grown = Counter(server.metrics())
    grown.subtract(before)

    statuses = Counter(outcome.status for outcome in outcomes)
    assert set(statuses) <= {200, 429, 504}
    # None, says `python -m benchmarks.overload` on an idle machine; other work may slow this one down in the middle.
    assert statuses[504] <= 0.05 * statuses[200], f"accepted requests missed their deadline: {statuses}"
    assert statuses[200] >= 0.5 * DURATION / seconds, "far fewer answers than the server can give"
    assert statuses[429] > 2 * statuses[200], "this was no overload"
    answered = [outcome.seconds for outcome in outcomes if outcome.status == 200]
    refused = [outcome for outcome in outcomes if outcome.status == 429]
    assert max(answered) < TIMEOUT + 0.5  # the client's own part of it is not the server's
    assert statistics.median(outcome.seconds for outcome in refused) < 0.05
    assert all(outcome.retry_after is not None and int(outcome.retry_after) >= 1 for outcome in refused)

    for status, count in statuses.items():
        assert grown[f'maskserve_requests_total{{route="/predict",status="{status}"}}'] == count
    shed = {name: count for name, count in grown.items() if name.startswith("maskserve_dropped_total") and count}
    assert sum(count for name, count in shed.items() if 'outcome="shed"' in name) == statuses[429]
    assert sum(shed.values()) == statuses[429] + statuses[504]
    assert statuses[200] <= grown["maskserve_batch_size_sum"] <= statuses[200] + statuses[504]
    assert grown["maskserve_requests_in_flight"] == 0
    assert sum('"status":429' in line for line in server.log) == statuses[429]
