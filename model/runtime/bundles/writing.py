"""How files get into a repository: whole and on the disk, in a folder that nobody sees before it is renamed."""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from model.runtime.bundles.manifest import FileRecord

_COPY_BYTES: Final = 1 << 20


@contextmanager
def hidden_folder(repository: Path, name: str) -> Iterator[Path]:
    """A new folder that no reader of the repository looks at; removed unless it was renamed."""
    # Not tempfile.mkdtemp: its mode 0700 would stay on the published bundle and lock the server's user out.
    hidden = repository / f".publishing-{name}-{uuid.uuid4().hex}"
    hidden.mkdir()
    try:
        yield hidden
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


@contextmanager
def naming(file: Path) -> Iterator[None]:
    """An OSError of a file that is open, such as that the disk is full, names none: this one."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or os.fspath(file)
        raise


def copy_file(source: Path, target: Path) -> FileRecord:
    digest, size = hashlib.sha256(), 0
    with source.open("rb") as reader, naming(target), target.open("xb") as writer:
        while chunk := reader.read(_COPY_BYTES):
            digest.update(chunk)
            size += writer.write(chunk)
        _sync(writer)
    return FileRecord(sha256=digest.hexdigest(), bytes=size)


def record_of(file: Path) -> FileRecord:
    """Of a file that was written by others; it reaches the disk."""
    with naming(file), file.open("rb+") as writer:
        _sync(writer)
    return FileRecord(sha256=sha256_of(file), bytes=file.stat().st_size)


def write_file(file: Path, content: bytes) -> None:
    with naming(file), file.open("wb") as writer:
        writer.write(content)
        _sync(writer)


def replace_file(file: Path, content: bytes) -> None:
    """The file has this content, or what it had before. Raises OSError, which names it."""
    partial = file.with_name(f".{file.name}.partial")
    try:
        write_file(partial, content)
        partial.replace(file)
    except OSError as error:
        partial.unlink(missing_ok=True)
        error.filename = os.fspath(file)
        raise


def sha256_of(file: Path) -> str:
    with file.open("rb") as reader:
        return hashlib.file_digest(reader, "sha256").hexdigest()


def sync_folder(folder: Path) -> None:
    """Make the folder's entries survive a power cut; a file's own fsync does not cover its name."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync(writer: BinaryIO) -> None:
    writer.flush()
    os.fsync(writer.fileno())
