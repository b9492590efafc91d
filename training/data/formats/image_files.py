"""Where the images lie that annotations name: tools write paths of their own machine, of Windows, and of the web."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import unquote

from training.data.annotations.fields import BrokenRecord

IMAGE_SUFFIXES: Final = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")


class Wanted(NamedTuple):
    """An image's name as annotations have it, and the folders that it may be relative to, the likeliest first."""

    name: str
    bases: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class FoundImages:
    """paths[i] is where image i lies or, where no file has its name, where it should lie; or why that cannot be told.
    notes says how many were not where they should be."""

    paths: tuple[Path | BrokenRecord, ...]
    notes: tuple[str, ...]


def images_in(folder: Path) -> list[Path]:
    """The image files of a folder and the folders in it, by name."""
    return files_below(folder, IMAGE_SUFFIXES)


def files_below(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """The files of a folder and the folders in it, by name; without hidden ones: what macOS adds to archives (._a.jpg),
    and copies that programs keep for themselves (.ipynb_checkpoints)."""
    found = (path for path in folder.rglob("*") if path.suffix.lower() in suffixes and path.is_file())
    return sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts))


def beside(folder: Path, name: str) -> Path:
    """The file that annotations in `folder` call `name`, which may come from Windows or climb out of the folder."""
    return Path(os.path.normpath(folder / name.replace("\\", "/")))


def find_images(wanted: Sequence[Wanted], search: Path) -> FoundImages:
    """Looks for every image below its bases, then for a file in `search` whose path ends as the name does, then for one
    with another suffix where it should lie.

    The longest common end wins. An image is a BrokenRecord where several files end equally, and where the file is the
    one of another name too.
    """
    direct = [_directly(one) for one in wanted]
    missing = [number for number, path in enumerate(direct) if path is None]
    if not missing:
        return FoundImages(tuple(path for path in direct if path is not None), ())
    index = _by_name(search)
    guesses = {number: _by_ending(wanted[number].name, index) or _by_stem(wanted[number], index) for number in missing}
    claims: dict[Path, set[str]] = defaultdict(set)
    for number, one in enumerate(wanted):
        candidates = [path for path in (direct[number], *guesses.get(number, ())) if path is not None]
        if len(candidates) == 1:
            claims[candidates[0]].add(str(one.bases) + one.name)
    paths: list[Path | BrokenRecord] = []
    moved: list[tuple[str, Path]] = []
    for number, one in enumerate(wanted):
        path = direct[number]
        guess = guesses.get(number, [])
        if path is not None:
            paths.append(path)
        elif len(guess) == 1 and len(claims[guess[0]]) == 1:
            paths.append(guess[0])
            moved.append((one.name, guess[0]))
        else:
            expected = beside(one.bases[0], one.name)
            paths.append(_unclear(expected, guess) if guess else expected)
    return FoundImages(tuple(paths), _notes(moved, len(wanted), search))


def _directly(wanted: Wanted) -> Path | None:
    for base in wanted.bases:
        for path in (beside(base, wanted.name), base / wanted.name):
            if os.path.isfile(path):  # False for a name too long or too strange to be one, where Path.is_file raises
                return path
    return None


def _by_name(folder: Path) -> dict[str, list[Path]]:
    """The image files below a folder by their names in lower case."""
    index: dict[str, list[Path]] = defaultdict(list)
    for path in images_in(folder):
        index[path.name.lower()].append(path)
    return index


def _by_ending(name: str, index: dict[str, list[Path]]) -> list[Path]:
    """The files whose paths share the longest end with `name`; one at most where the end decides."""
    for parts in _spellings(name):
        candidates = index.get(parts[-1].lower(), [])
        exact = [path for path in candidates if path.name == parts[-1]]
        common = [(_common_end(path.parts, parts), path) for path in exact or candidates]
        if common:
            longest = max(length for length, _ in common)
            return [path for length, path in common if length == longest]
    return []


def _by_stem(wanted: Wanted, index: dict[str, list[Path]]) -> list[Path]:
    """The files called so but for the suffix, where the image should lie: elsewhere, they may be its masks."""
    for parts in _spellings(wanted.name):
        name = parts[-1].lower()
        stem = name if (dot := name.rfind(".")) < 0 or name[dot:] not in IMAGE_SUFFIXES else name[:dot]
        places = {beside(base, part).parent for base in wanted.bases for part in ("/".join(parts), parts[-1])}
        named = (path for suffix in IMAGE_SUFFIXES for path in index.get(stem + suffix, ()))
        if found := [path for path in named if path.parent in places]:
            return found
    return []


def _spellings(name: str) -> Iterable[list[str]]:
    """The name's parts as it stands, and as an address: without the query before or after it, %20 as a space."""
    plain = name.replace("\\", "/")
    for text in dict.fromkeys(
        (plain, unquote(plain), unquote(plain.rpartition("?d=")[2]), unquote(plain.split("?")[0]))
    ):
        parts = [part for part in text.replace("\\", "/").split("/") if part not in ("", ".", "..")]
        if parts:
            yield parts


def _common_end(first: Sequence[str], second: Sequence[str]) -> int:
    count = 0
    for one, other in zip(reversed(first), reversed(second), strict=False):
        if one.lower() != other.lower():
            break
        count += 1
    return count


def _unclear(expected: Path, guesses: list[Path]) -> BrokenRecord:
    shown = ", ".join(str(path) for path in guesses[:3])
    if len(guesses) > 1:
        return BrokenRecord("missing file", f"{expected} is not there, and {len(guesses)} files end so: {shown}")
    return BrokenRecord("missing file", f"{expected} is not there; {shown} ends so, but other annotations name it too")


def _notes(moved: list[tuple[str, Path]], count: int, search: Path) -> tuple[str, ...]:
    if not moved:
        return ()
    name, path = moved[0]
    place = path.relative_to(search).as_posix() if path.is_relative_to(search) else str(path)
    return (f"{len(moved)} of {count} images were found by the end of their names: '{name}' is {place}",)
