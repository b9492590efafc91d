"""Where a YOLO dataset's images, label files and class names lie: by its YAML, by lists of images, or by folders."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from training.data.annotations.dataset import DatasetError
from training.data.annotations.fields import BrokenRecord, class_name
from training.data.formats.image_files import IMAGE_SUFFIXES, Wanted, find_images, images_in
from training.data.formats.splits import by_split, split_folders, split_of, split_of_folders, up_to
from training.data.formats.text_files import glance, read_lines, read_text
from training.data.formats.yolo.pose import SHAPE, Pose, read_pose

FILE = "data.yaml"
_NAME_FILES = ("classes.txt", "obj.names", "classes.names", "data.names")
_NAMES_KEY = re.compile(r"^names\s*:", re.MULTILINE)
_LOOKED = 200
"""Images of which one must have a label file, for a folder without YAML to be YOLO's."""


@dataclass(frozen=True, slots=True)
class YoloFiles:
    """sources: folders and lists of images by split. names: the classes as a YAML has them, or a list of lines; None
    where nothing names them. origin: the file with the names, or the folder. notes: what was named and is not there.
    listed: whether a YAML or lists say which images are of which split, not just the names of folders. pose: the
    keypoints that the YAML speaks of; told: whether it says that there are some, or none."""

    folder: Path
    origin: Path
    names: Any
    sources: dict[str, list[Path]]
    listed: bool
    notes: tuple[str, ...] = ()
    pose: Pose | None = None
    told: bool = False


def find_yolo(folder: Path, file: Path | None = None) -> YoloFiles | None:
    """By `file`, a YAML, else by the folder's own, else by lists and folders; None where it is not YOLO's.

    Raises DatasetError where two folders are the same split, and where a YAML with names cannot be read.
    """
    found = _read_yaml(folder, file)
    if found is not None:
        return _by_yaml(folder, *found)
    return None if file is not None else _by_folders(folder)


def label_files(image: Path) -> list[Path]:
    """Where the lines of an image may lie: the last folder called images becomes labels; or beside the image."""
    places = []
    for index in range(len(image.parts) - 2, -1, -1):
        if image.parts[index].lower() == "images":
            swapped = "Labels" if image.parts[index] == "Images" else "labels"
            places.append(Path(*image.parts[:index], swapped, *image.parts[index + 1 :]).with_suffix(".txt"))
            break
    return [*places, image.with_suffix(".txt")]


def images_of(files: YoloFiles, split: str) -> tuple[list[Path | BrokenRecord], tuple[str, ...]]:
    """The images of a split, each once, and notes on those that do not lie where a list says."""
    found: dict[Path | BrokenRecord, None] = {}
    notes: list[str] = []
    for source in files.sources[split]:
        if source.is_dir():
            inside = images_in(source)
            apart = {path: None for path in inside if files.listed and _is_apart(path.relative_to(source), split)}
            if apart:
                notes.append(
                    f"{len(apart)} images below {source} lie in folders of other splits and are left out of {split}: "
                    f"{next(iter(apart)).relative_to(source).as_posix()}; name their folders in {files.origin.name}"
                )
            found |= dict.fromkeys(path for path in inside if path not in apart)
        else:
            lines = [line for line in read_lines(source) if line]
            listed = find_images([Wanted(line, (source.parent, files.folder)) for line in lines], files.folder)
            found |= dict.fromkeys(listed.paths)
            notes += listed.notes
    return list(found), tuple(notes)


def _is_apart(path: Path, split: str) -> bool:
    """Whether the folders below a source say that an image is for validation or tests, when `split` is trained on."""
    return split == "train" and split_of_folders(path) not in (None, "train")


def _read_yaml(folder: Path, file: Path | None) -> tuple[Path, dict[str, Any]] | None:
    """The first YAML, data.yaml before others, that has classes and a split."""
    there = sorted((*folder.glob("*.yaml"), *folder.glob("*.yml")), key=lambda path: (path.name != FILE, path.name))
    for path in there if file is None else [file]:
        try:
            document = yaml.safe_load(read_text(path))
        except (yaml.YAMLError, BrokenRecord) as error:
            if path == file or _NAMES_KEY.search(glance(path)):
                message = error.message if isinstance(error, BrokenRecord) else f"{path} is not YAML: {error}"
                raise DatasetError(message) from None
            continue  # another program's
        if isinstance(document, dict) and {"names", "nc"} & document.keys():
            splits = _named_splits(folder, document)
            if path == file or any(isinstance(document[key], str | list) for key in splits):
                return path, document
    return None


def _named_splits(folder: Path, document: dict[Any, Any]) -> dict[str, str]:
    """Keys of a YAML that are splits, and which: a key of another name is one of its own where its images are there,
    and the one to train on where there is no other."""
    keys = [key for key in document if isinstance(key, str)]
    named = {key: split for key in keys if (split := split_of(key)) is not None}
    places = {key: _stated_places(folder, document, key) for key in keys if key not in ("path", "names")}
    around = [folder, *(parent for found in places.values() for place in found for parent in place.parents)]
    own = {
        key: key
        for key, found in places.items()
        if key not in named and found and all(place not in around and _is_source(place) for place in found)
    }
    return dict.fromkeys(own, "train") if not named and len(own) == 1 else named | own


