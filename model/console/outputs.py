"""The files that a command writes: what keeps it from it, asked before the work, and whole files or none."""

from __future__ import annotations

import os
import stat
import tempfile
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

PARTIAL = ".maskserve-partial"
"""Begins the name of a file that is not yet complete."""


def why_unwritable(path: Path, *, folder: bool) -> str:
    """Why no file, or no folder with files in it, can be written at `path`; nothing where it can. Leaves nothing there.

    Folders above it may still be missing. Asked before the work whose result is to be kept there.
    """
    try:
        if path.exists() and path.is_dir() != folder:
            return f"{path} is {'a file' if folder else 'a folder'}"
        if path.exists() and not folder:
            with path.open("ab"):
                return ""
        there = path
        while not there.exists():
            there = there.parent
        # Asking for permission would not do: a read-only file system, or /proc, grants it and refuses the file.
        with tempfile.TemporaryFile(dir=there):
            return ""
    except OSError as error:
        return f"{path} cannot be written: {error.strerror or os.strerror(error.errno or 0)}"


def overwritten(outputs: Sequence[tuple[str, Path]], inputs: Iterable[Path]) -> str:
    """What would be lost where an output, (flag, path), is a file that is read or another output; else nothing.

    Files are compared, not names: links and other spellings of a path are seen through. Of an input that is a folder
    every file in it counts that is there already. What is no file, such as /dev/null, everybody may write to.
    """
    taken: dict[object, str] = {}
    for flag, path in outputs:
        if (identity := _identity(path)) is None:
            continue
        if (other := taken.setdefault(identity, flag)) != flag:
            return f"{flag} and {other} are one file, {path}: give each its own"
    there = {_identity(path): (flag, path) for flag, path in outputs if path.is_file()}
    for given in inputs if there else ():
        if given.is_dir():
            folder = Path(os.path.realpath(given))
            for flag, path in there.values():
                if folder in Path(os.path.realpath(path)).parents:
                    return f"{flag} would overwrite {path} in {given}, which is read: choose another name"
        elif given.is_file() and (found := there.get(_identity(given))) is not None:
            return f"{found[0]} would overwrite {given}, which is read: choose another name"
    return ""


def write_whole(path: Path, content: bytes) -> None:
    """The content as the file at `path`, in folders that are made: complete, or what was there before stays.

    A link stays one, and what is no file is written to as it is. Raises OSError.
    """
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not path.is_file():
        path.write_bytes(content)
        return
    partial = path.parent / f"{PARTIAL}-{os.getpid()}-{threading.get_ident()}"
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _identity(path: Path) -> object:
    """What tells a file from others, however a path reaches it; None for what is neither a file nor to become one."""
    try:
        found = path.stat()
    except OSError:  # not there yet: where file systems do not tell case apart, a.json will be A.json
        return os.path.realpath(path).casefold()
    return (found.st_dev, found.st_ino) if stat.S_ISREG(found.st_mode) else None
