"""Masks of a COCO file that are written in another form than polygons in pixels and RLEs column by column."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from model.runtime.detections import RLE
from training.data.annotations.boxes import LEAST_IOU, overlaps
from training.data.annotations.dataset import DatasetError
from training.data.annotations.fields import BrokenRecord, integer, numbers
from training.data.annotations.repair import Repairs, mask_bounds
from training.data.formats.coco.segmentation import read_segmentation

Values = NDArray[np.float64]

LEAST: Final = 3
"""Fewer masks show no pattern."""
MOST: Final = 1000
"""More need not be looked at to show one."""
_COMPACT: Final = 0.5
"""Share of a mask's bounds within which the other reading lies, where that is the right one."""


def check_mask_form(annotations: list[Any], sizes: Mapping[int, tuple[int, int]], path: Path) -> None:
    """Raises DatasetError where most polygons are in shares of their images' sides, and where most RLEs are row by row.
    sizes: (width, height) of the images by id."""
    inside = [_in_unit(polygons) for polygons, size in islice(_polygons(annotations, sizes), MOST) if min(size) > 4]
    if len(inside) >= LEAST and np.mean(inside) > 0.5:
        raise DatasetError(
            f"{path}: its polygons are shares of the image's sides (0 to 1), as {sum(inside)} of {len(inside)} show; "
            f"COCO's are in pixels: multiply x by the width and y by the height of the image"
        )
    by_row = [_is_by_row(rle, box) for rle, box in islice(_rles(annotations, sizes), MOST)]
    if len(by_row) >= LEAST and np.mean(by_row) > 0.5:
        raise DatasetError(
            f"{path}: its RLEs are row by row, as {sum(by_row)} of {len(by_row)} show; COCO's go down the columns: "
            f"encode them with pycocotools.mask.encode(numpy.asfortranarray(mask))"
        )


def _polygons(annotations: list[Any], sizes: Mapping[int, Any]) -> Iterator[tuple[list[Any], tuple[int, int]]]:
    for record, size in _of_images(annotations, sizes):
        segmentation = record.get("segmentation")
        if isinstance(segmentation, list) and segmentation and all(isinstance(part, list) for part in segmentation):
            yield segmentation, size


def _in_unit(polygons: list[Any]) -> bool:
    try:
        return all(0 <= value <= 1 for ring in polygons for value in ring)
    except TypeError:  # no numbers: the reader says what it is
        return False


def _rles(annotations: list[Any], sizes: Mapping[int, Any]) -> Iterator[tuple[RLE, Values | None]]:
    """The RLEs that have the size of their image, each with its box."""
    for record, (width, height) in _of_images(annotations, sizes):
        segmentation = record.get("segmentation")
        if not isinstance(segmentation, dict):
            continue
        try:
            rle = read_segmentation(segmentation, "an annotation", Repairs())
        except BrokenRecord:  # named where it is read
            continue
        if isinstance(rle, RLE) and rle.size == (height, width):
            yield rle, _box(record)


def _box(record: Mapping[str, Any]) -> Values | None:
    try:
        xywh = numbers(record.get("bbox"), "bbox")
    except BrokenRecord:  # named where it is read
        return None
    return xywh if len(xywh) == 4 and (xywh[2:] > 0).all() else None


def _is_by_row(rle: RLE, box: Values | None) -> bool:
    """Whether the box, else the mask's own compactness, tells that the runs go along the rows."""
    down = mask_bounds(rle)
    along = mask_bounds(RLE(rle.size[::-1], rle.counts))  # the same runs, as the columns of the picture turned over
    if down is None or along is None:
        return False
    along = along[[1, 0, 3, 2]]
    if box is not None:
        return bool(overlaps(box[None], along[None])[0] >= LEAST_IOU > overlaps(box[None], down[None])[0])
    return bool(along[2:].prod() < _COMPACT * down[2:].prod())


def _of_images(annotations: list[Any], sizes: Mapping[int, Any]) -> Iterator[tuple[Mapping[str, Any], Any]]:
    """Records of single objects with the size of their image."""
    for record in annotations:
        if isinstance(record, dict) and not record.get("iscrowd"):
            try:
                size = sizes.get(integer(record, "image_id", "an annotation"))
            except BrokenRecord:  # named where it is read
                continue
            if size is not None:
                yield record, size
