"""Bytes that come in pieces: kept in memory, or in a private temporary file where there are many of them.

The file has no name and ends with the process. It is mapped, not read: what was seen of it need not stay in memory.
"""

from __future__ import annotations

import logging
import mmap
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Final

from model.runtime.images.data import Data
from service.http.problems import NO_STORAGE, Problem

logger = logging.getLogger(__name__)

IN_MEMORY: Final = 32 * 1024**2
"""Bytes that are kept in memory: as many as a body has at most, unless the server is told otherwise."""


class Spool:
    """Not for several threads at once. `write` and `content` raise Problem where there is no room for a file."""

    def __init__(self) -> None:
        self.size = 0
        self._pieces: list[bytes] = []
        self._file: IO[bytes] | None = None

    def spills(self, piece: bytes) -> bool:
        """Whether writing the piece will write to a file, which may take a while."""
        return self.size + len(piece) > IN_MEMORY

    def write(self, piece: bytes) -> None:
        with self._room():
            if self.spills(piece) and self._file is None:
                self._file = tempfile.TemporaryFile()  # noqa: SIM115  # which `content` closes
                self._file.writelines(self._pieces)
                self._pieces.clear()
            if self._file is not None:
                self._file.write(piece)
        if self._file is None:
            self._pieces.append(piece)
        self.size += len(piece)

    def content(self) -> Data:
        """All of it; a view of the mapped file where there is one. Nothing is written any more."""
        if self._file is None:
            return b"".join(self._pieces)
        with self._room(), self._file:
            self._file.flush()
            return memoryview(mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ))

    @contextmanager
    def _room(self) -> Iterator[None]:
        """Whoever sent the body is told that there is none, and the log where, which is not for everybody."""
        try:
            yield
        except OSError as error:
            if self._file is not None:
                with suppress(OSError):  # it cannot write what it still holds
                    self._file.close()
            logger.error("a body of more than %d bytes has no temporary file: %s (TMPDIR)", IN_MEMORY, error)
            raise Problem(
                NO_STORAGE,
                f"A body of more than {IN_MEMORY} bytes is kept in a temporary file, which the server cannot write "
                f"({error.strerror or 'no reason is known'}). Send it smaller, or tell whoever runs the server.",
            ) from error
