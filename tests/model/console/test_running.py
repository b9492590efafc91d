"""How commands end where they cannot go on. Each runs in a process of its own, as a shell runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from model.console.running import INTERRUPTED, UNREAD, UNWRITTEN, interruptible
from training.data.shapes import write_shapes

ROOT = Path(__file__).resolve().parents[3]
FULL = "/dev/full"
NO_ROOM = "error: the output cannot be written: No space left on device\n"
CLOSED = "error: the output cannot be written: Bad file descriptor\n"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    write_shapes(folder, train=2, val=1, seed=0)
    return folder


def shell(words: str, unbuffered: str = "") -> subprocess.CompletedProcess[str]:
    """`python` in the line is this one; its exit status is the first command's."""
    line = words.replace("python", sys.executable)
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    command = ["bash", "-c", f"{line}; exit ${{PIPESTATUS[0]}}"]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_ctrl_c_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def stopped() -> int:
        raise KeyboardInterrupt

    assert interruptible(stopped) == INTERRUPTED
    assert capsys.readouterr().err == "interrupted\n"
    assert interruptible(lambda: 3) == 3


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", ["model.console.command --help", "training.data.convert --help"])
def test_a_reader_that_leaves_a_full_disk_and_a_closed_stdout(command: str, unbuffered: str) -> None:
    left = shell(f"python -m {command} | true", unbuffered)
    assert (left.returncode, left.stderr) == (UNREAD, "")
    full = shell(f"python -m {command} > {FULL}", unbuffered)
    assert (full.returncode, full.stderr) == (
        UNWRITTEN,
        "error: the output cannot be written: No space left on device\n",
    )
    closed = shell(f"python -m {command} >&-", unbuffered)
    assert (closed.returncode, closed.stderr) == (
        UNWRITTEN,
        "error: the output cannot be written: Bad file descriptor\n",
    )


def test_a_check_of_which_only_a_part_is_read_is_not_one_of_broken_records(data: Path) -> None:
    left = shell(f"python -m training.data.check {data} | true")
    assert (left.returncode, left.stderr.strip()) == (UNREAD, "")
    full = shell(f"python -m training.data.check {data} > {FULL}")
    assert full.returncode == UNWRITTEN
    assert full.stderr.strip() == NO_ROOM.strip()


def test_what_is_said_on_a_closed_stderr_does_not_come_on_stdout() -> None:
    closed = shell("python -m training.data.check /nowhere 2>&-")
    assert (closed.returncode, closed.stdout) == (2, "")


def test_a_fault_of_another_kind_is_not_hidden() -> None:
    code = "from model.console.running import interruptible; interruptible(lambda: open('/nowhere/x').fileno())"
    assert "No such file or directory: '/nowhere/x'" in shell(f'python -c "{code}"').stderr
    broken = code.replace("open('/nowhere/x').fileno()", "exec('raise BrokenPipeError(32, 1)')")
    assert "Traceback" in shell(f'python -c "{broken}"').stderr


@pytest.mark.parametrize(
    ("module", "missing", "extra"),
    [
        ("service", "pydantic_settings", "serve"),
        ("training.train", "torch", "train"),
        ("training.evaluate", "torch", "train"),
        ("training.export", "torch", "train"),
        ("training.ablate", "torch", "train"),
        ("training.data.check", "yaml", "train"),
        ("training.data.convert", "yaml", "train"),
        ("training.data.shapes", "faster_coco_eval", "train"),
        ("training.data.figures", "faster_coco_eval", "train"),
    ],
)
def test_a_module_says_which_package_it_needs(module: str, missing: str, extra: str, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(f"import sys; sys.modules[{missing!r}] = None")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-m", module, "x"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    said = f"maskserve: {module} needs {missing}, which is not installed: .venv/bin/pip install '.[{extra}]'\n"
    assert (done.returncode, done.stderr) == (2, said)
