"""Threads follow physical cores, the process's affinity and the container's quota."""

from __future__ import annotations

from pathlib import Path

import pytest

from model.runtime.engines.cores import usable_cores


def machine(root: Path, siblings: list[str]) -> Path:
    for cpu, text in enumerate(siblings):
        folder = root / f"cpu{cpu}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(text + "\n")
    return root


CASES = [
    # (what it is, siblings of each CPU, allowed CPUs, files of the cgroup, cores)
    ("four cores", ["0", "1", "2", "3"], range(4), {}, 4),
    ("two cores of two threads", ["0,2", "1,3", "0,2", "1,3"], range(4), {}, 2),
    ("only one core's two threads allowed", ["0,2", "1,3", "0,2", "1,3"], (0, 2), {}, 1),
    ("one thread of each core allowed", ["0,2", "1,3", "0,2", "1,3"], (0, 1), {}, 2),
    ("no topology to see", [], range(3), {}, 3),
    ("cgroup v2, no limit", ["0", "1", "2", "3"], range(4), {"cpu.max": "max 100000"}, 4),
    ("cgroup v2, docker --cpus=2", ["0", "1", "2", "3"], range(4), {"cpu.max": "200000 100000"}, 2),
    ("cgroup v2, one and a half", ["0", "1", "2", "3"], range(4), {"cpu.max": "160000 100000"}, 2),
    ("cgroup v2, a tenth: still one", ["0", "1"], range(2), {"cpu.max": "10000 100000"}, 1),
    ("cgroup v2, more than there is", ["0", "1"], range(2), {"cpu.max": "800000 100000"}, 2),
    ("cgroup v1", ["0", "1"], range(2), {"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, 1),
    ("cgroup v1, no limit", ["0", "1"], range(2), {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 2),
    ("cgroup of noise", ["0", "1"], range(2), {"cpu.max": "what ever"}, 2),
]


@pytest.mark.parametrize(
    ("siblings", "cpus", "files", "cores"), [row[1:] for row in CASES], ids=[row[0] for row in CASES]
)
def test_usable_cores(siblings: list[str], cpus: list[int], files: dict[str, str], cores: int, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert usable_cores(cpus, machine(tmp_path, siblings), tmp_path) == cores


def test_this_machine() -> None:
    assert usable_cores() >= 1
