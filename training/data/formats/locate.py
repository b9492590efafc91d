"""A dataset from where a person says that it lies: a folder in any format, or files of annotations and their images.

add_origin_flags(parser)
located = locate(origin_of(options, options.data))
data = located.read()["train"]
"""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import get_args

from model.architecture import Task
from model.console.arguments import nearest_path
from training.data.annotations.classes import align_classes
from training.data.annotations.dataset import Dataset, DatasetError
from training.data.annotations.fields import BrokenRecord
from training.data.formats.coco.frames import Orientation
from training.data.formats.coco.layouts import Split, coco_files, files_of, instance_files, is_coco, located
from training.data.formats.coco.reader import load_coco
from training.data.formats.image_files import IMAGE_SUFFIXES
from training.data.formats.known import FORMATS, Format, detect_format, find_format
from training.data.formats.masks.id_masks import MaskObjects
from training.data.formats.masks.instance_png import load_instance_png
from training.data.formats.masks.object_png import load_object_png
from training.data.formats.masks.voc import names_splits
from training.data.formats.same_file import one_record_each
from training.data.formats.splits import (
    by_split,
    divided_by_folders,
    noting_other_splits,
    split_of,
    without_other_splits,
)
from training.data.formats.via.documents import read_images
from training.data.formats.via.reader import is_via, load_via, load_via_files
from training.data.formats.yolo.files import FILE, find_yolo
from training.data.formats.yolo.reader import load_yolo, yolo_left_out, yolo_splits

_COCO = ("coco", "coco_keypoints")
_MASKS = {"instance_png": load_instance_png, "object_png": load_object_png}
_ASIDE = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".md", ".rst", ".html", ".pdf", ".docx", ".log")
_SHOWN = 12
"""Folders or files that a message lists."""
_LOOKED = 50
"""Folders that are looked into for a dataset where the one that was given holds none."""


@dataclass(frozen=True, slots=True)
class Origin:
    """folder holds a dataset of any format. annotations are files, whose images lie in `images`, in `folder`, or beside
    them. orientation says how COCO's annotations lie where the sizes of images do not tell, mask_objects what an object
    is in masks of one class, class_attribute which attribute of VIA's regions names their class."""

    folder: Path | None = None
    annotations: tuple[Path, ...] = ()
    images: Path | None = None
    orientation: Orientation = "auto"
    mask_objects: MaskObjects = "auto"
    class_attribute: str | None = None

    @classmethod
    def of(
        cls,
        data: Path | None,
        annotations: Sequence[Path] = (),
        images: Path | None = None,
        orientation: Orientation = "auto",
        mask_objects: MaskObjects = "auto",
        class_attribute: str | None = None,
    ) -> Origin:
        """What flags say; data may be a file too, as in --data data.yaml."""
        if data is not None and data.is_file() and not annotations:
            return cls(None, (data,), images, orientation, mask_objects, class_attribute)
        return cls(data, tuple(annotations), images, orientation, mask_objects, class_attribute)

    def __str__(self) -> str:
        return ", ".join(map(str, self.annotations)) or str(self.folder)


@dataclass(frozen=True, slots=True)
class Located:
    """A dataset that was found: its format's name, and its splits by name, each of which is read when it is called.
    left_out says what is in none of them; it is among the notes of the first one too."""

    origin: Origin
    format: str
    splits: Mapping[str, Callable[[], Dataset]]
    left_out: tuple[str, ...] = ()

    def read(self) -> dict[str, Dataset]:
        """All splits. Raises DatasetError."""
        return {split: load() for split, load in self.splits.items()}

    def read_aligned(self) -> dict[str, Dataset]:
        """All splits, with the same classes. Raises DatasetError."""
        return dict(zip(self.splits, align_classes(list(self.read().values())), strict=True))

    @property
    def single(self) -> str | None:
        """The only split of annotations that were given as one file: it is what is meant, whatever its name."""
        return next(iter(self.splits)) if self.origin.annotations and len(self.splits) == 1 else None


