"""The bytes of an image file: in memory, or mapped from a file where there are many of them."""

from __future__ import annotations

import mmap
from io import SEEK_CUR, SEEK_END, BytesIO, RawIOBase
from typing import IO, TypeAlias

Data: TypeAlias = bytes | memoryview


def as_file(data: Data) -> IO[bytes]:
    """To read from, without a copy of it."""
    return BytesIO(data) if isinstance(data, bytes) else _View(data)  # type: ignore[return-value]  # is one, to read


def let_go(data: Data) -> None:
    """What was read of a mapped file counts as the process's memory no longer. It can be read again."""
    if isinstance(data, memoryview) and isinstance(data.obj, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        data.obj.madvise(mmap.MADV_DONTNEED)


class _View(RawIOBase):
    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = max(0, offset + {SEEK_CUR: self._at, SEEK_END: len(self._data)}.get(whence, 0))
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, into: bytearray | memoryview) -> int:  # type: ignore[override]  # what RawIOBase hands in
        part = self._data[self._at : self._at + len(into)]
        into[: len(part)] = part
        self._at += len(part)
        return len(part)
