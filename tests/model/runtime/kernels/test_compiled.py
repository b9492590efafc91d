"""Kernels work, and are cached where that is possible, wherever the program was installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[4]
MODULE = """
from model.runtime.kernels.compiled import kernel

@kernel
def double(x):
    return 2 * x
"""


# (what the installation is like, which cache folders can be written, where the cache must then lie)
PLACES = [
    ("its own folder can be written", {"beside", "user"}, "beside"),
    ("a read-only installation", {"user"}, "user"),
    ("nothing can be written", set(), None),
]


@pytest.mark.parametrize(("writable", "expected"), [case[1:] for case in PLACES], ids=[case[0] for case in PLACES])
def test_kernel_and_its_cache(tmp_path: Path, writable: set[str], expected: str | None) -> None:
    (tmp_path / "module_with_kernel.py").write_text(MODULE)
    folders = {"beside": tmp_path / "__pycache__", "user": tmp_path / "user"}
    for name, folder in folders.items():
        if name in writable:
            folder.mkdir()
        else:
            folder.write_text("a file where the folder would be: not writable even for root")
    environment = {key: value for key, value in os.environ.items() if key != "NUMBA_CACHE_DIR"}
    environment |= {
        "PYTHONPATH": os.pathsep.join((str(tmp_path), str(REPOSITORY))),
        "PYTHONDONTWRITEBYTECODE": "1",
        "XDG_CACHE_HOME": str(folders["user"]),
    }
    code = "from module_with_kernel import double; print(double(21))"
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert (run.stdout, run.stderr, run.returncode) == ("42\n", "", 0)
    cached = {name for name, folder in folders.items() if folder.is_dir() and any(folder.rglob("*.nbi"))}
    assert cached == ({expected} if expected else set())
