"""What a converted dataset is when it is read again: the same, or what its format cannot hold, with counts."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from faster_coco_eval import mask as mask_api
from numpy.typing import NDArray

from training.data.annotations.dataset import Dataset, DatasetError
from training.data.annotations.records import Annotations, ImageRecord
from training.data.formats.locate import Origin, locate
from training.data.formats.splits import split_of

SAME: Final = 0.98
"""IoU from which a mask or a box is the same: outlines are written with a rest of rounding."""


class Written(NamedTuple):
    """A split as it was to be written, and where each of its images lies."""

    data: Dataset
    paths: Sequence[Path]


def read_back(written: Mapping[str, Written], folder: Path, form: str) -> dict[str, list[str]]:
    """What is otherwise in a folder that was written as `form`, of every split, one line for each kind of difference.

    Raises DatasetError where it would be read as another dataset: other splits, images or classes, or more objects.
    """
    try:
        located = locate(Origin(folder))
        found = located.read_aligned()
    except DatasetError as error:
        if not any(map(split_of, written)):
            raise DatasetError(_other_splits(written, "nothing", form)) from None
        message = str(error).splitlines()[0].replace(str(folder), "TARGET")
        raise DatasetError(f"{form} cannot hold this dataset, of which would be read: {message}") from None
    if set(found) != set(written):
        raise DatasetError(_other_splits(written, ", ".join(found), form))
    return {split: _differences(one, found[split], form) for split, one in written.items()}


def _other_splits(written: Iterable[str], found: str, form: str) -> str:
    return (
        f"{form} cannot hold the splits {', '.join(written)}, which would be read as {found}: name them train, val and "
        f"test, or convert to coco, voc or yolo"
    )


class _Lost(NamedTuple):
    """One object that is not there, or is another, in its image: its class, and the IoU with what is there."""

    class_name: str
    kind: str
    iou: float


def _differences(written: Written, found: Dataset, form: str) -> list[str]:
    data = written.data
    rows = {os.path.abspath(record.path): row for row, record in enumerate(found.images)}
    missing = [path for path in written.paths if os.path.abspath(path) not in rows]
    if missing or len(rows) != len(written.paths):
        example = f", such as {missing[0].name}" if missing else ""
        first = f"; {found.problems[0].message}" if found.problems else ""
        raise DatasetError(
            f"{form} cannot hold the images of {data.name}: it would give back {len(rows)} of {len(data)}"
            f"{example}{first}"
        )
    used = {data.class_names[label - 1] for objects in data.annotations for label in objects.labels.tolist()}
    unknown = sorted(used - set(found.class_names))
    lost: list[_Lost] = []
    for record, objects, path in zip(data.images, data.annotations, written.paths, strict=True):
        lost += _compare(record, (objects, data), (found.annotations[rows[os.path.abspath(path)]], found), form)
    if unknown and any(one.class_name in unknown and one.kind.startswith("objects") for one in lost):
        raise DatasetError(
            f"{form} cannot hold classes of these names: {', '.join(map(repr, unknown))}; it would give back "
            f"{', '.join(map(repr, found.class_names))}: rename them (--rename OLD=NEW)"
        )
    lines = [f"not written: keypoints: {form} has none"] if data.num_keypoints and not found.num_keypoints else []
    absent = [name for name in data.class_names if name not in found.class_names and name not in used]
    lines += [f"not written: classes without objects: {', '.join(absent)}"] if absent else []
    for kind, many in Counter(one.kind for one in lost).items():
        group = [one for one in lost if one.kind == kind]
        classes = ", ".join(f"{name}: {count}" for name, count in Counter(one.class_name for one in group).items())
        lines.append(_line(kind, many, classes, min(one.iou for one in group)))
    return lines


def _line(kind: str, many: int, classes: str, iou: float) -> str:
    if kind == "rectangles":
        return f"written otherwise: {many} boxes without mask became rectangles ({classes})"
    if kind == "parts":
        return f"written in part: {many} objects ({classes}), the smallest IoU with the original is {iou:.2f}"
    return f"not written: {many} {kind} ({classes})"


def _compare(
    record: ImageRecord, before: tuple[Annotations, Dataset], after: tuple[Annotations, Dataset], form: str
) -> Iterator[_Lost]:
    """The objects of one image that are not as they were."""
    (objects, data), (found, back) = before, after
    if len(found) > len(objects):
        raise DatasetError(f"{form} would give back {len(found)} objects of {record.file}, which has {len(objects)}")
    names = [data.class_names[label - 1] for label in objects.labels.tolist()]
    others = [back.class_names[label - 1] for label in found.labels.tolist()]
    same = np.array([[mine == other for other in others] for mine in names], np.bool_).reshape(len(names), len(others))
    same &= objects.crowd[:, None] == found.crowd[None, :]
    masks = [segmentation is not None for segmentation in objects.segmentations]
    matches = _matched(np.where(same, _ious(objects, found, record), 0.0))
    for row, name in enumerate(names):
        column, iou = matches.get(row, (-1, 0.0))
        if column < 0:
            kind = "crowd regions" if objects.crowd[row] else "objects" if masks[row] else "boxes without mask"
            hidden = kind == "objects" and _is_under_others(objects, row, record)
            yield _Lost(name, "objects that others hide" if hidden else kind, iou)
        elif not masks[row] and found.segmentations[column] is not None:
            yield _Lost(name, "rectangles", iou)
        elif iou < SAME:
            yield _Lost(name, "parts", iou)


def _ious(objects: Annotations, found: Annotations, record: ImageRecord) -> NDArray[np.float64]:
    """float64 [N, M] of masks where both have one, of boxes where the first has none."""
    ious = np.zeros((len(objects), len(found)))
    mine, theirs = (
        np.array([segmentation is not None for segmentation in one.segmentations], np.bool_) for one in (objects, found)
    )
    if not len(found):
        return ious
    if (~mine).any():
        ious[~mine] = _overlap(objects.xywh[~mine], found.xywh, crowd=False)
    if mine.any() and theirs.any():
        encoded = (_encoded(one.select(rows), record) for one, rows in ((objects, mine), (found, theirs)))
        ious[np.ix_(mine, theirs)] = _overlap(*encoded, crowd=False)
    return ious


def _overlap(first: Any, second: Any, *, crowd: bool) -> NDArray[np.float64]:
    """IoU of N with M boxes or RLEs; with `crowd`, the share of the first that the second covers."""
    return np.asarray(mask_api.iou(first, second, [int(crowd)] * len(second)), np.float64)


def _encoded(objects: Annotations, record: ImageRecord) -> list[dict[str, Any]]:
    return [{"size": list(rle.size), "counts": rle.counts} for rle in objects.rles(record.height, record.width)]


def _matched(ious: NDArray[np.float64]) -> dict[int, tuple[int, float]]:
    """Rows with the columns that they share most with and the IoU, each column once, the best pairs first."""
    found: dict[int, tuple[int, float]] = {}
    taken: set[int] = set()
    for row, column in zip(*np.unravel_index(np.argsort(-ious, axis=None), ious.shape), strict=True):
        if ious[row, column] > 0 and row not in found and column not in taken:
            found[int(row)] = int(column), float(ious[row, column])
            taken.add(column)
    return found


def _is_under_others(objects: Annotations, row: int, record: ImageRecord) -> bool:
    masked = [other for other, one in enumerate(objects.segmentations) if one is not None and other != row]
    if not masked:
        return False
    own, others = (_encoded(objects.select(rows), record) for rows in ([row], masked))
    return bool(_overlap(own, others, crowd=True).any())
