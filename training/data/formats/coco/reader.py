"""COCO JSON (instances or person keypoints) in compact form.

`load_coco` reads a file without stopping at broken records: a record that cannot be represented is left out and named
in `Dataset.problems`; `training.data.check` adds what only shows next to the images. Masks are kept as polygons or
compressed RLE, packed into arrays, and become pixels only when `Annotations.masks` is called.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from training.data.annotations.dataset import Category, Dataset, DatasetError, Problem
from training.data.annotations.fields import (
    BrokenRecord,
    Segmentation,
    flag,
    integer,
    numbers,
)
from training.data.annotations.keypoints import fit_keypoints
from training.data.annotations.packed import PackedAnnotations, offsets_of
from training.data.annotations.records import Annotations, ImageRecord
from training.data.annotations.repair import Repairs, fit, mask_area
from training.data.formats.coco.boxes import check_box_form
from training.data.formats.coco.categories import read_categories
from training.data.formats.coco.frames import Orientation, to_stored
from training.data.formats.coco.ids import number_ids
from training.data.formats.coco.images import read_images
from training.data.formats.coco.mask_form import check_mask_form
from training.data.formats.coco.segmentation import read_segmentation
from training.data.formats.text_files import read_json


class _Row(NamedTuple):
    """One annotation on its way into the arrays of its image."""

    id: int
    xywh: NDArray[np.float64]
    label: int
    crowd: bool
    area: float
    segmentation: Segmentation
    keypoints: NDArray[np.float64] | None


def load_coco(annotations: Path, images: Path, root: Path | None = None, orientation: Orientation = "auto") -> Dataset:
    """Reads a COCO JSON file whose `file_name`s are relative to the folder `images`. Of images only headers are read.

    Images that are not there are looked for beside the file, then by the end of their names in `root`, by default
    `images`. Annotations of pictures as seen become those of the stored pixels, as `to_stored` says; what the file's
    own `info` says of its orientation goes before it.

    Raises DatasetError where the file is not COCO JSON at all; broken records are left out and named in `problems`.
    """
    document = _read(annotations)
    ids = number_ids(document)
    problems: list[Problem] = []
    repairs = Repairs()
    raw = document["annotations"]
    categories = read_categories(document["categories"], raw, problems, repairs)
    if not categories.kept:
        raise DatasetError(f"{annotations} has no usable category: 'categories' needs records with 'id' and 'name'")
    search = root or images
    frame = _stated_orientation(document) or orientation
    listed = read_images(document["images"], ids.images, (images, annotations.parent, search), search, frame)
    problems += listed.problems
    records = listed.records
    reader = _Reader(categories.labels, ids.categories, _num_keypoints(categories.kept, raw, annotations), repairs)
    by_id = {record.id: record for record in records}
    sizes = {record.id: (record.width, record.height) for record in records}
    check_mask_form(raw, sizes, annotations)
    box_notes = check_box_form(raw, sizes, annotations)

    rows: dict[int, list[_Row]] = {record.id: [] for record in records}
    numbering = _Numbering(raw, repairs)
    for index, record in enumerate(raw):
        image_id = annotation_id = None
        try:
            where = f"annotations[{index}]"
            annotation_id = numbering.id_of(record, where)
            where = f"annotation {annotation_id}"
            image_id = integer(record, "image_id", where)
            if image_id in listed.broken:
                continue  # it goes with its image, which has been named
            if image_id not in rows:
                raise BrokenRecord(
                    "unknown image",
                    f"{where} belongs to image {ids.images.get(image_id, image_id)}, which the file does not list",
                )
            rows[image_id].append(reader.row(record, annotation_id, by_id[image_id]))
        except BrokenRecord as broken:
            file = by_id[image_id].file if image_id in by_id else None
            problems.append(Problem(broken.kind, broken.message, file, image_id, annotation_id))
    data = Dataset(
        name=annotations.stem,
        root=images,
        categories=categories.kept,
        images=records,
        annotations=_pack([rows[record.id] for record in records], reader.num_keypoints),
        num_keypoints=reader.num_keypoints,
        problems=tuple(problems),
        repairs=repairs.found,
        notes=(*ids.notes, *listed.notes, *box_notes),
    )
    return to_stored(data, frame)


def _stated_orientation(document: Mapping[str, Any]) -> Orientation | None:
    """What our own writer says of the pictures that it was given."""
    info = document.get("info")
    return "stored" if isinstance(info, dict) and info.get("orientation") == "stored" else None


class _Numbering:
    """Ids of annotations: theirs, and new ones where a record has none or the id of another."""

    def __init__(self, raw: list[Any], repairs: Repairs) -> None:
        ids = (record.get("id") for record in raw if isinstance(record, dict))
        self._next = max((id_ for id_ in ids if type(id_) is int and id_ < 2**62), default=0)
        self._seen: dict[int, Any] = {}
        self._repairs = repairs

    def id_of(self, record: Any, where: str) -> int:
        """Raises BrokenRecord for a record that is there twice, and for an id that is no whole number."""
        id_ = integer(record, "id", where) if not isinstance(record, dict) or record.get("id") is not None else None
        if id_ is not None and id_ not in self._seen:
            self._seen[id_] = record
            return id_
        if id_ is not None and self._seen[id_] == record:
            raise BrokenRecord("duplicate id", f"annotation {id_} is there twice; the second one is left out")
        self._next += 1
        had = "has no id" if id_ is None else f"has the id {id_} of another"
        self._repairs.note("annotation numbered anew", f"{where} {had}, and is now annotation {self._next}")
        self._seen[self._next] = record
        return self._next


def _read(path: Path) -> Mapping[str, list[Any]]:
    try:
        document = read_json(path)
    except BrokenRecord as broken:
        raise DatasetError(broken.message) from None
    lists = ("images", "annotations", "categories")
    wrong = [key for key in lists if not isinstance(document, dict) or not isinstance(document.get(key), list)]
    if wrong:
        raise DatasetError(
            f"{path} is not a COCO dataset: it needs the lists {', '.join(lists)}, but lacks {', '.join(wrong)}"
        )
    if not document["images"]:
        raise DatasetError(f"{path} lists no images")
    return cast(Mapping[str, list[Any]], document)


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


class _Reader(NamedTuple):
    """What all annotations of a file are read with. labels: those of the category ids; texts: what the file has for
    some of these."""

    labels: Mapping[int, int]
    texts: Mapping[int, str]
    num_keypoints: int
    repairs: Repairs

    def row(self, record: Mapping[str, Any], id_: int, image: ImageRecord) -> _Row:
        """One annotation, mended. Raises BrokenRecord for one that cannot be."""
        where = f"annotation {id_}"
        category = integer(record, "category_id", where)
        if category not in self.labels:
            raise BrokenRecord(
                "unknown category",
                f"{where} has category {self.texts.get(category, category)}, which the file does not list",
            )
        crowd = flag(record, "iscrowd", where)
        segmentation = read_segmentation(record.get("segmentation"), where, self.repairs)
        box = _box(record, where, needed=segmentation is None)
        fitted = fit(segmentation, box, (image.width, image.height), where, self.repairs)
        keypoints = self._keypoints(record, where, image) if self.num_keypoints else None
        area = None if fitted.changed else _area(record.get("area"))
        if area is None:
            area = mask_area(fitted.segmentation) or float(fitted.xywh[2] * fitted.xywh[3])
        return _Row(id_, fitted.xywh, self.labels[category], crowd, area, fitted.segmentation, keypoints)

    def _keypoints(self, record: Mapping[str, Any], where: str, image: ImageRecord) -> NDArray[np.float64]:
        """float64 [K, 3]; those outside the image become unlabeled."""
        values = numbers(record.get("keypoints") or [0.0] * (3 * self.num_keypoints), f"keypoints of {where}")
        if len(values) != 3 * self.num_keypoints:
            raise BrokenRecord(
                "keypoint count",
                f"{where} has {len(values)} keypoint numbers, not {self.num_keypoints} x (x, y, visibility)",
            )
        keypoints = values.reshape(self.num_keypoints, 3)
        return fit_keypoints(keypoints, (image.width, image.height), where, self.repairs)


def _box(record: Mapping[str, Any], where: str, *, needed: bool) -> NDArray[np.float64] | None:
    """float64 [4]; None where it is absent, or holds no four finite numbers, and is not needed."""
    value = record.get("bbox")
    if value is None or value == []:
        return None
    try:
        xywh = numbers(value, f"bbox of {where}")
        if len(xywh) != 4:
            raise BrokenRecord("wrong type", f"bbox of {where} has {len(xywh)} numbers, not 4 (x, y, width, height)")
    except BrokenRecord:
        if needed:
            raise
        return None
    return xywh


def _area(value: Any) -> float | None:
    """The area that a record states, if it can be one."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if 0 < value < float("inf") else None


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
