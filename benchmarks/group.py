"""What more processes behind one port bring (`--processes`), where each has a core and clients run elsewhere.

    python -m benchmarks.group --rounds 5

Two front ends and their clients need more cores than a small machine has, so the cores are made smaller: Linux gives
one process `--share` of the first core, and a group of N as many shares, its parent's work among them; clients have the
others. The model costs nothing, so that what is measured is the front end. How much of its share each uses is printed:
well below 100 %, something else held it up, and the ratio says little. Needs root, as control groups do, and two cores.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks.measure import alternate, table, write_json
from benchmarks.peers.processes import orphans_adopted
from benchmarks.peers.servers import ours
from benchmarks.service.null import null_photograph, publish_null
from benchmarks.service.turns import Running, Sample, ServerFailedError, Start

CONTROL_GROUPS = Path("/sys/fs/cgroup")
PERIOD = 100_000
"""Microseconds in which a share of processor time is used up or not. Linux gives it to each core in slices of 5,000: of
a short period much is lost on the core that has nothing to do."""
WANTED = 1.7
"""Of two processes over one."""
PACKAGES = ("fastapi", "uvicorn", "httptools", "uvloop", "onnxruntime-gpu")


class Share:
    """A control group (Linux's, version 1 or 2) whose processes together have `cores` of processor time.

    Raises OSError where it cannot be made: it takes root.
    """

    def __init__(self, name: str, cores: float) -> None:
        root, first = CONTROL_GROUPS, CONTROL_GROUPS / "cpu"
        self._folder = (first if first.is_dir() else root) / name
        self._folder.mkdir(exist_ok=True)
        quota = round(PERIOD * cores)
        try:
            if first.is_dir():
                (self._folder / "cpu.cfs_period_us").write_text(str(PERIOD))
                (self._folder / "cpu.cfs_quota_us").write_text(str(quota))
            else:
                (root / "cgroup.subtree_control").write_text("+cpu")
                (self._folder / "cpu.max").write_text(f"{quota} {PERIOD}")
        except OSError:
            self._folder.rmdir()
            raise

    def take(self, pids: Iterable[int], core: int) -> None:
        """From here on these processes are in it and on that core, with all their threads, and what they start."""
        for pid in pids:
            (self._folder / "cgroup.procs").write_text(str(pid))
            for thread in Path(f"/proc/{pid}/task").iterdir():
                os.sched_setaffinity(int(thread.name), {core})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Its processes must have ended."""
        self._folder.rmdir()


def _name(processes: int) -> str:
    return f"{processes} process{'es' if processes > 1 else ''}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints and writes what was found; the exit status is 1 when the run is not valid."""
    options = _parser().parse_args(arguments)
    cores = os.sched_getaffinity(0)
    first, *others = sorted(cores)
    if not others:
        print("error: one core is for the servers and another for the clients, and here is only one", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="maskserve-benchmark-") as folder, orphans_adopted(), ExitStack() as stack:
        repository = Path(folder) / "models"
        publish_null(Path(folder) / "null", repository)
        samples = [Sample("photograph", null_photograph(), "image/jpeg")]
        servers: dict[str, Running] = {}
        try:
            for processes in (1, options.processes):
                share = stack.enter_context(Share(f"maskserve-{processes}", processes * options.share))
                server = ours(repository, "null", 0.05, processes, engine_threads="1")
                start = Start(server, Path(sys.executable), None, samples)
                running = servers[_name(processes)] = stack.enter_context(Running(start))
                share.take(running.tree.pids(), first)
        except OSError as error:
            print(f"error: no control group can be made: {error}; this benchmark needs root on Linux", file=sys.stderr)
            return 1
        except ServerFailedError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        processor = dict.fromkeys(servers, 0.0)

        def turn(name: str) -> None:
            before = servers[name].processor_seconds()
            found = servers[name].turn(options.requests, options.connections)
            processor[name] += servers[name].processor_seconds() - before
            assert not found.failed, f"{name}: {found.failed}"

        os.sched_setaffinity(0, others)
        stack.callback(os.sched_setaffinity, 0, cores)
        comparison = alternate(
            {name: partial(turn, name) for name in servers},
            reference=_name(1),
            rounds=options.rounds,
            warmup=0,  # each has answered
            pids=[pid for one in servers.values() for pid in one.tree.pids()],
            details={"share": options.share, "requests_a_turn": options.requests, "connections": options.connections},
        )
    print(table(comparison))
    for processes, timing in zip((1, options.processes), comparison.timings, strict=True):
        used = processor[timing.name] / sum(timing.rounds)
        print(
            f"{timing.name:12} {options.requests / timing.seconds.median:8.1f} requests/s   "
            f"{1e3 * processor[timing.name] / options.requests / options.rounds:6.2f} ms of processor time a request   "
            f"{used / options.share / processes:.0%} of its share used"
        )
    comparison.details["processor_seconds"] = processor
    if options.processes == 2:
        found = comparison[_name(2)].speedup
        print(f"{found:.2f} times; wanted: {WANTED} or more: {'met' if found >= WANTED else 'MISSED'}")
    if options.json is not None:
        write_json(options.json, comparison, packages=PACKAGES)
    return 0 if comparison.valid else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.group", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--processes", type=int, default=2, metavar="N", help="of the group, 2 or more")
    parser.add_argument("--share", type=float, default=0.4, help="of a core, for each process")
    parser.add_argument("--connections", type=int, default=16, help="of the clients")
    parser.add_argument("--requests", type=int, default=400, help="of a turn")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    return parser


if __name__ == "__main__":
    sys.exit(main())
