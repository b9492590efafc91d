"""Kernels that were compiled into an image are found in a container, which cannot write beside them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.patience import PATIENCE
from tests.service.harness import ROOT

KERNEL = """
import sys
import numba

@numba.njit(cache=True)
def double(x):
    return x + x

double(1 if "whole" in sys.argv else 1.5)
print(dict(double.stats.cache_hits), dict(double.stats.cache_misses))
"""
WHOLE, FLOAT = "(int64,): 1", "(float64,): 1"


@pytest.fixture
def application(tmp_path: Path) -> Path:
    """The folder /app of an image: the kernel for whole numbers is compiled."""
    folder = tmp_path / "app"
    folder.mkdir()
    shutil.copy(ROOT / "docker" / "kernel_cache.py", folder)
    (folder / "kernel.py").write_text(KERNEL)
    run(folder, "whole", folder / "kernels", "UserProvidedCacheLocator")
    return folder


def run(application: Path, kind: str, cache: Path, locator: str = "kernel_cache.ImageCacheLocator") -> tuple[str, str]:
    """What of the kernel came from the cache, and what had to be compiled."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(application),
        "NUMBA_CACHE_DIR": str(cache),
        "NUMBA_CACHE_LOCATOR_CLASSES": locator,
    }
    command = [sys.executable, str(application / "kernel.py"), kind]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    found, compiled = done.stdout.split("} {")
    return found, compiled


def test_the_images_kernels_are_used_and_others_are_kept_beside_their_copies(application: Path, tmp_path: Path) -> None:
    before = {file: file.read_bytes() for file in (application / "kernels").rglob("*.nb?")}
    found, compiled = run(application, "whole", tmp_path / "cache")
    assert WHOLE in found
    assert WHOLE not in compiled
    assert FLOAT in run(application, "float", tmp_path / "cache")[1]
    assert FLOAT in run(application, "float", tmp_path / "cache")[0]
    assert {file: file.read_bytes() for file in (application / "kernels").rglob("*.nb?")} == before


def test_where_nothing_can_be_written_numba_says_so_as_it_always_does(application: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder can be made in here")
    with pytest.raises(
        AssertionError, match="no locator available"
    ):  # `model.runtime.kernels.compiled` then does without
        run(application, "whole", tmp_path / "file" / "cache")
