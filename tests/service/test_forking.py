"""That what is forked for a test is what `python -m` starts: a process of its own, as it was ordered."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.patience import PATIENCE
from tests.service.forking import ROOT, Forked, fork
from tests.service.harness import until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked for tests on Linux only")

STAY, FAIL = "stay", "fail"


def ordered(*arguments: str, **environment: str) -> Forked:
    """This file as `__main__`, below."""
    process = fork("tests.service.test_forking", arguments, {**os.environ, **environment})
    assert process is not None
    return process


def told(process: Forked) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(process.stdout.readline())
    return facts


def has_ended(number: int) -> bool:
    try:
        return "State:\tZ" in Path(f"/proc/{number}/status").read_text()  # nobody has asked for its exit code
    except (FileNotFoundError, ProcessLookupError):
        return True


def has_children(number: int) -> bool:
    try:
        return bool(Path(f"/proc/{number}/task/{number}/children").read_text())
    except (FileNotFoundError, ProcessLookupError):
        return False


def close(process: Forked) -> None:
    process.kill()
    process.wait(PATIENCE)
    process.stdout.close()
    process.stderr.close()


def test_it_is_a_process_of_its_own_as_it_was_ordered() -> None:
    processes = [ordered("7", "a b", TEST_IT="a\nb", MASKSERVE_X="ä") for _ in range(2)]
    facts = [told(process) for process in processes]
    for process, found in zip(processes, facts, strict=True):
        assert found["pid"] == process.pid != os.getpid()
        assert found["arguments"][1:] == ["7", "a b"]
        assert Path(found["arguments"][0]) == Path(__file__)
        assert found["folder"] == str(ROOT)
        assert found["environment"] == {**os.environ, "TEST_IT": "a\nb", "MASKSERVE_X": "ä"}
        assert found["descriptors"] == [0, 1, 2]
        assert (found["has imported the server"], found["has imported torch"]) == (True, False)
        assert found["its parent's threads"] == 1, "a thread would not live on in a child"
        assert process.wait(PATIENCE) == process.poll() == 7
        assert process.stderr.read() == "on stderr\n"
        process.kill()  # which nobody is, any more
        close(process)
    assert facts[0]["random"] != facts[1]["random"]


def test_it_lives_until_a_signal_ends_it() -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        process = ordered(STAY)
        told(process)
        assert process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.01)
        process.send_signal(number)
        assert process.wait(PATIENCE) == -number
        close(process)


def test_what_it_raises_is_a_traceback_and_a_1() -> None:
    process = ordered(FAIL)
    told(process)
    assert process.wait(PATIENCE) == 1
    assert process.stderr.read().endswith("RuntimeError: failed\n")
    close(process)


def test_what_an_import_may_read_is_that_of_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fork("tests.service.test_forking", [], {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}) is None
    before = ordered(STAY)
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    after = ordered(STAY)
    first = told(before)
    assert "OMP_WAIT_POLICY" not in first["environment"]
    assert told(after)["parent's environment"]["OMP_WAIT_POLICY"] == "PASSIVE"
    assert before.poll() is None, "who was there goes on"
    for process in (before, after):
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == -signal.SIGTERM
        close(process)
    until(lambda: has_ended(first["parent"]) or has_children(first["parent"]))  # a server of other tests may be there


def test_it_ends_with_the_tests() -> None:
    """However they end."""
    program = (
        "import os, signal\n"
        "from tests.service.test_forking import ordered, told\n"
        f"print(told(ordered({STAY!r}))['pid'], flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    until(lambda: has_ended(int(ended.stdout)))


def _main(*arguments: str) -> None:
    facts = {
        "pid": os.getpid(),
        "parent": os.getppid(),
        "arguments": sys.argv,
        "folder": os.getcwd(),
        "environment": dict(os.environ),
        "descriptors": [number for number in range(100) if Path(f"/proc/self/fd/{number}").exists()],
        "has imported the server": "service.server" in sys.modules,
        "has imported torch": "torch" in sys.modules,
        "its parent's threads": len(os.listdir(f"/proc/{os.getppid()}/task")),
        "parent's environment": dict(
            line.split("=", 1) for line in Path(f"/proc/{os.getppid()}/environ").read_text().split("\0") if line
        ),
        "random": random.random(),
    }
    print(json.dumps(facts), flush=True)
    print("on stderr", file=sys.stderr)
    if STAY in arguments:
        signal.pause()
    if FAIL in arguments:
        raise RuntimeError("failed")
    sys.exit(int(arguments[0]))


if __name__ == "__main__":
    _main(*sys.argv[1:])
