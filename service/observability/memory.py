"""Freed memory stays with the process, so that the next image finds its pages where the last one's were.

The C library gives every large block back to the system as soon as it is free, and the kernel clears each page again at
the next image's first touch: more time than decoding takes. `benchmarks.service` measures what this is worth. Left
alone, the library also raises the size from which blocks come from the system, and what OpenVINO frees piles up below.
"""

from __future__ import annotations

import ctypes
import os
from typing import Final

# mallopt(3), malloc.h.
M_TRIM_THRESHOLD: Final = -1
M_MMAP_THRESHOLD: Final = -3

KEPT_BYTES: Final = 64 << 20
"""Free memory at the end of an arena beyond this goes back to the system."""
LARGE_BYTES: Final = 8 << 20
"""A single block of this size or more still comes from the system and goes back to it: the pixels of a picture of 2.8
megapixels. More would cost memory that a server holds for its largest picture."""

SET_BY_USER: Final = ("GLIBC_TUNABLES", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_")


def keep_freed_memory() -> bool:
    """Whether glibc took the settings: not where the environment has its own, nor with another C library.

    Call it before threads begin to allocate.
    """
    if any(name in os.environ for name in SET_BY_USER):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # musl, macOS
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)) and bool(mallopt(M_TRIM_THRESHOLD, KEPT_BYTES))


def give_freed_memory_back() -> bool:
    """Give the system all pages in which nothing is allocated any more, wherever they lie, and say whether there were
    any. Not where the environment has its own settings, nor with another C library.

    For after what is rare and large, as loading and freeing a network: it leaves its memory in pieces between what
    stays, in the arenas of its own threads, where no image finds it. An arena is locked while its pages are given back.
    """
    if any(name in os.environ for name in SET_BY_USER):
        return False
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return malloc_trim is not None and bool(malloc_trim(0))