def add_origin_flags(parser: argparse.ArgumentParser) -> None:
    """--annotations, --images, --orientation, --mask_objects and --class_attribute, which `origin_of` reads."""
    parser.add_argument(
        "--annotations",
        type=Path,
        nargs="+",
        default=(),
        metavar="FILE",
        help="files of annotations (COCO JSON, VIA JSON or CSV, YOLO's YAML), for a dataset that lies in another way; "
        "several are told apart by train, val or test in their names",
    )
    parser.add_argument("--images", type=Path, metavar="DIR", help="folder of the images that --annotations name")
    parser.add_argument(
        "--orientation",
        choices=get_args(Orientation),
        default="auto",
        help="whether COCO's annotations are of pictures as stored or as seen, with EXIF orientation, where sizes do "
        "not tell; auto: as the other images tell",
    )
    parser.add_argument(
        "--mask_objects",
        choices=get_args(MaskObjects),
        default="auto",
        help="what an object is in masks of one class: the pixels of one value, or each connected piece of them; auto: "
        "the values, and masks that show foreground alone are refused",
    )
    parser.add_argument(
        "--class_attribute",
        metavar="NAME",
        help="the attribute of VIA's regions that names their class, where they have several",
    )


def origin_of(options: argparse.Namespace, folder: Path | None) -> Origin:
    """What the flags say."""
    return Origin.of(
        folder, options.annotations, options.images, options.orientation, options.mask_objects, options.class_attribute
    )


def require_there(origin: Origin) -> None:
    """Raises DatasetError, naming what is nearly called so, where a file or folder is missing, and where nothing is
    given.
    """
    for folder in (origin.images, origin.folder):
        if folder is not None and not folder.is_dir():
            raise DatasetError(f"{folder} is not a folder{nearest_path(folder)}")
    for file in origin.annotations:
        if not file.is_file():
            raise DatasetError(f"{file} is not a file{nearest_path(file)}")
    if origin.folder is None and not origin.annotations:
        raise DatasetError("no data: give a folder, or --annotations FILE with --images DIR")
    if origin.images is not None and not origin.annotations:
        raise DatasetError(f"--images {origin.images} goes with --annotations FILE, which is missing")


def locate(origin: Origin, form: str = "auto", task: Task | None = None) -> Located:
    """Finds the splits, in the format called `form` or in that of the folder. task chooses among COCO's files.

    Raises DatasetError, saying what was seen and what was looked for, where there is no dataset.
    """
    require_there(origin)
    if origin.annotations:
        found = _locate_files(origin)
    else:
        assert origin.folder is not None
        found = _locate_folder(origin, _only_folder(origin.folder), form, task)
    if origin.orientation != "auto" and found.format not in _COCO:
        raise DatasetError(f"--orientation {origin.orientation} is about COCO, and {origin} is {found.format}")
    if origin.mask_objects != "auto" and found.format not in _MASKS:
        raise DatasetError(
            f"--mask_objects {origin.mask_objects} is about {' and '.join(_MASKS)}, and {origin} is {found.format}"
        )
    if origin.class_attribute is not None and found.format != "via":
        raise DatasetError(f"--class_attribute {origin.class_attribute} is about VIA, and {origin} is {found.format}")
    first = next(iter(found.splits))
    loads = {
        split: partial(_merged, load, found.left_out if split == first else ()) for split, load in found.splits.items()
    }
    return replace(found, splits=loads)


def _merged(load: Callable[[], Dataset], notes: tuple[str, ...]) -> Dataset:
    data = one_record_each(load())
    return replace(data, notes=(*data.notes, *notes)) if notes else data


def _told_apart(found: Located, folder: Path, *, named: bool) -> Located:
    """With the splits that the names of the images' folders below `folder` say. named: whether something else says what
    is to train on, a list or a file's name, which goes before the names of folders."""
    load = found.splits.get("train")
    if load is None:
        return found
    if named:
        return replace(found, splits={**found.splits, "train": lambda: noting_other_splits(load(), folder)})
    if len(found.splits) > 1:
        return replace(found, splits={**found.splits, "train": lambda: without_other_splits(load(), folder)})
    if not _has_split_folders(folder):
        return found
    parts = divided_by_folders(load(), folder)
    return replace(found, splits={split: partial(parts.__getitem__, split) for split in parts})


