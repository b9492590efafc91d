"""Reads a bundle's small files, which anybody may have put there: a pipe would be waited for, a device never ends."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from model.runtime.bundles.errors import DamagedFile


def read_small(file: Path, most: int) -> bytes:
    """Its content, at most `most` bytes. Raises DamagedFile where it is longer or no plain file, and OSError."""
    with os.fdopen(os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as opened:
        if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
            raise DamagedFile(f"{file} is no plain file; publish or copy the bundle again")
        content = opened.read(most + 1)
    if len(content) > most:
        raise DamagedFile(f"{file} has more than {most} bytes; publish or copy the bundle again")
    return content
