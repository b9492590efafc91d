"""The wall clock may jump: it is read to be shown, and nothing waits, ends or is forgotten by it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
WALL = {"time", "time_ns", "now", "utcnow", "today", "localtime", "gmtime", "ctime"}
"""Of the modules `time` and `datetime`."""
CLOCKS = {"time", "datetime", "date"}
SHOWN = {
    "service/observability/by_version.py": "when a version was last asked, for Triton's statistics",
    "service/observability/observe.py": "when a request began, for traces",
    "service/observability/record.py": "when a stage ended, for traces",
    "service/prediction/pipeline.py": "when a stage ended, for traces",
    "model/runtime/bundles/bundle.py": "when a bundle was made, for its manifest",
}
"""Files that read it, and what for."""


def serving() -> list[Path]:
    files = (*(ROOT / "service").rglob("*.py"), *(ROOT / "model" / "runtime").rglob("*.py"))
    return sorted(file for file in files if "client" not in file.parts)  # which reads dates that servers send


def reads(tree: ast.AST) -> Iterator[int]:
    """The lines that read the wall clock."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in WALL and getattr(node.value, "id", "") in CLOCKS:
            yield node.lineno
        if isinstance(node, ast.ImportFrom) and node.module == "time" and WALL & {name.name for name in node.names}:
            yield node.lineno


def test_only_those_read_it_that_show_it() -> None:
    found = {str(file.relative_to(ROOT)) for file in serving() if [*reads(ast.parse(file.read_text()))]}
    assert found == set(SHOWN)


@pytest.mark.parametrize("file", SHOWN)
def test_no_difference_is_taken_of_it(file: str) -> None:
    """Nor is it compared: that is how a deadline would come into it. What is taken from it is a duration."""
    tree = ast.parse((ROOT / file).read_text())
    for node in ast.walk(tree):
        inside = [node.left, *node.comparators] if isinstance(node, ast.Compare) else []
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub):
            inside = [node.right]
        assert not any(line for part in inside for line in reads(part)), f"{file}:{node.lineno}"


def test_it_is_found_where_it_is_read() -> None:
    """The test before would pass with a search that finds nothing."""
    text = "import time\nfrom time import time_ns\ntime.time()\ndatetime.now(UTC)\ntime.monotonic()\nself.now()\n"
    assert sorted(reads(ast.parse(text))) == [2, 3, 4]
