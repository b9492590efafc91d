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


def run(what: str, script: str = FAULTS, **environment: str) -> tuple[str, int]:
    inherited = {name: value for name, value in os.environ.items() if name not in SET_BY_USER}
    command = [sys.executable, "-c", script, what]
    found = subprocess.run(command, env=inherited | environment, capture_output=True, text=True, check=True)
    taken, figure = found.stdout.split()
    return taken, int(figure)


def test_blocks_of_an_images_size_come_back_with_their_pages() -> None:
    taken, faults = run("keep")
    _, without = run("leave")
    assert taken == "True"
    assert faults < without / 4


@pytest.mark.parametrize("name", SET_BY_USER)
def test_the_environments_own_settings_stay(name: str) -> None:
    value = "glibc.malloc.trim_threshold=131072" if name == "GLIBC_TUNABLES" else "131072"
    assert run("keep", **{name: value})[0] == "False"


PIECES = """
import resource, sys, threading
from pathlib import Path
from service.observability.memory import give_freed_memory_back, keep_freed_memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

def load_and_free():
    pieces = [bytearray(16 << 10) for _ in range(8 << 10)]
    kept.extend(pieces[::64])

kept = []
keep_freed_memory()
before = resident()
thread = threading.Thread(target=load_and_free)  # in an arena of its own
thread.start()
thread.join()
given = give_freed_memory_back() if sys.argv[1] == "give" else None
print(given, resident() - before)
"""


def test_what_lies_free_between_what_stays_is_given_back() -> None:
    """128 MB in pieces, of which one of 64 stays."""
    given, grown = run("give", PIECES)
    _, without = run("leave", PIECES)
    assert given == "True"
    assert grown < 16 << 20
    assert without > 64 << 20


@pytest.mark.parametrize("name", SET_BY_USER)
def test_nothing_is_given_back_where_the_environment_says_how(name: str) -> None:
    value = "glibc.malloc.trim_threshold=131072" if name == "GLIBC_TUNABLES" else "131072"
    assert run("give", PIECES, **{name: value})[0] == "False"
