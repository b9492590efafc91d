"""Which images the command line's arguments name."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Final, NoReturn

from model.runtime.images.limits import ENDINGS

SUFFIXES: Final = frozenset(suffix for endings in ENDINGS.values() for suffix in endings)
"""Of the files that are taken from a folder: those of every format that the server accepts."""
SHOWN: Final = 5
"""Endings that a line about what was passed over names."""


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


@dataclass(frozen=True, slots=True)
class Found:
    """What the arguments name. `passed_over` counts, by their endings, the files that lie in folders beside images."""

    images: list[Input]
    passed_over: Counter[str]


def find_images(arguments: Sequence[str], leave_out: Sequence[Path] = ()) -> Found:
    """Every image that is named, once, in the arguments' order; those of a folder and of a pattern sorted by path.

    A file is taken whatever its name ends in. A folder gives the files in it, and in the folders below, that end in one
    of `SUFFIXES` in any case, but nothing hidden and nothing below the folders `leave_out`. A pattern, ** included, is
    what the shell would make of it. Raises UsageError when an argument gives nothing.
    """
    found: dict[Path, Input] = {}
    passed_over: Counter[str] = Counter()
    for argument in arguments:
        paths = [argument] if os.path.lexists(argument) else sorted(glob.glob(argument, recursive=True))
        beside: Counter[str] = Counter()
        inputs = [one for path in paths for one in _images_at(Path(path), leave_out, beside)]
        if not inputs:
            raise UsageError(f"{argument}: {_why_nothing(argument, paths, beside)}")
        for one in inputs:
            found.setdefault(one.path, one)
        passed_over += beside
    return Found(list(found.values()), passed_over)


def ending(name: str) -> str:
    """What a file's name ends in, in small letters; nothing where it has no ending."""
    return PurePath(name).suffix.lower()


def told(passed_over: Mapping[str, int]) -> str:
    """How many files were passed over, and of which endings, the most frequent first."""
    count = sum(passed_over.values())
    order = sorted(passed_over.items(), key=lambda pair: (-pair[1], pair[0]))
    shown = [f"{suffix or 'none'} ({number})" for suffix, number in order[:SHOWN]]
    if others := sum(number for _, number in order[SHOWN:]):
        shown.append(f"others ({others})")
    files = "file" if count == 1 else "files"
    return f"{count} {files} passed over, no images by their endings: {', '.join(shown)}"


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


def _images_at(path: Path, leave_out: Sequence[Path], passed_over: Counter[str]) -> Iterator[Input]:
    if not path.is_dir():
        yield Input(path, Path(path.name))
        return
    for folder, below, files in os.walk(path, onerror=_refuse):
        below[:] = sorted(
            name for name in below if not (name.startswith(".") or _is_same(os.path.join(folder, name), leave_out))
        )
        for name in sorted(files):
            if name.startswith("."):
                continue
            if ending(name) not in SUFFIXES:
                passed_over[ending(name)] += 1
            else:
                yield Input(Path(folder, name), Path(folder, name).relative_to(path))


def _is_same(folder: str, others: Sequence[Path]) -> bool:
    return os.path.realpath(folder) in map(os.path.realpath, others)


def _refuse(error: OSError) -> NoReturn:
    raise UsageError(f"{error.filename}: the folder cannot be read: {error.strerror}")


def _why_nothing(argument: str, paths: Sequence[str], passed_over: Counter[str]) -> str:
    if paths:
        beside = f"; {told(passed_over)}" if passed_over else ""
        return f"no images in there (files that end in {', '.join(sorted(SUFFIXES))}){beside}"
    return "nothing matches this pattern" if glob.has_magic(argument) else "no such file or folder"
