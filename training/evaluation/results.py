"""COCO results in a file, as `maskserve predict-many` writes them, in place of a model that finds them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from model.architecture import Task
from model.runtime.bundles.manifest import ServingDefaults
from model.runtime.detections import RLE, Detections
from training.data.annotations.dataset import Dataset
from training.data.annotations.records import ImageRecord
from training.evaluation.evaluated import Evaluated

IMAGES: Final = "images.json"
"""Lies beside results, where it does: a COCO dataset that says which images their ids are."""


class ResultsError(ValueError):
    """What is in the file are no COCO results, or none of this dataset."""


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True)


class _Mask(_Entry):
    size: tuple[int, int]
    counts: str


class _Result(_Entry):
    """One detection; bbox is left, top, width, height in pixels."""

    image_id: int | str
    category_id: int
    bbox: tuple[float, float, float, float]
    score: float
    segmentation: _Mask | None = None
    keypoints: tuple[float, ...] | None = None


class _Image(_Entry):
    id: int | str
    file_name: str


class _Images(_Entry):
    images: list[_Image]


def open_results(path: Path) -> Evaluated:
    """What is evaluated are boxes, and masks and keypoints where all entries have them. Raises ResultsError."""
    try:
        results = TypeAdapter(list[_Result]).validate_json(path.read_bytes())
    except OSError as error:
        raise ResultsError(f"--results: {path} cannot be read: {error.strerror}") from None
    except ValidationError as error:
        if path.suffix == ".parquet":
            raise ResultsError(
                f"--results: {path} is a table, and no COCO results: predict-many makes those of what is there, by the "
                f"same command with --format coco"
            ) from None
        first = error.errors()[0]
        where = " of entry ".join(map(str, reversed(first["loc"][:2]))) or "it"
        raise ResultsError(
            f"--results: {path} holds no COCO results: {where}: {first['msg']}; masks are RLE, with counts as a text"
        ) from None
    task = _task(path, results)
    find = partial(_find, path, results, _names_beside(path))
    return Evaluated(str(path), task, None, ServingDefaults(), find)


def _task(path: Path, results: Sequence[_Result]) -> Task:
    kinds = {(one.segmentation is not None, one.keypoints is not None) for one in results}
    if len(kinds) > 1:
        raise ResultsError(
            f"--results: only some entries of {path} have a segmentation, or keypoints: all must, or none"
        )
    tasks: dict[tuple[bool, bool], Task] = {
        (False, False): "boxes",
        (True, False): "masks",
        (False, True): "keypoints",
        (True, True): "masks_keypoints",
    }
    return tasks[kinds.pop()] if kinds else "boxes"


def _names_beside(path: Path) -> dict[int | str, str]:
    """File names by id, as far as they are known."""
    file = path.with_name(IMAGES)
    if not file.is_file():
        return {}
    try:
        return {one.id: one.file_name for one in _Images.model_validate_json(file.read_bytes()).images}
    except (OSError, ValidationError):  # somebody's own file of that name
        return {}


def _find(
    path: Path,
    results: Sequence[_Result],
    names: Mapping[int | str, str],
    data: Dataset,
    *,
    max_detections: int,
    score_threshold: float,
    progress: Callable[[int], None] | None = None,
) -> list[Detections]:
    """The best of each image of `data`, in its order. Raises ResultsError where results and data do not fit."""
    labels = {category.id: label for label, category in enumerate(data.categories, 1)}
    by_image: defaultdict[int | str, list[_Result]] = defaultdict(list)
    for one in results:
        by_image[one.image_id].append(one)
        if one.category_id not in labels:
            known = ", ".join(f"{category.id} {category.name}" for category in data.categories)
            raise ResultsError(f"{path} has the category {one.category_id}, and {data.name} has {known}")
    records = {record.original_id: record for record in data.images}
    if results and not by_image.keys() & records.keys():
        raise ResultsError(f"{path} has results of other images than {data.name}: none of their ids is there")
    if names:
        _require_same(path, names, records)
    found = []
    for number, (image_id, record) in enumerate(records.items(), 1):
        kept = [one for one in by_image[image_id] if one.score > score_threshold]
        best = sorted(kept, key=lambda one: -one.score)[:max_detections]
        found.append(_detections(path, record, best, labels))
        if progress is not None:
            progress(number)
    return found


def _require_same(path: Path, names: Mapping[int | str, str], records: Mapping[int | str, ImageRecord]) -> None:
    """Running numbers of a folder's images are ids, too, but of others; and an image that nobody predicted is no empty
    one."""
    file = path.with_name(IMAGES)
    ends = {end for record in records.values() for end in _ends(record.file)}
    for image_id, record in records.items():
        name = names.get(image_id)
        # Of images of one name in several folders the longest end that any of them has tells which it is.
        if name is not None and next((end for end in _ends(name) if end in ends), None) not in _ends(record.file):
            raise ResultsError(
                f"{file} says that image {image_id} is {name}, and the data that it is {record.file}: "
                f"predict the images of the dataset's own JSON, whose ids results then have"
            )
    if missing := [image_id for image_id in records if image_id not in names]:
        raise ResultsError(
            f"{file} lacks {len(missing)} of the {len(records)} images of the data, such as {missing[0]}, "
            f"{records[missing[0]].file}: predict the images of the dataset's own JSON"
        )


def _ends(name: str) -> list[str]:
    """What a path ends in, from all of it to its last part."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
    return ["/".join(parts[first:]) for first in range(len(parts))]


def _detections(path: Path, record: ImageRecord, results: Sequence[_Result], labels: Mapping[int, int]) -> Detections:
    for one in results:
        if one.segmentation is not None and one.segmentation.size != (record.height, record.width):
            size = (record.height, record.width)
            raise ResultsError(f"{path}: a mask of {record.file} has size {one.segmentation.size}, the image {size}")
    corners = np.array([one.bbox for one in results], np.float64).reshape(-1, 4)
    corners[:, 2:] += corners[:, :2]
    masks = [RLE(one.segmentation.size, one.segmentation.counts.encode()) for one in results if one.segmentation]
    keypoints = [one.keypoints for one in results if one.keypoints is not None]
    return Detections(
        corners.astype(np.float32),
        np.array([one.score for one in results], np.float32),
        np.array([labels[one.category_id] for one in results], np.int64),
        masks if masks or not results else None,
        np.array(keypoints, np.float32).reshape(len(keypoints), -1, 3) if keypoints else None,
    )