def _has_split_folders(folder: Path) -> bool:
    return any(split_of(name) for _, inside, _ in os.walk(folder) for name in inside)


def _locate_folder(origin: Origin, folder: Path, form: str, task: Task | None) -> Located:
    chosen = detect_format(folder) if form == "auto" else find_format(form)
    if chosen is None:
        raise DatasetError(_unknown(folder, "any known format", FORMATS))
    splits = chosen.splits(folder)
    if chosen.name in _COCO and splits:
        if chosen.name == "coco" and form == "auto" and task is not None:
            files = coco_files(folder, task)
        else:
            files = instance_files(folder) if chosen.name == "coco" else files_of(folder, "person_keypoints")
        return _told_apart(_located_coco(origin, chosen.name, files), folder, named=_coco_named(files))
    if not splits:
        raise DatasetError(_unknown(folder, f"the format {form}", (chosen,)))
    load = chosen.load
    if chosen.name in _MASKS:
        load = partial(_MASKS[chosen.name], objects=origin.mask_objects)
    elif chosen.name == "via":
        load = partial(load_via, class_attribute=origin.class_attribute)
    loads = {split: partial(load, folder, split) for split in splits}
    found = Located(origin, chosen.name, loads, tuple(chosen.left_out(folder)))
    return _told_apart(found, folder, named=_names_splits(chosen.name, folder))


def _names_splits(form: str, folder: Path) -> bool:
    """Whether the format's own lists, not just folders, say which images are of which split."""
    if form == "yolo":
        yolo = find_yolo(folder)
        return yolo is not None and yolo.listed
    return form == "cityscapes" or (form == "voc" and names_splits(folder))


def _locate_files(origin: Origin) -> Located:
    first = origin.annotations[0]
    if first.suffix.lower() in (".yaml", ".yml"):
        if len(origin.annotations) > 1:
            raise DatasetError(f"{first} names all splits of a YOLO dataset: give it alone")
        folder = origin.images or origin.folder or first.parent
        splits = yolo_splits(folder, first)
        if not splits:
            raise DatasetError(f"{first} is no YOLO dataset's {FILE}: it needs 'names', and 'train' with its images")
        loads = {split: partial(load_yolo, folder, split, first) for split in splits}
        yolo = Located(origin, "yolo", loads, tuple(yolo_left_out(folder, first)))
        return _told_apart(yolo, folder, named=True)
    files = by_split((file.stem, file) for file in origin.annotations)
    folder = origin.images or origin.folder or first.parent
    named = any(split_of(file.stem) for file in origin.annotations)
    if all(map(is_coco, files.values())):
        coco = {split: _coco_split(file, origin, split) for split, file in files.items()}
        return _told_apart(_located_coco(origin, "coco", coco), folder, named=named)
    if all(map(is_via, files.values())):
        root = origin.images or origin.folder
        loads = {
            split: partial(load_via_files, [file], root or file.parent, class_attribute=origin.class_attribute)
            for split, file in files.items()
        }
        return _told_apart(Located(origin, "via", loads), folder, named=named)
    wrong = next(file for file in files.values() if not is_coco(file) and not is_via(file))
    raise DatasetError(
        f"{wrong} is no annotation file that is known: it must be COCO JSON (the lists images, annotations and "
        f"categories), VIA's JSON or CSV, or YOLO's {FILE}"
    )


def _located_coco(origin: Origin, name: str, files: Mapping[str, Split]) -> Located:
    loads = {split: partial(load_coco, *found, orientation=origin.orientation) for split, found in files.items()}
    return Located(origin, name, loads)


