"""What a soak found, minute by minute, and what that says in the end."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from tests.resilience.soak.watching import Growth, Sample, growth

JUDGED_MINUTES = 30
"""From so many on a slope and a p99 say something."""
MOST_MEGABYTES_AN_HOUR = 1.0
MOST_REFUSED = 0.01
"""Share of the requests that may get 429: the capacity is a mean."""
STEADY = 1.5
"""How many times the first third's p99 the last third's may be."""


@dataclass(frozen=True, slots=True)
class Told:
    """What is kept of an answer that was compared."""

    kind: str
    status: int
    seconds: float


@dataclass
class Minute:
    """One minute of the run. Milliseconds are of good requests that are not tiled."""

    number: int
    nuisances: bool
    told: list[Told] = field(default_factory=list)
    unanswered: int = 0

    @property
    def refused(self) -> int:
        return sum(one.status == 429 for one in self.told)

    def milliseconds(self, percentile: float) -> float:
        seconds = [one.seconds for one in self.told if one.status == 200 and one.kind == "good"]
        return float(np.percentile(seconds, percentile)) * 1e3 if seconds else 0.0


@dataclass
class Soak:
    """What was found, and what is measured."""

    capacity: float = 0.0
    capacity_beside: float = 0.0
    """Beside nuisances."""
    minutes: list[Minute] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    versions: int = 1
    findings: list[str] = field(default_factory=list)


def line(minute: Minute, soak: Soak) -> str:
    statuses = Counter(one.status for one in minute.told)
    state = soak.samples[-1] if soak.samples else None
    said = f"{state.megabytes:.0f} MB, {state.descriptors} files, {state.threads} threads" if state else ""
    return (
        f"minute {minute.number + 1:3d}{' with nuisances' if minute.nuisances else '':16s}: "
        f"{', '.join(f'{count} x {status}' for status, count in sorted(statuses.items()))}; median "
        f"{minute.milliseconds(50):.0f} ms, p99 {minute.milliseconds(99):.0f} ms; {said}"
    )


def p99(minutes: Sequence[Minute]) -> float:
    return float(np.median([minute.milliseconds(99) for minute in minutes])) if minutes else 0.0


def judge(soak: Soak) -> None:
    """What is known in the end, and of that what only a long run can say."""
    quiet = [minute for minute in soak.minutes if not minute.nuisances]
    refused, asked = sum(minute.refused for minute in quiet), sum(len(minute.told) for minute in quiet)
    if refused > MOST_REFUSED * asked:
        soak.findings.append(f"{refused} of {asked} requests were refused for load: the machine does other work, too?")
    if len(soak.minutes) < JUDGED_MINUTES:
        return
    grown, third = growth(soak.samples), len(quiet) // 3
    if grown.at_least > MOST_MEGABYTES_AN_HOUR:
        soak.findings.append(f"memory grows by {grown.megabytes:.1f} MB an hour, at least {grown.at_least:.1f}")
    if grown.descriptors > 0 or grown.threads > 0:
        soak.findings.append(f"{grown.descriptors:g} descriptors and {grown.threads:g} threads more than before")
    if p99(quiet[-third:]) > STEADY * p99(quiet[:third]):
        soak.findings.append(f"p99 went from {p99(quiet[:third]):.0f} to {p99(quiet[-third:]):.0f} ms")


def write(soak: Soak, file: Path | None) -> None:
    if file is not None:
        file.write_text(json.dumps({"cores": os.cpu_count(), **report(soak)}, indent=2) + "\n")


def report(soak: Soak) -> dict[str, object]:
    told = [one for minute in soak.minutes for one in minute.told]
    grown = growth(soak.samples) if len(soak.samples) > 2 else None
    some = {
        "quiet": [minute for minute in soak.minutes if not minute.nuisances],
        "with nuisances": [minute for minute in soak.minutes if minute.nuisances],
    }
    return {
        "minutes": len(soak.minutes),
        "capacity": {"quiet": soak.capacity, "with nuisances": soak.capacity_beside},
        "requests": len(told),
        "by kind": Counter(one.kind for one in told),
        "by status": Counter(one.status for one in told),
        "refused (429)": {name: sum(minute.refused for minute in minutes) for name, minutes in some.items()},
        "unanswered": sum(minute.unanswered for minute in soak.minutes),
        "versions": soak.versions,
        "median ms": {
            name: float(np.median([minute.milliseconds(50) for minute in minutes] or [0]))
            for name, minutes in some.items()
        },
        "p99 ms": {name: p99(minutes) for name, minutes in some.items()},
        "growth": asdict(grown) if grown is not None else None,
        "memory is": says(grown),
        "samples": [asdict(sample) for sample in soak.samples],
        "findings": [*dict.fromkeys(soak.findings)],
    }


def says(grown: Growth | None) -> str:
    """Of the memory, against `MOST_MEGABYTES_AN_HOUR`; a short run's slope can be anything."""
    if grown is None or grown.at_least <= MOST_MEGABYTES_AN_HOUR < grown.at_most:
        return "undecided"
    return "steady" if grown.at_most <= MOST_MEGABYTES_AN_HOUR else "growing"


def table(soak: Soak) -> str:
    """The report as Markdown, without what is long."""
    rows = (
        f"| {name} | {_cell(value)} |" for name, value in report(soak).items() if name not in ("samples", "findings")
    )
    return "\n".join(("| | |", "| --- | --- |", *rows))


def _cell(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_cell(one)}" for name, one in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)
