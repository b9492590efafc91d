"""Freed memory is found again by the next image, unless whoever starts the server wants it otherwise."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest

from service.observability.memory import SET_BY_USER

pytestmark = pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs glibc")

FAULTS = """
import resource, sys
from service.observability.memory import keep_freed_memory
taken = keep_freed_memory() if sys.argv[1] == "keep" else None
bytearray(6 << 20)  # glibc itself raises its threshold at the first block that is freed
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    bytearray(4 << 20)
    bytearray(6 << 20)
print(taken, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def run(what: str, **environment: str) -> tuple[str, int]:
    inherited = {name: value for name, value in os.environ.items() if name not in SET_BY_USER}
    command = [sys.executable, "-c", FAULTS, what]
    found = subprocess.run(command, env=inherited | environment, capture_output=True, text=True, check=True)
    taken, faults = found.stdout.split()
    return taken, int(faults)


def test_blocks_of_an_images_size_come_back_with_their_pages() -> None:
    taken, faults = run("keep")
    _, without = run("leave")
    assert taken == "True"
    assert faults < without / 4


@pytest.mark.parametrize("name", SET_BY_USER)
def test_the_environments_own_settings_stay(name: str) -> None:
    value = "glibc.malloc.trim_threshold=131072" if name == "GLIBC_TUNABLES" else "131072"
    assert run("keep", **{name: value})[0] == "False"
