"""Servers without the imports that most of a start is: a process that has done them is forked for each.

What is forked is what `python -m` starts: a process of its own, with its own arguments, environment, output and exit
code, that runs the module as `__main__`. Only what is read while the server's modules are imported is the parent's, so
that whoever gives other variables than the tests have, or asks what imports do or cost, starts a real one.

python -m tests.service.forking DESCRIPTOR      # the parent, which takes its orders from that socket
"""

from __future__ import annotations

import atexit
import ctypes
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.connection import wait as wait_for
from pathlib import Path
from typing import Final

from service.settings.environment import PREFIX

ROOT = Path(__file__).resolve().parents[2]

READ_LATE: Final = (PREFIX, "TEST_", "PYTEST_")
"""Beginnings of the names of variables that no import reads."""
PR_SET_PDEATHSIG: Final = 1
NUMBER: Final = 4
"""Bytes of a process's id and of its exit code, as the parent reports them."""


class Forked:
    """A child of the parent, with what tests use of `subprocess.Popen`."""

    def __init__(self, report: int, stdout: int, stderr: int) -> None:
        self.stdout, self.stderr = os.fdopen(stdout, encoding="utf-8"), os.fdopen(stderr, encoding="utf-8")
        self.returncode: int | None = None
        self._report = os.fdopen(report, "rb", buffering=0)
        self.pid = self._reported()

    def poll(self) -> int | None:
        return self._ended(0)

    def wait(self, timeout: float | None = None) -> int:
        code = self._ended(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
        return code

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """All that it says, and then it has ended."""
        with ThreadPoolExecutor(2) as pool, self.stdout, self.stderr:
            output, errors = (pool.submit(stream.read) for stream in (self.stdout, self.stderr))
            try:
                self.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()  # or reading would go on
                raise
            return output.result(), errors.result()

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):  # it ended, and the report of that is under way
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _ended(self, timeout: float | None) -> int | None:
        if self.returncode is None and wait_for([self._report], timeout):
            self.returncode = self._reported()
            self._report.close()
        return self.returncode

    def _reported(self) -> int:
        number = self._report.read(NUMBER)
        assert number, "the process that forks servers has ended"
        return int.from_bytes(number, sys.byteorder, signed=True)


class _Parent:
    """The process that forks, seen from the tests. Its children are in its network."""

    def __init__(self, network: int, environment: Mapping[str, str]) -> None:
        self.place = network, environment
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, "-m", "tests.service.forking", str(theirs.fileno())]
            self._process = subprocess.Popen(command, cwd=ROOT, env=environment, pass_fds=[theirs.fileno()])
        atexit.register(self._end)

    def fork(self, module: str, arguments: Sequence[str], environment: Mapping[str, str]) -> Forked:
        order = json.dumps([module, arguments, dict(environment)]).encode()
        (report, reported), (stdout, written), (stderr, told) = (os.pipe() for _ in range(3))
        theirs = [reported, written, told]
        try:
            socket.send_fds(self._control, [order], theirs)
        finally:
            for descriptor in theirs:
                os.close(descriptor)
        return Forked(report, stdout, stderr)

    def retire(self) -> None:
        """It ends with its last child."""
        self._control.shutdown(socket.SHUT_WR)

    def _end(self) -> None:
        self._control.close()
        self._process.wait()


_lock = threading.Lock()
_parents: list[_Parent] = []


def _parent() -> _Parent:
    """Another one where this process has come into another network, or other variables, as of what it has imported."""
    place = os.stat("/proc/thread-self/ns/net").st_ino, _read_early(os.environ)
    if not _parents or _parents[-1].place != place:
        for parent in _parents[-1:]:
            parent.retire()
        _parents.append(_Parent(*place))
    return _parents[-1]


def fork(module: str, arguments: Sequence[str], environment: Mapping[str, str]) -> Forked | None:
    """`python -m module` with its output captured; None where only a start from nothing is the same."""
    if sys.platform != "linux" or _read_early(environment) != _read_early(os.environ):
        return None
    with _lock:
        return _parent().fork(module, arguments, environment)


def _read_early(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if not name.startswith(READ_LATE)}


def _import_what_servers_import() -> None:
    """No session, event loop or thread: those would not live on in a child."""
    import uvicorn.lifespan.on
    import uvicorn.loops.uvloop  # noqa: F401

    import model.runtime.engines.onnx  # noqa: F401
    import service.app
    import service.observability.memory
    import service.server
    import service.settings.configuration
    import service.settings.listen  # noqa: F401
    from model.runtime.kernels import masks, overlaps, regions

    masks.warm_up()
    overlaps.warm_up()
    regions.warm_up()


def _serve_orders(control: socket.socket) -> tuple[str, list[str]]:
    """Forks until the tests have ended, or it is retired. Returns in each child what it shall run."""
    parent, ready, running, retired = os.getpid(), select.poll(), dict[int, tuple[int, int]](), False
    ready.register(control, select.POLLIN)
    while running or not retired:
        for descriptor, event in ready.poll():
            if descriptor in running:
                pid, report = running.pop(descriptor)
                ready.unregister(descriptor)
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                with suppress(BrokenPipeError):  # nobody asks any more
                    os.write(report, code.to_bytes(NUMBER, sys.byteorder, signed=True))
                os.close(report)
                os.close(descriptor)
                continue
            if event & select.POLLHUP:  # the other end is closed: the tests have ended
                os._exit(0)
            order, theirs, *_ = socket.recv_fds(control, 1 << 20, 3)
            if not order:
                retired = True
                ready.modify(control, 0)
                continue
            pid = os.fork()
            if pid == 0:
                module, arguments, environment = json.loads(order)
                control.close()
                _become(parent, theirs, environment)
                return module, arguments
            report, *outputs = theirs
            for output in outputs:
                os.close(output)
            os.write(report, pid.to_bytes(NUMBER, sys.byteorder))
            watched = os.pidfd_open(pid)
            running[watched] = pid, report
            ready.register(watched, select.POLLIN)
    os._exit(0)


def _become(parent: int, descriptors: Sequence[int], environment: Mapping[str, str]) -> None:
    """What `subprocess` does between fork and exec; and a child ends with its parent, which ends with the tests."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    _, stdout, stderr = descriptors
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    os.closerange(3, 1 << 20)
    os.environ.clear()
    os.environ.update(environment)


if __name__ == "__main__":
    _import_what_servers_import()
    name, sys.argv[1:] = _serve_orders(socket.socket(fileno=int(sys.argv[1])))
    sys.orig_argv[1:] = ["-m", name, *sys.argv[1:]]  # a server of several processes starts them by it
    runpy.run_module(name, run_name="__main__", alter_sys=True)