def _coco_split(file: Path, origin: Origin, split: str) -> Split:
    if origin.images is not None:
        return Split(file, origin.images, origin.images)
    beside = file.parent.parent if file.parent.name == "annotations" else file.parent
    return located(file, origin.folder or beside, split)


def _coco_named(files: Mapping[str, Split]) -> bool:
    """Whether the file to train on is called so, itself or by its folder."""
    file = files["train"].annotations if "train" in files else None
    return file is not None and (split_of(file.stem) or split_of(file.parent.name)) == "train"


def _only_folder(folder: Path) -> Path:
    """The folder, or the only one in it where that is all it holds, but for its archive and texts for people, and is a
    dataset itself, as archives unpack."""
    inside = [path for path in folder.iterdir() if path.is_dir() or not _is_aside(path)]
    inside = [path for path in inside if not path.name.startswith((".", "__MACOSX"))]
    if len(inside) != 1 or not inside[0].is_dir() or split_of(inside[0].name):
        return folder
    inner = _only_folder(inside[0])
    return folder if detect_format(inner) is None else inner


def _is_aside(file: Path) -> bool:
    """Whether a file says nothing of a dataset beside which it lies."""
    return file.suffix.lower() in _ASIDE or file.name.lower().startswith(("readme", "license", "thumbs.db"))


def _unknown(folder: Path, what: str, formats: tuple[Format, ...]) -> str:
    """What was seen and what was looked for."""
    seen = [_contents(path) for path in (folder, *sorted(path for path in folder.rglob("*") if path.is_dir()))]
    shown = [line for line in seen if line is not None]
    if not shown:
        return f"{folder} holds no dataset of {what}: there is no file in it"
    more = [f"and {len(shown) - _SHOWN} more folders"] if len(shown) > _SHOWN else []
    lines = [f"{folder} holds no dataset of {what}. It holds:"]
    lines += [f"  {_relative(path, folder)} {text}" for path, text in shown[:_SHOWN]]
    lines += [f"  {line}" for line in more]
    lines += [f"{path} holds one of the format {form.name}: give that folder" for path, form in _inner(folder)]
    if unreadable := _unreadable(folder):
        lines += ["Not readable:", *(f"  {message}" for message in unreadable)]
    lines += ["Looked for:", *(f"  {form.name}: {form.layout}" for form in formats)]
    lines += ["Otherwise name the files: --annotations FILE --images DIR. docs/formats.md has more."]
    return "\n".join(lines)


def _unreadable(folder: Path) -> list[str]:
    """Why the first JSON files and tables cannot be read, any of which may be the dataset's."""
    messages = []
    found = (file for kind in ("json", "csv") for place in (".", "*") for file in folder.glob(f"{place}/*.{kind}"))
    for file in sorted(found)[:_SHOWN]:
        try:
            read_images(file)
        except BrokenRecord as broken:
            messages.append(broken.message)
    return messages


def _inner(folder: Path) -> Iterator[tuple[Path, Format]]:
    """Datasets in the folders of a folder, and in theirs."""
    for path in sorted((*folder.glob("*/"), *folder.glob("*/*/")))[:_LOOKED]:
        try:
            form = detect_format(path)
        except DatasetError:  # two folders of one split, say: what there is will be said of that folder
            continue
        if form is not None:
            yield path, form


def _contents(folder: Path) -> tuple[Path, str] | None:
    """A folder's files in words: images by number, others by suffix and one of their names."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    if not names:
        return None
    kinds = Counter("images" if Path(name).suffix.lower() in IMAGE_SUFFIXES else Path(name).suffix for name in names)
    parts = []
    for kind, count in kinds.most_common():
        example = next(name for name in names if kind in ("images", Path(name).suffix))
        others = f" and {count - 1} more" if count > 1 else ""
        parts.append(f"{count} images" if kind == "images" else f"{example}{others}")
    return folder, ", ".join(parts)


def _relative(path: Path, folder: Path) -> str:
    return "here:" if path == folder else f"{path.relative_to(folder).as_posix()}/:"
