"""Ten times as many requests as the server can answer: a part is answered in time, the rest is refused at once."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import httpx

from tests.service.harness import Server, encode, picture, until

IMAGE = encode(picture(slow=64))
TIMEOUT = 6.0
"""Seconds that a request has."""
DURATION = 4.0
"""Seconds of overload."""
ROUNDS = 3
"""Overloads at most; counts must add up in each, times in one."""


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


@dataclass(frozen=True)
class Round:
    """One overload: what the clients saw, and by how much the server's metrics grew."""

    outcomes: list[Outcome]
    grown: Counter[str]
    seconds: float
    """The engine's for one image."""

    @property
    def statuses(self) -> Counter[int]:
        return Counter(outcome.status for outcome in self.outcomes)

    def with_status(self, status: int) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.status == status]

    def shortfalls(self) -> list[str]:
        """What was not as it should be in time. Other work on the machine can be the reason, so one good round counts.

        No accepted request is late on an idle machine, says `python -m benchmarks.overload`.
        """
        statuses = self.statuses
        refusal = statistics.median(outcome.seconds for outcome in self.with_status(429))
        longest = max(outcome.seconds for outcome in self.with_status(200))
        found = []
        if statuses[504] > 0.05 * statuses[200]:
            found.append(f"{statuses[504]} accepted requests missed their deadline, {statuses[200]} did not")
        if statuses[200] < 0.5 * DURATION / self.seconds:
            found.append(f"{statuses[200]} answers in {DURATION} s, of {self.seconds:.3f} s each")
        if longest > TIMEOUT + 0.5:  # the client's own part of it is not the server's
            found.append(f"an answer took {longest:.2f} s")
        if refusal > 0.05:
            found.append(f"refusals took {refusal * 1e3:.0f} ms in the median")
        return found


def _round(server: Server) -> Round:
    answers = [server.predict(IMAGE) for _ in range(5)]
    seconds = statistics.median(answer.json()["timing_ms"]["inference"] for answer in answers) / 1e3
    before = Counter(server.metrics())
    outcomes = asyncio.run(_overload(server.url, seconds / 10))
    grown = Counter(server.metrics())
    grown.subtract(before)
    return Round(outcomes, grown, seconds)


def test_overload(start_server: Callable[..., Server]) -> None:
    server = start_server("--timeout-ms", str(TIMEOUT * 1e3), "--max-batch-size", "1")
    refused_before = 0
    shortfalls: list[list[str]] = []
    for _ in range(ROUNDS):
        round_ = _round(server)
        statuses, grown = round_.statuses, round_.grown
        assert set(statuses) <= {200, 429, 504}
        assert statuses[429] > 2 * statuses[200] > 0, f"this was no overload: {statuses}"
        assert all(
            outcome.retry_after is not None and int(outcome.retry_after) >= 1 for outcome in round_.with_status(429)
        )

        for status, count in statuses.items():
            assert grown[f'maskserve_requests_total{{route="/predict",status="{status}"}}'] == count
        shed = {name: count for name, count in grown.items() if name.startswith("maskserve_dropped_total") and count}
        assert sum(count for name, count in shed.items() if 'outcome="shed"' in name) == statuses[429]
        assert sum(shed.values()) == statuses[429] + statuses[504]
        assert statuses[200] <= grown["maskserve_batch_size_sum"] <= statuses[200] + statuses[504]
        assert grown["maskserve_requests_in_flight"] == 0
        logged = refused_before + statuses[429]
        until(lambda logged=logged: sum('"status":429' in line for line in server.log) >= logged)
        assert sum('"status":429' in line for line in server.log) == logged
        refused_before = logged

        shortfalls.append(round_.shortfalls())
        if not shortfalls[-1]:
            return
    raise AssertionError(f"no round of {ROUNDS} kept its times: {shortfalls}")
