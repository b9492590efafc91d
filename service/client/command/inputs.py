"""Which images the command line's arguments name."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
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


@dataclass(slots=True)
class Beside:
    """What lies in folders beside images and is not taken: files, counted by their endings; folders that are links,
    which are not followed; and the folders of results, which are left out."""

    files: Counter[str] = field(default_factory=Counter)
    links: list[str] = field(default_factory=list)
    results: list[Path] = field(default_factory=list)

    def remarks(self) -> list[str]:
        """What there is to say of files and links, each a sentence."""
        said = [told(self.files)] if self.files else []
        if self.links:
            count = len(self.links)
            links = f"{count} links to folders are" if count > 1 else "a link to a folder is"
            said.append(f"{links} not followed ({self.links[0]}): name what is linked to, where it is wanted")
        return said

    def add(self, other: Beside) -> None:
        self.files += other.files
        self.links += other.links
        self.results += [folder for folder in other.results if folder not in self.results]


@dataclass(frozen=True, slots=True)
class Found:
    """What the arguments name, and what they do not."""

    images: list[Input]
    beside: Beside


def find_images(
    arguments: Sequence[str],
    leave_out: Sequence[Path] = (),
    is_result: Callable[[Path], bool] = lambda path: False,
) -> Found:
    """Every image that is named, once, in the arguments' order; those of a folder and of a pattern sorted by path.

    A file is taken whatever its name ends in. A folder gives the files in it, and in the folders below, that end in one
    of `SUFFIXES` in any case, but nothing hidden, nothing below the folders `leave_out`, and nothing behind a link to a
    folder. A pattern, ** included, is what the shell would make of it, but for `leave_out` and for files of which
    `is_result` says that an earlier run wrote them. Raises UsageError when an argument gives nothing.
    """
    found: dict[str, Input] = {}
    beside = Beside()
    identity_of = identities()
    for argument in arguments:
        is_named = os.path.lexists(argument)
        paths = [Path(argument)] if is_named else list(map(Path, sorted(glob.glob(argument, recursive=True))))
        own = Beside()
        inputs: list[Input] = []
        for path in paths:
            if not is_named and path.is_dir() and _is_same(path, leave_out):
                own.results.append(path)
            elif is_named or not is_result(path):
                inputs += _images_at(path, leave_out, own)
        if not inputs:
            raise UsageError(f"{argument}: {_why_nothing(argument, paths, own)}")
        for one in inputs:
            found.setdefault(identity_of(one.path), one)
        beside.add(own)
    return Found(list(found.values()), beside)


def identities() -> Callable[[Path], str]:
    """What gives a file one text, whichever spelling of its folder names it. Links to files are files of their own."""

    @cache
    def real(folder: Path) -> str:
        return os.path.realpath(folder)

    return lambda path: os.path.join(real(path.parent), path.name)


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


def _images_at(path: Path, leave_out: Sequence[Path], beside: Beside) -> Iterator[Input]:
    if not path.is_dir():
        yield Input(path, Path(path.name))
        return
    for folder, below, files in os.walk(path, onerror=_refuse):
        walked = []
        for name in sorted(name for name in below if not name.startswith(".")):
            one = Path(folder, name)
            if _is_same(one, leave_out):
                beside.results.append(one)
            elif one.is_symlink():
                beside.links.append(str(one))
            else:
                walked.append(name)
        below[:] = walked
        for name in sorted(files):
            if name.startswith("."):
                continue
            if ending(name) not in SUFFIXES:
                beside.files[ending(name)] += 1
            else:
                yield Input(Path(folder, name), Path(folder, name).relative_to(path))


def _is_same(folder: Path, others: Sequence[Path]) -> bool:
    return bool(others) and os.path.realpath(folder) in map(os.path.realpath, others)


def _refuse(error: OSError) -> NoReturn:
    raise UsageError(f"{error.filename}: the folder cannot be read: {error.strerror}")


def _why_nothing(argument: str, paths: Sequence[Path], beside: Beside) -> str:
    if paths:
        remarks = "".join(f"; {one}" for one in beside.remarks())
        return f"no images in there (files that end in {', '.join(sorted(SUFFIXES))}){remarks}"
    return "nothing matches this pattern" if glob.has_magic(argument) else "no such file or folder"
