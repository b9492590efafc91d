"""The commands in the documents work as printed: from a fresh clone, without activating anything."""

from __future__ import annotations

import ast
import re
from contextlib import redirect_stdout, suppress
from functools import cache
from importlib import import_module
from io import StringIO
from pathlib import Path

import pytest

from model.console.command import COMMANDS
from service.settings import configuration

ROOT = Path(__file__).resolve().parents[3]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
OTHERWISE_INSTALLED = r"(?<!\.venv/bin/)\bpip install|pip install [^'\s]*\[|maskserve\["
OF_MODULES = "architecture.md"
"""Is about modules, and names commands by them."""


@cache
def manual(name: str) -> str:
    if name == "serve":  # whose main function ends the process
        return configuration.manual()
    text = StringIO()
    with redirect_stdout(text), suppress(SystemExit):
        import_module(COMMANDS[name].module).main(["--help"])
    # What it does not know, it hands on to every training.
    return text.getvalue() + (manual("train") if name == "ablate" else "")


@pytest.mark.parametrize(
    "document", [file for file in DOCUMENTS if file.name != OF_MODULES], ids=lambda file: file.name
)
def test_commands_have_one_spelling(document: Path) -> None:
    others = r"(?<![\w/.-])(?:python -m (?:service|training|benchmarks)[\w.]*|torchrun -\S*)"
    assert not re.findall(others, document.read_text())


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: file.name)
def test_packages_are_installed_in_one_spelling(document: Path) -> None:
    """In the clone's environment, the brackets of extras in quotes."""
    assert not re.findall(OTHERWISE_INSTALLED, document.read_text())


@pytest.mark.parametrize("house", ["model", "service", "training"])
def test_messages_install_in_that_spelling_too(house: str) -> None:
    for file in (ROOT / house).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and "\n" not in node.value:
                assert not re.findall(OTHERWISE_INSTALLED, node.value), file


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: file.name)
def test_commands_and_their_flags_exist(document: Path) -> None:
    text = document.read_text().replace("\\\n", " ")
    for name, arguments in re.findall(r"\.venv/bin/maskserve ([\w-]+)([^`\n#]*)", text):
        assert name in COMMANDS
        for flag in re.findall(r"(?<!\S)--[\w.-]+", arguments):
            assert re.search(rf"{re.escape(flag)}\b", manual(name)), f"{name} has no {flag}"


def test_the_tests_that_documents_name_are_there() -> None:
    for document in DOCUMENTS:
        for name in re.findall(r"tests/[\w/]+\.py", document.read_text()):
            assert (ROOT / name).is_file(), f"{document.name} names {name}"
