"""Runs the command: here, or in a process of its own that can be killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from pyarrow import parquet

from service.predict_many.__main__ import main
from tests.service.harness import ROOT

ENGINE = ("--engine-threads", "1", "--decode-threads", "2")


def predict(models: Path, *arguments: object) -> int:
    return main([*ENGINE, "--models", str(models), *map(str, arguments)])


def start(models: Path, *arguments: object) -> subprocess.Popen[str]:
    words = [*ENGINE, "--models", str(models), *map(str, arguments)]
    command = [sys.executable, "-m", "service.predict_many", *words]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def rows(file: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = parquet.read_table(file).to_pylist()
    return found


def content(folder: Path) -> dict[str, bytes]:
    """Every file below, by its place."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
