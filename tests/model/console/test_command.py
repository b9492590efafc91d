"""`maskserve COMMAND`."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from model.console.command import COMMANDS, main

ROOT = Path(__file__).resolve().parents[3]


def run(*arguments: str, block: str = "") -> subprocess.CompletedProcess[str]:
    """The command in a process of its own; `block`: modules, with commas, that cannot be imported there."""
    code = (
        "import sys; sys.modules.update(dict.fromkeys(filter(None, sys.argv.pop(1).split(','))));"
        "from model.console.command import main; sys.exit(main())"
    )
    command = [sys.executable, "-c", code, block, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_the_main_function_of_a_module_and_its_extra_is_there(name: str) -> None:
    command = COMMANDS[name]
    assert callable(import_module(command.module).main)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert not command.extra or command.extra in extras


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    named = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    assert named == list(COMMANDS)
    assert main([]) == 0


def test_an_unknown_command_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trian"]) == 2
    assert capsys.readouterr().err == "maskserve: there is no command trian; did you mean train?\n"
    assert main(["zzz"]) == 2
    assert "there are serve, predict, predict-many, train" in capsys.readouterr().err


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "serve"])
def test_a_command_s_own_manual_is_called_as_the_command(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        raise SystemExit(main([name, "--help"]))
    assert not stopped.value.code
    assert f"usage: maskserve {name}" in capsys.readouterr().out


def test_so_is_that_of_the_server_which_ends_its_process() -> None:
    done = run("serve", "--help")
    assert done.returncode == 0
    assert "usage: maskserve serve" in done.stdout


def test_exit_codes_are_the_commands_own() -> None:
    done = run("serve", "--max_batch_size", "none")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("maskserve: --max-batch-size none: ")


@pytest.mark.parametrize(
    ("name", "missing", "extra"),
    [
        ("serve", "pydantic_settings", "'.[serve]'"),
        ("predict", "httpx", "."),
        ("predict-many", "pyarrow", "'.[many]'"),
        ("train", "torch", "'.[train]'"),
    ],
)
def test_a_package_that_is_not_installed_is_one_line(name: str, missing: str, extra: str) -> None:
    done = run(name, "x", "--output", "x", block=missing)
    assert done.returncode == 2
    assert done.stderr == (
        f"maskserve: {name} needs {missing}, which is not installed: .venv/bin/pip install {extra}\n"
    )
