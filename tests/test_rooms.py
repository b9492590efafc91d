"""The tree shows what lives where: rooms hold the modules, and each folder says in one line what is in it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HOUSES = ("model", "service", "training", "benchmarks")
ALONE = {
    "model": {"architecture"},
    "service": {"app", "server", "ray_app", "__main__"},
    "training": {"train", "evaluate", "export", "ablate"}
    | {"command_line", "manual", "config", "checkpoint", "distributed", "progress"},
    "training/data": {"check", "convert", "hold_out", "shapes", "figures"},
}
"""The modules that stand in a house itself: what starts it, the commands, and what every room needs."""
SPEAKING = {"service": "the version", "service/client": "the public API of the client"}
"""Packages whose __init__ holds more than its line, and why."""
FULL = 15


def folders() -> list[str]:
    inits = (file for house in HOUSES for file in (ROOT / house).rglob("__init__.py"))
    return sorted(str(file.parent.relative_to(ROOT)) for file in inits)


@pytest.mark.parametrize("house", ALONE)
def test_a_house_holds_rooms_and_few_modules_beside_them(house: str) -> None:
    assert {file.stem for file in (ROOT / house).glob("*.py")} - {"__init__"} == ALONE[house]


@pytest.mark.parametrize("folder", folders())
def test_a_folder_says_in_one_line_what_lives_there(folder: str) -> None:
    body = ast.parse((ROOT / folder / "__init__.py").read_text()).body
    assert body, "it says nothing"
    line = body[0].value if isinstance(body[0], ast.Expr) else None
    assert isinstance(line, ast.Constant)
    assert "\n" not in str(line.value) or folder in SPEAKING
    assert len(body) == 1 or folder in SPEAKING, "no re-exports"


@pytest.mark.parametrize("folder", folders())
def test_no_folder_is_full(folder: str) -> None:
    assert len(list((ROOT / folder).glob("*.py"))) - 1 <= FULL


@pytest.mark.parametrize("house", ALONE)
def test_the_architecture_names_what_stands_in_a_house(house: str) -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    missing = [name for name in ALONE[house] if f"{name}.py`" not in page]
    assert not missing
