"""Timing contenders against each other so that the ratio can be trusted; every benchmark here goes through this file.

    comparison = alternate({"ours": ours, "torchvision": theirs}, reference="torchvision", rounds=9)
    print(table(comparison))
    write_json(path, comparison, packages=("numba", "torch"))

Contenders run in turn inside every round, in an order that rotates, so what drifts (clock, caches, neighbors) meets all
of them. Ratios are taken round by round too: their spread says how far the ratio of medians can be believed. Processor
time that anything else on the machine used meanwhile is measured, and above 5 % of all cores the run is marked invalid.
"""

from __future__ import annotations

import gc
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from model.runtime.engines.processor import BF16_FEATURES, INT8_FEATURES, processor_features, processor_name

MAX_OTHER_LOAD = 0.05
"""Share of all cores that other processes may use during a valid run."""

TOLD_FEATURES = INT8_FEATURES | BF16_FEATURES | {"avx2", "avx512f", "amx_tile"}


@dataclass(frozen=True)
class Spread:
    """Order statistics of the rounds; p10 and p90 are interpolated percentiles."""

    median: float
    min: float
    p10: float
    p90: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        p10, median, p90 = np.percentile(values, [10, 50, 90])
        return cls(float(median), float(min(values)), float(p10), float(p90))


@dataclass(frozen=True)
class Timing:
    """One contender: wall-clock seconds a call, over the rounds."""

    name: str
    seconds: Spread
    rounds: tuple[float, ...]
    speedup: float
    """Reference's median over this one's: above 1 is faster than the reference."""
    round_speedups: Spread
    """The same ratio inside each round."""


@dataclass(frozen=True)
class Comparison:
    """What one alternating run found."""

    reference: str
    timings: tuple[Timing, ...]
    wall_seconds: float
    other_load: float | None
    """Share of all cores that other processes used meanwhile (0..1); None where the system does not tell (no /proc)."""
    valid: bool
    """Whether `other_load` is known and at most `MAX_OTHER_LOAD`."""
    details: dict[str, Any] = field(default_factory=dict)
    """The benchmark's own settings and findings, in JSON's types."""

    def __getitem__(self, name: str) -> Timing:
        return next(timing for timing in self.timings if timing.name == name)


class OtherLoad:
    """Processor time used by other processes between its making and `share()`: all busy time less our own.

    Own is this process, its finished children, and the running processes `pids` with theirs (a server under test, say).
    Time that a hypervisor took away counts as other. Reads /proc/stat, which counts in hundredths of a second: measure
    at least a second or two.
    """

    def __init__(self, pids: Iterable[int] = ()) -> None:
        self._pids = tuple(pids)
        self._start = time.perf_counter()
        self._busy = _busy_seconds()
        self._own = own_seconds(self._pids)

    def share(self) -> float | None:
        busy, own = _busy_seconds(), own_seconds(self._pids)
        if busy is None or self._busy is None:
            return None
        other = busy - self._busy - sum(max(0.0, own[key] - self._own[key]) for key in own.keys() & self._own.keys())
        cores = os.cpu_count() or 1
        return max(0.0, other) / (cores * (time.perf_counter() - self._start))


