"""What a dataset contains, as a fingerprint: the same wherever it lies and whatever its files are called."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from training.data.annotations.dataset import Dataset
from training.data.annotations.packed import PackedAnnotations

PIECE = 1 << 15
"""Bytes. Of a file larger than three of them only its start, middle and end are read, and its length: enough to tell
two compressed pictures apart, and cheap on a hundred thousand of them: a change moves what follows, or, in PNG, the sum
at the end."""
_UNCOMPRESSED = (b"BM", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""How BMP and TIFF begin. They are read whole: a change of their pixels need not show anywhere else."""

READERS = 8
"""Threads; they wait for the disk most of the time."""


def fingerprint(data: Dataset) -> str:
    """SHA-256 in hexadecimal of what can be learned from a dataset: its classes, and of each image, in their order, the
    size, the file's bytes and the annotations. Paths, file names and ids do not count.

    Raises OSError where an image cannot be read.
    """
    digest = hashlib.sha256()
    classes = [[category.name, *category.keypoints] for category in data.categories]
    digest.update(json.dumps([classes, data.num_keypoints]).encode())
    for part in PackedAnnotations.pack(data.annotations).content():
        digest.update(part)
    with ThreadPoolExecutor(READERS) as pool:
        for record, file in zip(data.images, pool.map(_file_digest, _paths(data)), strict=True):
            digest.update(f"{record.width}x{record.height}".encode())
            digest.update(file)
    return digest.hexdigest()


def _paths(data: Dataset) -> Iterator[Path]:
    return (record.path for record in data.images)


def _file_digest(path: Path) -> bytes:
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        digest = hashlib.sha256(str(size).encode())
        if size <= 3 * PIECE or file.read(4).startswith(_UNCOMPRESSED):
            file.seek(0)
            while piece := file.read(PIECE):
                digest.update(piece)
        else:
            for start in (0, (size - PIECE) // 2, size - PIECE):
                file.seek(start)
                digest.update(file.read(PIECE))
    return digest.digest()
