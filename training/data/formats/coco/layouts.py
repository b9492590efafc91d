"""Where COCO JSON and its images lie: as COCO itself and as annotation tools lay them down.

annotations/instances_SPLIT.json, person_keypoints_SPLIT.json     COCO 2014 and 2017, CVAT, Datumaro
SPLIT/_annotations.coco.json, SPLIT/labels.json                   Roboflow, FiftyOne
annotations.json, labels.json, result.json, any name              labelme2coco, FiftyOne, Label Studio, VIA
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from model.architecture import Task, has_keypoints
from training.data.annotations.dataset import Dataset, DatasetError
from training.data.formats.coco.reader import load_coco
from training.data.formats.image_files import IMAGE_SUFFIXES
from training.data.formats.splits import by_split, split_of
from training.data.formats.text_files import has_keys

LAYOUT = (
    "annotations/instances_SPLIT.json, SPLIT/_annotations.coco.json, or a COCO JSON of any name beside the images or "
    "beside images/, data/ or JPEGImages/"
)
KEYPOINTS = "annotations/person_keypoints_SPLIT.json, with images/ as coco"
PREFIXES = ("instances", "person_keypoints")
_OTHER_TASKS = ("captions", "panoptic", "stuff", "image_info", "deprecated")
"""What COCO's own folder holds beside instances and keypoints."""
_LISTS = tuple(re.compile(rb'"%s"\s*:\s*\[' % key) for key in (b"images", b"annotations", b"categories"))
_SHARED = ("images", "data", "JPEGImages")
_MOST = 20
"""JSON files in a folder that are looked into. More of them are one an image, as LabelMe has them."""


class Split(NamedTuple):
    """Where one split lies; `load_coco(*split)` reads it. Images that are not in `images` are looked for in `root`."""

    annotations: Path
    images: Path
    root: Path


@dataclass(frozen=True, slots=True)
class Splits:
    """The splits that a training reads; val is None where there is none."""

    train: Split
    val: Split | None


def find_splits(directory: Path, task: Task) -> Splits:
    """The training and the validation split of a folder.

    Raises DatasetError, naming what was looked for, where there is no training split.
    """
    found = coco_files(directory, task)
    if "train" not in found:
        splits = f"has the splits {', '.join(found)}, and" if found else "is"
        raise DatasetError(
            f"{directory} {splits} no COCO dataset to train on for task '{task}': looked for {LAYOUT}; "
            f"give the folder that holds the annotations and the images"
        )
    return Splits(found["train"], found.get("val"))


def coco_files(directory: Path, task: Task) -> dict[str, Split]:
    """The splits of a folder for a task, by name; none where it is not COCO. Files that are called instances_* or, for
    keypoints, person_keypoints_* go before those of other names, and before those of the other task.

    Raises DatasetError for two files of one split.
    """
    first, second = PREFIXES[::-1] if has_keypoints(task) else PREFIXES
    return next(filter(None, (files_of(directory, prefix) for prefix in (first, "", second))), {})


def files_of(directory: Path, prefix: str) -> dict[str, Split]:
    """The splits whose files are called `prefix`_*, or neither way for ""."""
    folders = [directory / "annotations", directory]
    inside = sorted(path for path in directory.iterdir() if path.is_dir()) if directory.is_dir() else []
    folders += [path for path in inside if split_of(path.name) and path not in folders]
    files = [file for folder in folders for file in _json_files(folder, prefix)]
    if prefix == "":
        files = [file for file in files if not file.stem.startswith((*PREFIXES, *_OTHER_TASKS))]
    named = by_split((_subset(file, directory, prefix), file) for file in files)
    return {split: located(file, directory, split) for split, file in named.items()}


def located(annotations: Path, root: Path, split: str = "train") -> Split:
    """A file with the folder that most of its images should lie in: the split's, else the nearest that there is."""
    for holds in (_has_images, _has_images_below, Path.is_dir):
        for folder in _candidates(annotations, root, split):
            if folder.is_dir() and holds(folder) and (folder != root or holds is not Path.is_dir):
                return Split(annotations, folder, root)
    raise DatasetError(f"{annotations} has no images: looked for image files in {root} and the folders in it")


def _candidates(annotations: Path, root: Path, split: str) -> Iterator[Path]:
    """Folders of a split's images, the likeliest first."""
    if annotations.parent not in (root, root / "annotations"):
        yield from (annotations.parent, *(annotations.parent / name for name in _SHARED))
    subset = _subset(annotations, root, next((p for p in PREFIXES if annotations.stem.startswith(f"{p}_")), ""))
    for name in dict.fromkeys((subset, split)):
        yield from (root / parent / name for parent in ("", *_SHARED))
    for parent in ("", *_SHARED):
        inside = sorted((root / parent).iterdir()) if (root / parent).is_dir() else []
        yield from (path for path in inside if split_of(path.name) == split)
    yield from (*(root / name for name in _SHARED), root)


def coco_splits(folder: Path) -> tuple[str, ...]:
    """The splits of a COCO folder with instances; none if it is not one."""
    return tuple(instance_files(folder))


def keypoint_splits(folder: Path) -> tuple[str, ...]:
    """The splits of a COCO folder with person keypoints; none if it is not one."""
    return tuple(files_of(folder, "person_keypoints"))


def load_coco_split(folder: Path, split: str) -> Dataset:
    """Reads the instances of a split. Raises DatasetError when it is not there."""
    return _load(instance_files(folder), folder, split)


def load_keypoint_split(folder: Path, split: str) -> Dataset:
    """Reads the person keypoints of a split. Raises DatasetError when it is not there."""
    return _load(files_of(folder, "person_keypoints"), folder, split)


def instance_files(folder: Path) -> dict[str, Split]:
    """The splits of a COCO folder with instances, by name; none if it is not one."""
    return files_of(folder, "instances") or files_of(folder, "")


def _load(found: dict[str, Split], folder: Path, split: str) -> Dataset:
    if split not in found:
        raise DatasetError(f"{folder} has no COCO split '{split}': looked for {LAYOUT}")
    return load_coco(*found[split])


def is_coco(file: Path) -> bool:
    """Whether a file has the three lists of COCO JSON, by their keys: large files are not parsed for that."""
    return has_keys(file, _LISTS)


def _json_files(folder: Path, prefix: str) -> list[Path]:
    """The COCO files of a folder. A name that says so is enough: a broken one must be named, not ignored."""
    files = sorted(folder.glob(f"{prefix}_*.json" if prefix else "*.json"))
    if prefix:
        return [file for file in files if file.is_file()]
    chosen: list[Path] = [file for file in files if file.name.startswith("_annotations.coco")]
    if chosen:
        return chosen
    return [file for file in files if is_coco(file)] if len(files) <= _MOST else []


def _subset(file: Path, root: Path, prefix: str) -> str:
    """What a file's name, else its folder's, says of the split: train2017 of instances_train2017.json."""
    own = file.stem.removeprefix(f"{prefix}_")
    if split_of(own) or file.parent in (root, root / "annotations"):
        return own
    return file.parent.name


def _has_images(folder: Path) -> bool:
    return any(path.suffix.lower() in IMAGE_SUFFIXES for path in folder.iterdir())


def _has_images_below(folder: Path) -> bool:
    return any(path.suffix.lower() in IMAGE_SUFFIXES for path in folder.rglob("*"))