def _busy_seconds() -> float | None:
    try:
        first = Path("/proc/stat").read_text().split("\n", 1)[0]
    except OSError:
        return None
    # user nice system idle iowait irq softirq steal; guest time is inside user's
    user, nice, system, _idle, _iowait, irq, softirq, steal = (int(value) for value in first.split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def own_seconds(pids: Sequence[int]) -> dict[int, float]:
    """Seconds used so far by process id; 0 stands for this process. One that has ended is left out."""
    times = os.times()
    seconds = {0: times.user + times.system + times.children_user + times.children_system}
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        # utime, stime, cutime, cstime: fields 14 to 17 of proc(5), where the text after the name begins with field 3
        seconds[pid] = sum(int(value) for value in fields[11:15]) / os.sysconf("SC_CLK_TCK")
    return seconds


def alternate(
    contenders: Mapping[str, Callable[[], object]],
    *,
    reference: str,
    rounds: int = 9,
    warmup: int = 1,
    pids: Iterable[int] = (),
    details: Mapping[str, Any] | None = None,
) -> Comparison:
    """Times every contender once a round for `rounds` rounds, after `warmup` untimed rounds.

    `pids`: running processes that are part of what is measured. Garbage collection waits until a round is over.
    ValueError when `reference` is not a contender or there is no round.
    """
    if reference not in contenders:
        raise ValueError(f"reference {reference!r} is not a contender: {sorted(contenders)}")
    if rounds < 1:
        raise ValueError(f"rounds is {rounds}: need 1 or more")
    for _ in range(warmup):
        for call in contenders.values():
            call()
    names = list(contenders)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    load = OtherLoad(pids)
    started = time.perf_counter()
    for number in range(rounds):
        turn = number % len(names)
        gc.collect()
        gc.disable()
        try:
            for name in names[turn:] + names[:turn]:
                start = time.perf_counter()
                contenders[name]()
                seconds[name].append(time.perf_counter() - start)
        finally:
            gc.enable()
    wall = time.perf_counter() - started
    other = load.share()
    base = seconds[reference]
    timings = []
    for name, own in seconds.items():
        ratios = [theirs / mine for theirs, mine in zip(base, own, strict=True)]
        speedup = float(np.median(base) / np.median(own))
        timings.append(Timing(name, Spread.of(own), tuple(own), speedup, Spread.of(ratios)))
    valid = other is not None and other <= MAX_OTHER_LOAD
    return Comparison(reference, tuple(timings), wall, other, valid, dict(details or {}))


def table(comparison: Comparison) -> str:
    """The comparison as text, times in milliseconds."""
    width = max(12, *(len(timing.name) for timing in comparison.timings))
    lines = [f"{'':{width}} {'median ms':>11} {'min':>11} {'p10':>11} {'p90':>11} {'speedup':>9}  {'(p10-p90)':>15}"]
    for timing in comparison.timings:
        s, r = timing.seconds, timing.round_speedups
        times = " ".join(f"{value * 1e3:11.3f}" for value in (s.median, s.min, s.p10, s.p90))
        lines.append(f"{timing.name:{width}} {times} {timing.speedup:8.2f}x  {f'({r.p10:.2f}-{r.p90:.2f})':>15}")
    return "\n".join([*lines, validity(comparison)])


def validity(comparison: Comparison) -> str:
    """One line: whether its figures may be quoted, and why not."""
    if comparison.other_load is None:
        return "INVALID: this system does not tell what other processes used"
    verdict = "valid" if comparison.valid else f"INVALID (over {MAX_OTHER_LOAD:.0%}): do not quote these figures"
    where = ", ".join([processor_name(), *told_features()])
    return f"other processes used {comparison.other_load:.1%} of the cores ({where}): {verdict}"


def told_features() -> list[str]:
    """The processor's instructions that decide how fast a network is; empty where nobody tells them."""
    return sorted(processor_features() & TOLD_FEATURES)


def machine(packages: Iterable[str] = ()) -> dict[str, Any]:
    """Where and when a figure was taken: CPU, cores, memory, GPUs, versions of `packages`, date and command line."""
    versions = {"python": platform.python_version()}
    for package in ("numpy", *packages):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "cpu": processor_name(),
        "cpu_features": told_features(),
        "cores": os.cpu_count(),
        "cores_allowed": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpus": _gpus(),
        "system": platform.platform(),
        "versions": versions,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(sys.orig_argv),
    }


def _gpus() -> list[str]:
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return answer.stdout.strip().splitlines()


def write_json(path: Path, *comparisons: Comparison, packages: Iterable[str] = ()) -> None:
    """Writes the comparisons with the machine's description; missing folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    report = {"machine": machine(packages), "comparisons": [asdict(comparison) for comparison in comparisons]}
    path.write_text(json.dumps(report, indent=2) + "\n")
