"""What make would do. It is not done here: it would install packages."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.resilience.targets import TARGETS

ROOT = Path(__file__).resolve().parents[1]


def outside() -> dict[str, str]:
    """As in a shell of its own: below `make test`, make would say which folder it enters."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}


def planned(*arguments: str) -> list[str]:
    """The lines that make would run, on a fresh clone."""
    if shutil.which("make") is None:
        pytest.skip("needs make")
    command = ["make", "--dry-run", "--always-make", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=outside())
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


TOOLS = ("ruff", "mypy", "lint-imports", "bandit", "pip-licenses", "python")
"""Of which the last runs the tests."""


@pytest.mark.parametrize("failing", [None, *TOOLS])
def test_test_fails_where_a_check_or_a_test_does_and_runs_the_others(failing: str | None, tmp_path: Path) -> None:
    """With tools that only say that they ran."""
    if shutil.which("make") is None:
        pytest.skip("needs make")
    shutil.copy(ROOT / "Makefile", tmp_path)
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name in TOOLS:
        (programs / name).write_text(f"#!/bin/sh\ntouch {tmp_path}/ran-{name}\nexit {int(name == failing)}\n")
        (programs / name).chmod(0o755)
    for file in ("pyproject.toml", "constraints.txt", ".venv/all.stamp"):
        (tmp_path / file).touch()
    done = subprocess.run(["make", "test"], cwd=tmp_path, capture_output=True, text=True, env=outside())
    assert (done.returncode != 0) == (failing is not None), done.stdout + done.stderr
    ran = {file.name.removeprefix("ran-") for file in tmp_path.glob("ran-*")}
    assert ran == ({"ruff"} if failing == "ruff" else {*TOOLS})


def test_soak_fuzzes_every_target_and_ends_with_the_server_under_load() -> None:
    lines = planned("soak", "MINUTES=5")
    (fuzzing,) = [line for line in lines if "tests.resilience.fuzz" in line]
    assert fuzzing.partition("in ")[2].partition(";")[0].split() == [*TARGETS]
    assert lines[-1].endswith("-m tests.resilience.soak --minutes 5")
