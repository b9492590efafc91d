"""COCO JSON (instances or person keypoints) in compact form.

`load_coco` reads a file without stopping at broken records: a record that cannot be represented is left out and named
in `Dataset.problems`; `training.data.check` adds what only shows next to the images. Masks are kept as polygons or
compressed RLE, packed into arrays, and become pixels only when `Annotations.masks` is called.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from model.architecture import Task, has_keypoints
from training.data.annotations.dataset import Category, Dataset, DatasetError, Problem
from training.data.annotations.fields import (
    BrokenRecord,
    Segmentation,
    get,
    integer,
    numbers,
    read_segmentation,
    text,
)
from training.data.annotations.packed import PackedAnnotations, offsets_of
from training.data.annotations.records import Annotations, ImageRecord


class Split(NamedTuple):
    """Where one split lies; `load_coco(*split)` reads it."""

    annotations: Path
    images: Path


@dataclass(frozen=True, slots=True)
class Splits:
    """The splits of a dataset folder; val is None where there is none."""

    train: Split
    val: Split | None


def find_splits(directory: Path, task: Task) -> Splits:
    """Finds `annotations/instances_{train,val}.json` with `images/` (or `images/train/`, `images/val/`), or COCO's own
    `annotations/instances_{train,val}2017.json` with `train2017/` and `val2017/`; `person_keypoints_*` for keypoints.

    Raises DatasetError, naming what was looked for, where there is no training split.
    """
    prefix = "person_keypoints" if has_keypoints(task) else "instances"
    looked: list[Path] = []
    for suffix in ("", "2017"):
        train = _find_split(directory, prefix, f"train{suffix}", looked)
        if train is not None:
            return Splits(train, _find_split(directory, prefix, f"val{suffix}", looked))
    raise DatasetError(
        f"no COCO dataset for task '{task}' in {directory}: looked for {', '.join(str(path) for path in looked)}; "
        f"give the folder that holds annotations/ and the images"
    )


def _find_split(directory: Path, prefix: str, split: str, looked: list[Path]) -> Split | None:
    annotations = directory / "annotations" / f"{prefix}_{split}.json"
    looked.append(annotations)
    if not annotations.is_file():
        return None
    folders = [directory / split, directory / "images" / split, directory / "images"]
    for folder in folders:
        if folder.is_dir():
            return Split(annotations, folder)
    raise DatasetError(
        f"{annotations} has no images: looked for the folders {', '.join(str(folder) for folder in folders)}"
    )


class _Row(NamedTuple):
    """One annotation on its way into the arrays of its image."""

    id: int
    xywh: NDArray[np.float64]
    label: int
    crowd: bool
    area: float
    segmentation: Segmentation
    keypoints: NDArray[np.float64] | None


def load_coco(annotations: Path, images: Path) -> Dataset:
    """Reads a COCO JSON file whose `file_name`s are relative to the folder `images`. No image is opened.

    Raises DatasetError where the file is not COCO JSON at all; broken records are left out and named in `problems`.
    """
    document = _read(annotations)
    problems: list[Problem] = []
    categories = _categories(document["categories"], problems)
    if not categories:
        raise DatasetError(f"{annotations} has no usable category: 'categories' needs records with 'id' and 'name'")
    records, broken_images = _images(document["images"], images, problems)
    raw = document["annotations"]
    num_keypoints = _num_keypoints(categories, raw, annotations)
    labels = {category.id: label for label, category in enumerate(categories, 1)}
    files: dict[int | None, str] = {record.id: record.file for record in records}

    rows: dict[int, list[_Row]] = {record.id: [] for record in records}
    seen: set[int] = set()
    for index, record in enumerate(raw):
        image_id = annotation_id = None
        try:
            where = f"annotations[{index}]"
            annotation_id = integer(record, "id", where)
            where = f"annotation {annotation_id}"
            image_id = integer(record, "image_id", where)
            if image_id in broken_images:
                continue  # it goes with its image, which has been named
            if image_id not in rows:
                raise BrokenRecord(
                    "unknown image", f"{where} belongs to image {image_id}, which the file does not list"
                )
            if annotation_id in seen:
                raise BrokenRecord(
                    "duplicate id", f"annotation id {annotation_id} is used before; this one is left out"
                )
            seen.add(annotation_id)
            rows[image_id].append(_row(record, annotation_id, labels, num_keypoints))
        except BrokenRecord as broken:
            problems.append(Problem(broken.kind, broken.message, files.get(image_id), image_id, annotation_id))
    return Dataset(
        name=annotations.stem,
        root=images,
        categories=categories,
        images=records,
        annotations=_pack([rows[record.id] for record in records], num_keypoints),
        num_keypoints=num_keypoints,
        problems=tuple(problems),
    )


def _read(path: Path) -> Mapping[str, list[Any]]:
    try:
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise DatasetError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:  # bad JSON or bad UTF-8
        raise DatasetError(f"{path} is not JSON: {error}") from error
    lists = ("images", "annotations", "categories")
    wrong = [key for key in lists if not isinstance(document, dict) or not isinstance(document.get(key), list)]
    if wrong:
        raise DatasetError(
            f"{path} is not a COCO dataset: it needs the lists {', '.join(lists)}, but lacks {', '.join(wrong)}"
        )
    if not document["images"]:
        raise DatasetError(f"{path} lists no images")
    return cast(Mapping[str, list[Any]], document)


def _categories(records: list[Any], problems: list[Problem]) -> tuple[Category, ...]:
    found: dict[int, Category] = {}
    for index, record in enumerate(records):
        try:
            id_ = integer(record, "id", f"categories[{index}]")
            if id_ in found:
                raise BrokenRecord("duplicate id", f"category id {id_} is used before; this one is left out")
            names = record.get("keypoints")
            keypoints = tuple(str(name) for name in names) if isinstance(names, list) else ()
            found[id_] = Category(id_, text(record, "name", f"category {id_}"), keypoints)
        except BrokenRecord as broken:
            problems.append(Problem(broken.kind, broken.message))
    return tuple(found[id_] for id_ in sorted(found))


def _images(records: list[Any], root: Path, problems: list[Problem]) -> tuple[list[ImageRecord], set[int]]:
    """The usable image records, and the ids of those left out."""
    found: dict[int, ImageRecord] = {}
    broken_ids: set[int] = set()
    for index, record in enumerate(records):
        id_ = file = None
        try:
            id_ = integer(record, "id", f"images[{index}]")
            file = text(record, "file_name", f"image {id_}")
            if id_ in found:
                raise BrokenRecord("duplicate id", f"image id {id_} is used before, by {found[id_].file}; left out")
            width, height = (integer(record, key, f"image {id_}") for key in ("width", "height"))
            if width < 1 or height < 1:
                raise BrokenRecord("size mismatch", f"image {id_} is said to be {width}x{height} pixels")
            found[id_] = ImageRecord(id_, root / file, width, height, file)
        except BrokenRecord as broken:
            problems.append(Problem(broken.kind, broken.message, file, id_))
            if id_ is not None and id_ not in found:
                broken_ids.add(id_)
    return list(found.values()), broken_ids - found.keys()


def _num_keypoints(categories: tuple[Category, ...], raw: list[Any], path: Path) -> int:
    """K from the categories' keypoint names, else from the first annotation that has keypoints."""
    counts = {len(category.keypoints) for category in categories if category.keypoints}
    if len(counts) > 1:
        raise DatasetError(f"{path}: categories have {sorted(counts)} keypoints; a model needs the same number for all")
    if counts:
        return counts.pop()
    for record in raw:
        keypoints = record.get("keypoints") if isinstance(record, dict) else None
        if isinstance(keypoints, list) and keypoints:
            return len(keypoints) // 3
    return 0


