"""The benchmarks' stopwatch: order, ratios, and the load of others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.measure import OtherLoad, Spread, alternate, own_seconds, table, write_json

needs_proc = pytest.mark.skipif(not Path("/proc/stat").exists(), reason="other processes' load is read from /proc")


def test_contenders_take_turns_in_rotating_order() -> None:
    calls: list[str] = []
    names = ("a", "b", "c")
    alternate({name: lambda name=name: calls.append(name) for name in names}, reference="b", rounds=3, warmup=1)
    assert "".join(calls) == "abc" + "abc" + "bca" + "cab"


def test_speedup_is_reference_over_contender(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def spend(*rounds: float) -> Callable[[], None]:
        left = iter((1.0, *rounds))  # the first call is the warm-up

        def call() -> None:
            nonlocal now
            now += next(left)

        return call

    monkeypatch.setattr("benchmarks.measure.time.perf_counter", lambda: now)
    contenders = {"slow": spend(8, 8, 20), "fast": spend(2, 4, 1)}
    comparison = alternate(contenders, reference="slow", rounds=3)
    fast = comparison["fast"]
    assert fast.rounds == (2, 4, 1)
    assert (fast.seconds.median, fast.seconds.min) == (2, 1)
    assert fast.speedup == 4  # 8 / 2, medians
    assert (fast.round_speedups.median, fast.round_speedups.min) == (4, 2)  # of 8/2, 8/4, 20/1
    assert comparison["slow"].speedup == 1
    assert comparison.wall_seconds == 43


def test_spread() -> None:
    assert Spread.of([float(value) for value in range(11)]) == Spread(median=5, min=0, p10=1, p90=9)


def test_report(tmp_path: Path) -> None:
    comparison = alternate({"only": lambda: None}, reference="only", rounds=2, details={"width": 5})
    path = tmp_path / "new" / "report.json"
    write_json(path, comparison, packages=("numba", "no-such-package"))
    report = json.loads(path.read_text())
    assert report["machine"]["versions"]["no-such-package"] == "not installed"
    assert report["machine"]["cores"] >= 1
    assert report["machine"]["command"]
    assert report["comparisons"][0]["details"] == {"width": 5}
    assert report["comparisons"][0]["timings"][0]["name"] == "only"
    assert "only" in table(comparison)
    assert ("INVALID" in table(comparison)) != comparison.valid


@needs_proc
def test_others_are_seen_and_own_processes_are_not() -> None:
    """A process that burns a core counts as other, unless it is named as part of the measurement."""
    burn = "print(flush=True)\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", burn], stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout is not None
            child.stdout.readline()
            start = time.perf_counter()
            everyone, others = OtherLoad(), OtherLoad([child.pid])
            while not own_seconds([child.pid])[child.pid] > 0.5:  # however long a busy machine takes to grant it
                time.sleep(0.05)
            with_child, without_child = everyone.share(), others.share()
            core_seconds = (time.perf_counter() - start) * (os.cpu_count() or 1)
        finally:
            child.kill()
    assert with_child is not None
    assert without_child is not None
    assert 0.25 < (with_child - without_child) * core_seconds < 0.75


@pytest.mark.parametrize(("reference", "rounds", "message"), [("b", 3, "not a contender"), ("a", 0, "rounds is 0")])
def test_wrong_use_is_refused(reference: str, rounds: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        alternate({"a": lambda: None}, reference=reference, rounds=rounds)
