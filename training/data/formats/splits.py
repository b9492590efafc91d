"""What people and tools call training, validation and test data, and where their folders lie.

What lies in a folder called val or test is never trained on without a word: where nothing else says what is what, the
folders are the splits; where a folder to train on holds one of another split, that is left out; where a list, or a file
of annotations called train, names such images, it counts, and is said.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path, PurePath

from training.data.annotations.dataset import Dataset, DatasetError

SPLITS = ("train", "val", "test")
_NAMES = {
    "train": ("train", "training", "trainset", "trn"),
    "val": ("val", "valid", "validation", "validate", "validating", "valset", "dev", "eval", "evaluation"),
    "test": ("test", "testing", "testset", "tst"),
}
_CANONICAL = {name: split for split, names in _NAMES.items() for name in names}
_YEAR = re.compile(r"(?<=[a-z])(19|20)\d\d$")
_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])")


def split_of(name: str) -> str | None:
    """The split, "train", "val" or "test", that a folder, a file's stem or a subset called `name` holds, whatever the
    case: train2014, Valid, instances_Validation, imagesTrain, lvis_v1_test. None where the name says none, or several.
    """
    words = (_YEAR.sub("", word) for word in re.split(r"[^a-z0-9]+", _HUMP.sub(" ", name).lower()))
    found = {_CANONICAL[word] for word in words if word in _CANONICAL}
    return found.pop() if len(found) == 1 else None


def split_of_folders(path: PurePath) -> str | None:
    """The split that the folders of a file say, given relative to the dataset. What lies in a folder for validation or
    tests, however deep, is nothing to train on; of several such folders the innermost counts.
    """
    said = [split for name in path.parts[:-1] if (split := split_of(name)) is not None]
    return next((split for split in reversed(said) if split != "train"), "train" if said else None)


def by_split(found: Iterable[tuple[str, Path]]) -> dict[str, Path]:
    """Files or folders by the split that their names say, train, val and test first; a single one is "train" where its
    name says nothing, and several keep their own names.

    Raises DatasetError where two are the same split.
    """
    named = [(split_of(name), name, path) for name, path in found]
    if len(named) == 1 and named[0][0] is None:
        return {"train": named[0][2]}
    splits: dict[str, Path] = {}
    for split, name, path in named:
        key = split or name
        if key in splits:
            raise DatasetError(
                f"{splits[key]} and {path} are both called '{key}': keep one of them, or choose with --annotations"
            )
        splits[key] = path
    return {key: splits[key] for key in sorted(splits, key=_order)}


def split_folders(folder: Path, holds: Callable[[Path], object], parents: Iterable[str] = ()) -> dict[str, Path]:
    """The folders in `folder`, or in its folders `parents`, of which `holds` says that they are of a format, by split.

    Once one of them is called train, those with other names are splits of their own; where none is, the whole folder is
    "train" if `holds` says so, in which `divided_by_folders` finds the others. Raises DatasetError where two are the
    same split.
    """
    for parent in (folder, *(folder / name for name in parents)):
        inside = sorted(path for path in parent.iterdir() if path.is_dir()) if parent.is_dir() else []
        if any(split_of(path.name) for path in inside):
            held = [path for path in inside if holds(path)]
            if any(split_of(path.name) for path in held):
                splits = by_split((path.name, path) for path in held)
                return splits if "train" in splits or not holds(parent) else {"train": parent}
    return {"train": folder} if holds(folder) else {}


def outside(files: Iterable[Path], folders: Iterable[Path]) -> list[Path]:
    """The files that lie in none of the folders."""
    places = [Path(os.path.abspath(folder)) for folder in folders]
    return [file for file in files if not any(Path(os.path.abspath(file)).is_relative_to(place) for place in places)]


def noting_unused(folder: Path, what: str, files: Sequence[Path]) -> list[str]:
    """What to say of files in a dataset's folder that are in none of its splits."""
    if not files:
        return []
    return [f"{len(files)} {what} are in no split and are left out, first: {files[0].relative_to(folder).as_posix()}"]


def up_to(folder: Path, inner: Path) -> list[Path]:
    """The folders from `folder` to `inner` in it: where a dataset's list of classes may lie."""
    between = [path for path in (inner, *inner.parents) if path.is_relative_to(folder)]
    return between[::-1] or [folder]


def _order(split: str) -> tuple[int, str]:
    return (SPLITS.index(split) if split in SPLITS else len(SPLITS), split)


def divided_by_folders(data: Dataset, folder: Path) -> dict[str, Dataset]:
    """The splits of a dataset of which nothing but the folders of its images, below `folder`, says what is what; as it
    is, called "train", where these say nothing.
    """
    said = _splits(data, folder)
    found = [split for split in SPLITS if split in {one or "train" for one in said}]
    if found == ["train"]:
        return {"train": data}
    names = {split: data.name if split == "train" else f"{data.name}, {split}" for split in found}
    parts: dict[str, Dataset] = {}
    for split in found:
        rows = [row for row, one in enumerate(said) if (one or "train") == split]
        # Of a file that was left out, only what messages call it is known.
        problems = [one for one in data.problems if (split_of_folders(PurePath(one.file or "")) or "train") == split]
        parts[split] = data.part(rows, names[split], tuple(problems))
    counts = ", ".join(f"{split} {len(part)}" for split, part in parts.items())
    unnamed = "" if None not in said else f"; {said.count(None)} images in other folders are train"
    note = f"the names of folders say which images are for what: {counts}{unnamed}"
    first = parts[found[0]]
    return parts | {found[0]: replace(first, repairs=data.repairs, notes=(*data.notes, note))}


def without_other_splits(data: Dataset, folder: Path) -> Dataset:
    """A dataset to train on without the images that lie in folders of other splits, which is noted."""
    others = _of_other_splits(data, folder)
    if not others:
        return data
    kept = sorted(set(range(len(data))) - set(others))
    note = f"{_counted(data, folder, others)}: they are not trained on; put them where their split is"
    return replace(data.part(kept, data.name, data.problems), repairs=data.repairs, notes=(*data.notes, note))


def noting_other_splits(data: Dataset, folder: Path) -> Dataset:
    """A dataset to train on, with a note on the images that a list names though they lie in folders of other splits."""
    others = _of_other_splits(data, folder)
    if not others:
        return data
    note = f"{_counted(data, folder, others)}: they are trained on, since the annotations of train name them"
    return replace(data, notes=(*data.notes, note))


def _splits(data: Dataset, folder: Path) -> list[str | None]:
    return [split_of_folders(_below(record.path, folder)) for record in data.images]


def _of_other_splits(data: Dataset, folder: Path) -> list[int]:
    return [row for row, split in enumerate(_splits(data, folder)) if split not in (None, "train")]


def _below(path: Path, folder: Path) -> PurePath:
    """A path relative to the dataset, for what is called above it says nothing."""
    whole, root = Path(os.path.abspath(path)), os.path.abspath(folder)
    return whole.relative_to(root) if whole.is_relative_to(root) else PurePath(path.name)


def _counted(data: Dataset, folder: Path, rows: Sequence[int]) -> str:
    paths = [_below(data.images[row].path, folder) for row in rows]
    splits = Counter(split_of_folders(path) for path in paths)
    named = " and ".join(sorted(str(split) for split in splits))
    return f"{len(rows)} images lie in folders for {named} ({paths[0].as_posix()})"
