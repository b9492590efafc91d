"""The benchmark of several processes: shares of a core hold what is in them, and every step runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.group import Share, main


@pytest.fixture
def share() -> Share:
    """A tenth of a core."""
    try:
        return Share(f"maskserve-test-{os.getpid()}", 0.1)
    except OSError as error:
        pytest.skip(f"no control groups to make: {error}")


def test_a_share_is_all_that_its_processes_get(share: Share) -> None:
    # It begins to work when it is told to: what it had before counts too.
    words = "import sys, time\nsys.stdin.read(1)\nend = time.monotonic() + 2\nwhile time.monotonic() < end: pass\n"
    words += "print(time.process_time())"
    with share:
        command = [sys.executable, "-c", words]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        share.take([process.pid], min(os.sched_getaffinity(0)))
        printed, _ = process.communicate("x")
        assert 0.01 < float(printed) < 1


def test_a_quick_run_goes_through_every_step(share: Share, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with share:
        file = tmp_path / "group.json"
        main(["--requests", "8", "--rounds", "1", "--connections", "2", "--json", str(file)])
    printed = capsys.readouterr().out
    assert "requests/s" in printed
    assert "wanted: 1.7 or more" in printed
    (comparison,) = json.loads(file.read_text())["comparisons"]
    assert [timing["name"] for timing in comparison["timings"]] == ["1 process", "2 processes"]
    assert not list(Path("/sys/fs/cgroup").glob("**/maskserve-[12]")), "a control group is left behind"


def test_without_control_groups_a_line_says_what_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("benchmarks.group.CONTROL_GROUPS", tmp_path / "nowhere")
    assert main([]) == 1
    assert "needs root on Linux" in capsys.readouterr().err
