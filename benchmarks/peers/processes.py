"""A server under test as a tree of processes: started, stopped while it is another's turn, measured, ended."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
END_SECONDS = 15
PR_SET_CHILD_SUBREAPER = 36


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def orphans_adopted() -> Iterator[None]:
    """Meanwhile processes whose parents end become this one's children: their time counts as the server's."""
    prctl = ctypes.CDLL(None).prctl
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


class Tree:
    """A process and all that descend from it."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], folder: Path) -> None:
        """Start it; its output goes to `folder`/log. The repository is on its PYTHONPATH, and no MASKSERVE_ setting."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("MASKSERVE_")}
        self.log = folder / "log"
        with self.log.open("wb") as log:
            self.started = time.perf_counter()
            self.process = subprocess.Popen(
                command,
                env={**inherited, "PYTHONPATH": str(ROOT), **environment},
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def pids(self) -> list[int]:
        """It and its descendants, parents first."""
        children: dict[int, list[int]] = defaultdict(list)
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    fields = (entry / "stat").read_text().rpartition(")")[2].split()
                    children[int(fields[1])].append(int(entry.name))
        found = [self.process.pid]
        for pid in found:
            found += children[pid]
        return found

    def pause(self) -> None:
        """Take the processor away from it."""
        _signal(self.pids(), signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        _signal(reversed(self.pids()), signal.SIGCONT)

    def resident(self) -> int:
        """Bytes of memory that it holds: the sum over its processes, whose shared pages count for each."""
        return self._memory("VmRSS")

    def peak(self) -> int:
        """The most that each of its processes has held, in bytes, summed."""
        return self._memory("VmHWM")

    def _memory(self, field: str) -> int:
        total = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                lines = Path(f"/proc/{pid}/status").read_text().splitlines()
                total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))
        return total

    def last_words(self) -> str:
        """The end of its output."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])

    def end(self, patience: float = END_SECONDS) -> None:
        """SIGTERM, and SIGKILL for what is still there after so many seconds."""
        pids = self.pids()
        if self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(patience)
        _signal(pids, signal.SIGKILL)
        self.process.wait()
        for pid in pids[1:]:  # those that were adopted
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def _signal(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