def _stated_places(folder: Path, document: dict[Any, Any], key: str) -> list[Path]:
    """What the value of a key names, just where it says; none where something is not there."""
    value = document[key]
    names = [value] if isinstance(value, str) else value if isinstance(value, list) else []
    bases = (folder / str(document.get("path") or ""), folder)
    found = [next((base / str(name) for base in bases if os.path.exists(base / str(name))), None) for name in names]
    return [place for place in found if place is not None] if None not in found else []


def _is_source(place: Path) -> bool:
    return any(_images(place)) if place.is_dir() else place.suffix == ".txt" and _lists_images(place)


def _by_yaml(folder: Path, file: Path, document: dict[str, Any]) -> YoloFiles:
    sources: dict[str, list[Path]] = {}
    notes = []
    for key, split in _named_splits(folder, document).items():
        value = document[key]
        names = [value] if isinstance(value, str) else value or []
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            notes.append(f"{file.name} has '{key}: {value}', which names no images: give a folder, a list, or several")
            continue
        for name in names:
            place = _place(folder, str(document.get("path") or ""), str(name))
            if place is None:
                notes.append(
                    f"{file.name} has '{name}' for {key}, which is not in {folder}: there is no such split here"
                )
            else:
                sources.setdefault(split, []).append(place)
    listed = bool(sources)
    if not sources and (found := _by_folders(folder)) is not None:  # the YAML came along, its paths did not
        sources, listed = found.sources, found.listed
    pose = read_pose(document, file)
    return YoloFiles(folder, file, document.get("names"), sources, listed, tuple(notes), pose, SHAPE in document)


def _place(folder: Path, path: str, name: str) -> Path | None:
    """A folder or list of the YAML. `path` is where it was on the author's machine, and exporters write ../train/images
    for what lies in train/images, so the end of the name is looked for in `folder`."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    ends = (folder.joinpath(*parts[start:]) for start in range(len(parts)) if parts[start] not in ("..", ".", "/"))
    for place in (folder / path / name, folder / name, *ends):
        if place.exists():
            return place
    return None


def _by_folders(folder: Path) -> YoloFiles | None:
    """Without YAML: lists called train.txt and the like, else folders for splits, else the folder itself."""
    lists = [file for file in sorted(folder.glob("*.txt")) if split_of(file.stem) and _lists_images(file)]
    listed = by_split((file.stem, file) for file in lists)
    sources = listed or split_folders(folder, _has_labels, ("images",))
    if not sources:
        return None
    places = dict.fromkeys(place for source in sources.values() for place in up_to(folder, source))
    files = (place / name for place in (folder, *places) for name in _NAME_FILES)
    file = next((file for file in files if file.is_file()), None)
    names = None if file is None else [line for line in read_lines(file) if line]
    split_sources = {split: [source] for split, source in sources.items()}
    return YoloFiles(folder, file or folder, names, split_sources, bool(listed))


def _lists_images(file: Path) -> bool:
    first = next((line.strip() for line in glance(file).splitlines() if line.strip()), "")
    return first.lower().endswith(IMAGE_SUFFIXES)


def _has_labels(folder: Path) -> bool:
    """Whether one of the first images in a folder has a file of numbers, a class first."""
    return any(is_label(file) for image in islice(_images(folder), _LOOKED) for file in label_files(image))


def _images(folder: Path) -> Iterator[Path]:
    for place, inside, files in os.walk(folder):
        inside.sort()
        yield from (Path(place, name) for name in sorted(files) if name.lower().endswith(IMAGE_SUFFIXES))


def is_label(file: Path) -> bool:
    """Whether the first line of a file is one of YOLO's: a class and coordinates."""
    fields = glance(file).split("\n", 1)[0].split()
    try:
        return len(fields) >= 5 and float(fields[0]).is_integer() and all(abs(float(value)) < 2 for value in fields[1:])
    except ValueError:
        return False


def class_names(files: YoloFiles, most: int) -> tuple[str, ...]:
    """Names of the classes 0, 1, ...; where nothing names them, "class 0" up to number `most`.

    Raises DatasetError where they are not named one by one.
    """
    names = files.names
    if names is None and files.origin == files.folder:
        return tuple(f"class {number}" for number in range(most + 1))
    if isinstance(names, dict):
        numbered = {int(key): name for key, name in names.items() if str(key).isdigit()}
        complete = sorted(numbered) == list(range(len(names)))
        names = [numbered[number] for number in range(len(names))] if complete else None
    if not isinstance(names, list) or not names:
        raise DatasetError(
            f"{files.origin}: 'names' must list the classes, or number them from 0 without gaps: names: [first, second]"
        )
    found = tuple(str(name) for name in names)
    if not all(map(class_name, found)):
        raise DatasetError(f"{files.origin}: 'names' has a class without a name")
    return found
