"""Runs the command: here, or in a process of its own that can be killed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from pyarrow import parquet

from service.predict_many.__main__ import main
from tests.service.harness import ROOT
from tests.service.holding import FOLDER

# What a test holds does not hang, however long another process takes to start.
ENGINE = ("--engine-threads", "1", "--decode-threads", "2", "--engine-stall-ms", "0")


def predict(models: Path, *arguments: object) -> int:
    return main([*ENGINE, "--models", str(models), *map(str, arguments)])


# What a shell runs in the background ignores Ctrl-C, and so would all that it starts.
HELD = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from tests.service.holding import install
from service.predict_many.__main__ import main
install()
raise SystemExit(main())
"""


def start(models: Path, *arguments: object, holding: Path) -> subprocess.Popen[str]:
    """`holding` is the folder of `tests.service.holding`."""
    words = [*ENGINE, "--models", str(models), *map(str, arguments)]
    environment = {**os.environ, FOLDER: str(holding)}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-c", HELD, *words], cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True
    )


def rows(file: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = parquet.read_table(file).to_pylist()
    return found


def by_detection(rows: list[dict[str, Any]], prefix: str) -> dict[tuple[str, int | None], dict[str, Any]]:
    """Rows without what says where the images were, by the image's name behind `prefix` and the detection's number."""
    found = {}
    for row in rows:
        key = row["image"].removeprefix(prefix), row["detection"]
        assert key not in found, f"{key} is there twice"
        found[key] = row | {"image": None, "image_id": None}
    return found


def content(folder: Path) -> dict[str, bytes]:
    """Every file below, by its place."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
