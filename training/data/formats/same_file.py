"""Image files that several records are of: a COCO JSON that was merged of two, two LabelMe files of one picture."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from model.runtime.detections import RLE
from training.data.annotations.dataset import Dataset
from training.data.annotations.packed import PackedAnnotations
from training.data.annotations.records import Annotations
from training.data.annotations.segmentations import PackedSegmentations


def one_record_each(data: Dataset) -> Dataset:
    """The dataset with one record for each image file, the first, which has the objects of all; those that are exactly
    alike once. A note says so.

    As records of their own, each would teach that the objects of the others are background. Records that state other
    sizes stay, for one of them is wrong.
    """
    groups: dict[tuple[str, int, int], list[int]] = defaultdict(list)
    for row, record in enumerate(data.images):
        groups[os.path.abspath(record.path), record.width, record.height].append(row)
    if len(groups) == len(data):
        return data
    merged = [_merge([data.annotations[row] for row in rows]) for rows in groups.values()]
    first = next(rows[0] for rows in groups.values() if len(rows) > 1)
    twice = sum(map(len, data.annotations)) - sum(map(len, merged))
    note = (
        f"{len(data) - len(groups)} records are of an image file that an earlier one is of, first "
        f"{data.images[first].file}: they are one, with the objects of all"
    )
    note += f"; {twice} objects that were there twice, exactly alike, are left out" if twice else ""
    images = [data.images[rows[0]] for rows in groups.values()]
    return replace(data, images=images, annotations=PackedAnnotations.pack(merged), notes=(*data.notes, note))


def _merge(parts: Sequence[Annotations]) -> Annotations:
    if len(parts) == 1:
        return parts[0]
    keypoints = [part.keypoints for part in parts if part.keypoints is not None]
    together = Annotations(
        ids=np.concatenate([part.ids for part in parts]),
        xywh=np.concatenate([part.xywh for part in parts]),
        labels=np.concatenate([part.labels for part in parts]),
        crowd=np.concatenate([part.crowd for part in parts]),
        area=np.concatenate([part.area for part in parts]),
        segmentations=PackedSegmentations.pack(one for part in parts for one in part.segmentations),
        keypoints=np.concatenate(keypoints) if keypoints else None,
    )
    distinct: dict[tuple[object, ...], int] = {}
    for row in range(len(together)):
        distinct.setdefault(_content(together, row), row)
    return together.select(list(distinct.values()))


def _content(objects: Annotations, row: int) -> tuple[object, ...]:
    """What two objects have to share to be the same."""
    mask = objects.segmentations[row]
    outline = mask if mask is None or isinstance(mask, RLE) else tuple(ring.tobytes() for ring in mask)
    keypoints = None if objects.keypoints is None else objects.keypoints[row].tobytes()
    return int(objects.labels[row]), bool(objects.crowd[row]), objects.xywh[row].tobytes(), outline, keypoints