def _row(record: Mapping[str, Any], id_: int, labels: Mapping[int, int], num_keypoints: int) -> _Row:
    where = f"annotation {id_}"
    category = integer(record, "category_id", where)
    if category not in labels:
        raise BrokenRecord("unknown category", f"{where} has category {category}, which the file does not list")
    xywh = numbers(get(record, "bbox", where), f"bbox of {where}")
    if len(xywh) != 4:
        raise BrokenRecord("wrong type", f"bbox of {where} has {len(xywh)} numbers, not 4 (x, y, width, height)")
    crowd = record.get("iscrowd", 0)
    if crowd not in (0, 1):
        raise BrokenRecord("wrong type", f"iscrowd of {where} is {crowd!r}, not 0 or 1")
    area = numbers([record["area"] if record.get("area") is not None else xywh[2] * xywh[3]], f"area of {where}")
    keypoints = None
    if num_keypoints:
        values = numbers(record.get("keypoints") or [0.0] * (3 * num_keypoints), f"keypoints of {where}")
        if len(values) != 3 * num_keypoints:
            raise BrokenRecord(
                "keypoint count",
                f"{where} has {len(values)} keypoint numbers, not {num_keypoints} x (x, y, visibility)",
            )
        keypoints = values.reshape(num_keypoints, 3)
    segmentation = read_segmentation(record.get("segmentation"), where)
    return _Row(id_, xywh, labels[category], bool(crowd), float(area[0]), segmentation, keypoints)


def _pack(images: list[list[_Row]], num_keypoints: int) -> PackedAnnotations:
    rows = list(chain.from_iterable(images))
    keypoints = None
    if num_keypoints:
        keypoints = np.array([row.keypoints for row in rows], np.float32).reshape(-1, num_keypoints, 3)
    objects = Annotations(
        ids=np.array([row.id for row in rows], np.int64),
        xywh=np.array([row.xywh for row in rows], np.float64).reshape(-1, 4),
        labels=np.array([row.label for row in rows], np.int64),
        crowd=np.array([row.crowd for row in rows], np.bool_),
        area=np.array([row.area for row in rows], np.float64),
        segmentations=[row.segmentation for row in rows],
        keypoints=keypoints,
    )
    return PackedAnnotations(objects, offsets_of(map(len, images)))
