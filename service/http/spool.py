"""Bytes that come in pieces: kept in memory, or in a private temporary file where there are many of them.

The file has no name and ends with the process. It is mapped, not read: what was seen of it need not stay in memory.
"""

from __future__ import annotations

import mmap
import tempfile
from typing import IO, Final

from model.runtime.images.data import Data

IN_MEMORY: Final = 32 * 1024**2
"""Bytes that are kept in memory: as many as a body has at most, unless the server is told otherwise."""


class Spool:
    """Not for several threads at once."""

    def __init__(self) -> None:
        self.size = 0
        self._pieces: list[bytes] = []
        self._file: IO[bytes] | None = None

    def spills(self, piece: bytes) -> bool:
        """Whether writing the piece will write to a file, which may take a while."""
        return self.size + len(piece) > IN_MEMORY

    def write(self, piece: bytes) -> None:
        if self.spills(piece) and self._file is None:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115  # which `content` closes
            self._file.writelines(self._pieces)
            self._pieces.clear()
        self.size += len(piece)
        if self._file is None:
            self._pieces.append(piece)
        else:
            self._file.write(piece)

    def content(self) -> Data:
        """All of it; a view of the mapped file where there is one. Nothing is written any more."""
        if self._file is None:
            return b"".join(self._pieces)
        with self._file:
            self._file.flush()
            return memoryview(mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ))
