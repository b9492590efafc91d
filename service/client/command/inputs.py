"""Which images the command line's arguments name."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"})
"""Of the files that are taken from a folder."""


class UsageError(Exception):
    """The command cannot be run as it was given; the message is one line for the person who gave it."""


@dataclass(frozen=True, slots=True)
class Input:
    """One image: where it is, and its place below the folder that was named, or its name alone."""

    path: Path
    relative: Path

    @property
    def name(self) -> str:
        """The path as results show it: any bytes that are no UTF-8 replaced."""
        return os.fsencode(self.path).decode(errors="replace")


def find_images(arguments: Sequence[str], leave_out: Sequence[Path] = ()) -> list[Input]:
    """Every image that is named, once, in the arguments' order; those of a folder and of a pattern sorted by path.

    A file is taken whatever its name ends in. A folder gives the files in it, and in the folders below, that end in one
    of `SUFFIXES` in any case, but nothing hidden and nothing below the folders `leave_out`. A pattern, ** included, is
    what the shell would make of it. Raises UsageError when an argument gives nothing.
    """
    found: dict[Path, Input] = {}
    for argument in arguments:
        paths = [argument] if os.path.lexists(argument) else sorted(glob.glob(argument, recursive=True))
        inputs = [one for path in paths for one in _images_at(Path(path), leave_out)]
        if not inputs:
            raise UsageError(f"{argument}: {_why_nothing(argument, paths)}")
        for one in inputs:
            found.setdefault(one.path, one)
    return list(found.values())


def places(inputs: Sequence[Input], folder: Path, suffix: str) -> list[Path]:
    """Where the file that is made of each input goes: its place below the argument it came from, in `folder`, its name
    with another ending.

    Where two would share a file the later one's name gets -2, -3 and so on.
    """
    paths: dict[Path, None] = {}
    numbers: Counter[Path] = Counter()
    for one in inputs:
        wanted = path = folder / one.relative.with_suffix(suffix)
        while path in paths:
            numbers[wanted] += 1
            path = wanted.with_stem(f"{wanted.stem}-{numbers[wanted] + 1}")
        paths[path] = None
    return list(paths)


def _images_at(path: Path, leave_out: Sequence[Path]) -> Iterator[Input]:
    if not path.is_dir():
        yield Input(path, Path(path.name))
        return
    for folder, below, files in os.walk(path, onerror=_refuse):
        below[:] = sorted(
            name for name in below if not (name.startswith(".") or _is_same(os.path.join(folder, name), leave_out))
        )
        for name in sorted(files):
            if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES:
                yield Input(Path(folder, name), Path(folder, name).relative_to(path))


def _is_same(folder: str, others: Sequence[Path]) -> bool:
    return os.path.realpath(folder) in map(os.path.realpath, others)


def _refuse(error: OSError) -> NoReturn:
    raise UsageError(f"{error.filename}: the folder cannot be read: {error.strerror}")


def _why_nothing(argument: str, paths: Sequence[str]) -> str:
    if paths:
        return f"no images in there (files that end in {', '.join(sorted(SUFFIXES))})"
    return "nothing matches this pattern" if glob.has_magic(argument) else "no such file or folder"
