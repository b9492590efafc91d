"""Compiled networks, kept between processes in a private folder of the user's cache.

A kept network is found by everything that it depends on, so none is ever loaded for another model, processor, release
or setting. It is native code: a folder that others can write is not used, and a file is used as it was written or not
at all. Whatever goes wrong with the folder costs the time of compiling and a line in the log, never the start.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import tempfile
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Final, TypeAlias

MOST_FILES: Final = 16
"""Networks that are kept; those that were not used for longest go."""

Buffer: TypeAlias = bytes | memoryview

_DIGEST_BYTES: Final = 32

logger = logging.getLogger(__name__)


def kept_folder() -> Path:
    """`$XDG_CACHE_HOME/maskserve/networks`, `~/.cache` where that is not set. Raises OSError where there is no home."""
    try:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError as error:  # pathlib's, for a user without one
        raise OSError(str(error)) from error
    return root / "maskserve" / "networks"


def key_of(parts: Iterable[str]) -> str:
    """A file name that stands for all of `parts`, in order."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{len(part)}:{part}".encode())
    return digest.hexdigest()


def find(key: str) -> bytes | None:
    """The network that is kept under `key`; None if there is none, or one that is damaged."""
    try:
        file = _private_folder() / key
        with open(file, "rb") as stream:
            digest, network = stream.read(_DIGEST_BYTES), stream.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        _tell(_reason(error))
        return None
    if hashlib.sha256(network).digest() != digest:
        _tell(f"{file} is damaged")
        return None
    with contextlib.suppress(OSError):  # a disk that has become read-only
        os.utime(file)
    return network


def keep(key: str, network: Buffer) -> None:
    """Keep `network` under `key`, and no more than `MOST_FILES` in all."""
    try:
        folder = _private_folder()
        _write(folder / key, (hashlib.sha256(network).digest(), network))
        files = sorted(folder.iterdir(), key=lambda file: file.stat().st_mtime_ns, reverse=True)
        for file in files[MOST_FILES:]:
            file.unlink(missing_ok=True)
    except FileNotFoundError:  # another process removed the same file
        return
    except OSError as error:
        _tell(_reason(error))


def _private_folder() -> Path:
    """The folder, made where it is missing. Raises OSError where there can be none, or others could write it."""
    folder = kept_folder()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.lstat()
    if hasattr(os, "getuid") and (status.st_uid != os.getuid() or status.st_mode & 0o077):  # not on Windows
        raise PermissionError(f"{folder} is open to others; chmod 700 it, or remove it")
    return folder


def _write(file: Path, parts: Iterable[Buffer]) -> None:
    """All of it or nothing, whoever else writes the same."""
    handle, name = tempfile.mkstemp(dir=file.parent)
    try:
        with open(handle, "wb") as stream:
            stream.writelines(parts)
        os.replace(name, file)
    except BaseException:
        os.unlink(name)
        raise


def _reason(error: OSError) -> str:
    return f"{error.filename}: {error.strerror}" if error.strerror else str(error)


@cache
def _tell(reason: str) -> None:
    logger.warning("networks are compiled anew: %s", reason)
