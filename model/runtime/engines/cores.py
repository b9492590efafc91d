"""How many CPU cores one inference may use."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

_CPUS: Final = Path("/sys/devices/system/cpu")
_CGROUP: Final = Path("/sys/fs/cgroup")


def usable_cores(cpus: Iterable[int] | None = None, topology: Path = _CPUS, cgroup: Path = _CGROUP) -> int:
    """Physical cores that this process may run on, at most its container's CPU quota; at least one.

    Two hyperthreads of a core share its arithmetic units, so a thread for each only makes them wait. The affinity is
    the process's own; a container's quota (`docker --cpus`) does not show in it. `cpus` overrides the affinity.
    """
    allowed = sorted(os.sched_getaffinity(0) if cpus is None else cpus)
    cores = {_siblings(topology, cpu) for cpu in allowed}
    return max(1, min(len(cores), _quota(cgroup, len(allowed))))


def _siblings(topology: Path, cpu: int) -> str:
    """The same text for every hyperthread of a core, such as "0,8"."""
    try:
        return (topology / f"cpu{cpu}" / "topology" / "thread_siblings_list").read_text().strip()
    except OSError:  # hidden in some sandboxes: count each CPU as a core
        return f"cpu {cpu}"


def _quota(cgroup: Path, unlimited: int) -> int:
    """Whole cores of the container's quota, rounded to the nearest; `unlimited` when there is none."""
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()  # cgroup v2
    except (OSError, ValueError):
        try:
            quota = (cgroup / "cpu" / "cpu.cfs_quota_us").read_text()  # cgroup v1
            period = (cgroup / "cpu" / "cpu.cfs_period_us").read_text()
        except OSError:
            return unlimited
    try:
        share = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):  # "max"
        return unlimited
    return max(1, round(share)) if share > 0 else unlimited
