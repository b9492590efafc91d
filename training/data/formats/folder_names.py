"""Splits that only the names of the images' folders tell, as images/train/0.png and images/val/1.png.

What lies in a folder called val or test is never trained on without a word: where nothing else says what is what, the
folders are the splits; where a folder to train on holds one of another split, that is left out; where a list, or a file
of annotations called train, names such images, it counts, and is said.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePath

from training.data.annotations.dataset import Dataset
from training.data.formats.splits import SPLITS, split_of_folders


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
