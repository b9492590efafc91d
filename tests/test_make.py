"""What make would do. It is not done here: it would install packages."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.resilience.targets import TARGETS

ROOT = Path(__file__).resolve().parents[1]


def planned(*arguments: str) -> list[str]:
    """The lines that make would run, on a fresh clone."""
    if shutil.which("make") is None:
        pytest.skip("needs make")
    # As in a shell of its own: below `make test`, make would say which folder it enters.
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    command = ["make", "--dry-run", "--always-make", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=outside)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_serve_installs_compiles_and_starts_and_says_so_on_stderr() -> None:
    lines = planned("serve", "PORT=9000", "HOST=0.0.0.0")
    said = [line for line in lines if line.startswith("echo ")]
    assert [line.split("make: ")[1].split()[0] for line in said] == ["installing", "compiling"]
    assert all(line.endswith(">&2") for line in said)
    assert lines[-1].endswith("maskserve serve --host 0.0.0.0 --port 9000")


def test_serve_itself_writes_nothing_to_stdout_but_the_servers_log() -> None:
    recipe = (ROOT / "Makefile").read_text("utf-8").split("\nserve:")[1].split("\n\n")[0]
    assert all(line.startswith("\t@") for line in recipe.splitlines()[1:])


def test_test_checks_all_that_needs_no_network() -> None:
    checks = [Path(line.split()[0]).name for line in planned("test") if line.startswith(".venv/bin/")]
    assert {"ruff", "mypy", "lint-imports", "bandit", "pip-licenses"} <= set(checks)
    assert "pip-audit" not in " ".join(planned("test"))


def test_test_ends_with_pytest() -> None:
    assert "-m pytest" in planned("test")[-1]


def test_soak_fuzzes_every_target_and_ends_with_the_server_under_load() -> None:
    lines = planned("soak", "MINUTES=5")
    (fuzzing,) = [line for line in lines if "tests.resilience.fuzz" in line]
    assert fuzzing.partition("in ")[2].partition(";")[0].split() == [*TARGETS]
    assert lines[-1].endswith("-m tests.resilience.soak --minutes 5")
