"""A process from outside: its memory, descriptors and threads, and whether they grow."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np


@dataclass(frozen=True)
class Sample:
    """After so many seconds: megabytes that are resident, open descriptors, threads."""

    seconds: float
    megabytes: float
    descriptors: int
    threads: int


def look(pid: int, seconds: float) -> Sample:
    process = Path("/proc") / str(pid)
    status = process.joinpath("status").read_text()
    found = {name: int(value) for name, value in re.findall(r"(VmRSS|Threads):\s+(\d+)", status)}
    return Sample(seconds, found["VmRSS"] / 1024, len([*process.joinpath("fd").iterdir()]), found["Threads"])


def growth(samples: Sequence[Sample]) -> tuple[float, float, float]:
    """Megabytes an hour, by a line through all samples, and by how many descriptors and threads the last third's
    median exceeds the first third's.
    """
    third = max(1, len(samples) // 3)
    slope = np.polyfit([one.seconds for one in samples], [one.megabytes for one in samples], 1)[0] * 3600
    first, last = samples[:third], samples[-third:]
    return (
        float(slope),
        median(one.descriptors for one in last) - median(one.descriptors for one in first),
        median(one.threads for one in last) - median(one.threads for one in first),
    )
