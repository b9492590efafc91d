"""A process from outside: its memory, descriptors and threads, and whether they grow."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median

PAUSE = 1.0
"""Seconds between two looks."""


@dataclass(frozen=True)
class Sample:
    """After so many seconds: megabytes that are resident, open descriptors, threads."""

    seconds: float
    megabytes: float
    descriptors: int
    threads: int


@dataclass(frozen=True)
class Growth:
    """Megabytes an hour, between the two that a slope lies in with 95 %, and how many descriptors and threads more."""

    megabytes: float
    at_least: float
    at_most: float
    descriptors: float
    threads: float


def look(pid: int, seconds: float) -> Sample:
    """Raises OSError where the process is gone."""
    process = Path("/proc") / str(pid)
    status = process.joinpath("status").read_text()
    found = {name: int(value) for name, value in re.findall(r"(VmRSS|Threads):\s+(\d+)", status)}
    return Sample(seconds, found["VmRSS"] / 1024, len([*process.joinpath("fd").iterdir()]), found["Threads"])


@asynccontextmanager
async def watched(pid: int, began: float, samples: list[Sample]) -> AsyncIterator[None]:
    """Adds to `samples`, at the end, the lowest of each figure that a look each second has seen meanwhile: what comes
    and goes with a request is not what stays."""
    looks: list[Sample] = []

    async def keep_looking() -> None:
        with suppress(OSError):  # whoever asks a process that is gone says so
            while True:
                looks.append(look(pid, time.perf_counter() - began))
                await asyncio.sleep(PAUSE)

    task = asyncio.create_task(keep_looking())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        if looks:
            samples.append(
                Sample(
                    looks[-1].seconds,
                    min(one.megabytes for one in looks),
                    min(one.descriptors for one in looks),
                    min(one.threads for one in looks),
                )
            )


def growth(samples: Sequence[Sample]) -> Growth:
    """After the first third, in which caches fill: the median of the slopes between all pairs (Theil and Sen), and by
    how much the last half's median counts exceed those of the half before it.
    """
    from scipy.stats import theilslopes  # slow to import, and only a judgment needs it

    settled = samples[len(samples) // 3 :]
    slope, _, low, high = theilslopes([one.megabytes for one in settled], [one.seconds / 3600 for one in settled])
    first, last = settled[: len(settled) // 2], settled[len(settled) // 2 :]
    return Growth(
        float(slope),
        float(low),
        float(high),
        median(one.descriptors for one in last) - median(one.descriptors for one in first),
        median(one.threads for one in last) - median(one.threads for one in first),
    )
