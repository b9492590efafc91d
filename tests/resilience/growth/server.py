"""The server as it is, but that it remembers fewer tiles, and tells what its allocators hold: a line for each that
comes on its stdin."""

from __future__ import annotations

import ctypes
import json
import os
import sys
import threading
from functools import partial
from typing import Any, TextIO

from service.__main__ import main
from service.prediction import pipeline
from service.prediction.remembered import TileMemory

REMEMBERED = 2 << 20
"""Bytes of tiles: full after a few pictures, and not in the middle of what is measured."""

_FIGURES = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"


class MallInfo(ctypes.Structure):
    """mallinfo2(3)."""

    _fields_ = [(name, ctypes.c_size_t) for name in _FIGURES.split()]


def held(mallinfo: Any) -> dict[str, int]:
    """Bytes that are allocated in the C library, bytes that it keeps free, and Python's small blocks in use."""
    found = mallinfo()
    return {
        "allocated": found.uordblks + found.hblkhd,
        "free": found.fordblks,
        "objects": sys.getallocatedblocks(),
    }


def _tell(stdout: TextIO) -> None:
    mallinfo = ctypes.CDLL(None).mallinfo2
    mallinfo.restype = MallInfo
    for _ in sys.stdin:
        print(json.dumps(held(mallinfo)), file=stdout, flush=True)


if __name__ == "__main__":
    pipeline.TileMemory = partial(TileMemory, REMEMBERED)  # it is only called
    own = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # where the log goes
    threading.Thread(target=_tell, args=(own,), name="tell", daemon=True).start()
    main()
