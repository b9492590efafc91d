"""What a dataset has twice: objects annotated twice, and pictures that are there again, in their split or in another.

Pictures are the same when their pixels are. They are alike when their difference hashes are close and a comparison of
their thumbnails confirms it: a flat picture's hash says nothing, so flat pictures are never alike. What was cropped,
turned or mirrored is not found.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from faster_coco_eval import mask as mask_api
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from model.runtime.detections import RLE
from training.data.annotations.dataset import Dataset
from training.data.annotations.fields import Segmentation
from training.data.annotations.records import Annotations, ImageRecord
from training.data.checking.fingerprints import HASH_SIDE, Fingerprint

BOX_IOU = 0.9
MASK_IOU = 0.75
"""Objects of one class are the same when their boxes' IoU is above the former and their masks' above the latter."""

BITS = HASH_SIDE**2
DISTANCE = 26
"""Bits of a hash in which pictures that are alike may differ: a tenth."""
CORRELATION = 0.95
"""How alike their thumbnails are at least: recompressed, halved and brightened pictures mostly reach it."""
CONTRAST = 1.5
"""Standard deviation in gray levels under which a thumbnail is flat."""
_BLOCK = 2048  # pictures compared with as many others at a time
_PAIRS = 8192  # thumbnails compared at a time


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DuplicateObject(_Model):
    """Two annotations of one object; ids are the dataset's."""

    split: str
    file: str
    label: str
    first: int
    second: int
    box_iou: float


class PictureName(_Model):
    """Where a picture lies: its split and its file name there."""

    split: str
    file: str


class SamePicture(_Model):
    """One picture under several names. exact: all have the same pixels; otherwise some are only alike."""

    exact: bool
    pictures: tuple[PictureName, ...]

    @property
    def leaks(self) -> bool:
        """Whether it is in more than one split."""
        return len({one.split for one in self.pictures}) > 1


def box_ious(objects: Annotations) -> NDArray[np.float64]:
    """float64 [N, N], the IoU of every two boxes."""
    count = len(objects)
    if not count:
        return np.zeros((0, 0))
    boxes = objects.xywh.tolist()
    return np.asarray(mask_api.iou(boxes, boxes, [0] * count), np.float64).reshape(count, count)


def duplicate_objects(split: str, data: Dataset, *, with_masks: bool) -> list[DuplicateObject]:
    """Pairs of annotations of one image and class that are the same object; crowd regions aside.

    Boxes must be nearly equal, and masks too (`with_masks`, which must be sound) where both have one: crossing thin
    objects share a box. Records with the very same mask are the same whatever their boxes.
    """
    found = []
    for record, everything in zip(data.images, data.annotations, strict=True):
        objects = everything.select(~everything.crowd)
        for first, second, iou in _same_objects(record, objects, with_masks):
            found.append(
                DuplicateObject(
                    split=split,
                    file=record.file,
                    label=data.class_names[objects.labels[first] - 1],
                    first=int(objects.ids[first]),
                    second=int(objects.ids[second]),
                    box_iou=iou,
                )
            )
    return found


def same_pictures(splits: Mapping[str, Sequence[Fingerprint]], *, alike: bool = True) -> list[SamePicture]:
    """Groups of pictures with the same pixels, and (`alike`) groups that look the same; those over splits first.

    A group that looks the same also holds pictures of which only a third is alike, as in a film.
    """
    names = [PictureName(split=split, file=one.file) for split, prints in splits.items() for one in prints]
    prints = [one for some in splits.values() for one in some]
    by_digest: dict[bytes, list[int]] = {}
    for index, one in enumerate(prints):
        by_digest.setdefault(one.digest, []).append(index)
    groups = [(True, members) for members in by_digest.values() if len(members) > 1]
    if alike:
        distinct = list(by_digest.values())
        for group in _linked(len(distinct), _alike_pairs([prints[members[0]] for members in distinct])):
            groups.append((False, sorted(index for position in group for index in distinct[position])))
    found = [SamePicture(exact=exact, pictures=tuple(names[index] for index in members)) for exact, members in groups]
    return sorted(found, key=lambda group: (not group.leaks, not group.exact))


def _same_objects(record: ImageRecord, objects: Annotations, with_masks: bool) -> Iterator[tuple[int, int, float]]:
    """(first row, second row, IoU of the boxes)."""
    ious = box_ious(objects)
    same_class = objects.labels[:, None] == objects.labels[None]
    close = np.triu((ious > BOX_IOU) & same_class, 1)
    keys = [_key(segmentation) for segmentation in objects.segmentations]
    for first, second in np.argwhere(close).tolist():
        masked = with_masks and keys[first] is not None and keys[second] is not None
        if not masked or _mask_iou(objects.select([first, second]), record) > MASK_IOU:
            yield first, second, float(ious[first, second])
    seen: dict[tuple[int, bytes], int] = {}
    for row, key in enumerate(keys):
        if key is None:
            continue
        first = seen.setdefault((int(objects.labels[row]), key), row)
        if first != row and not close[first, row]:
            yield first, row, float(ious[first, row])


def _key(segmentation: Segmentation) -> bytes | None:
    """Equal for masks that are stored alike; None without one."""
    if segmentation is None:
        return None
    if isinstance(segmentation, RLE):
        return segmentation.counts
    return b"|".join(ring.tobytes() for ring in segmentation)


def _mask_iou(pair: Annotations, record: ImageRecord) -> float:
    first, second = ({"size": list(rle.size), "counts": rle.counts} for rle in pair.rles(record.height, record.width))
    return float(np.asarray(mask_api.iou([first], [second], [0])).reshape(-1)[0])


def _alike_pairs(prints: Sequence[Fingerprint]) -> Iterator[NDArray[np.int64]]:
    """Positions of pictures that are alike, in arrays int64 [P, 2]."""
    if len(prints) < 2:
        return
    # With bits as +1 and -1, a product of matrices counts equal less different bits: fast, and exact in float32.
    signs = np.unpackbits(np.stack([one.bits for one in prints]), axis=1).astype(np.float32) * 2 - 1
    thumbnails = np.stack([one.thumbnail for one in prints]).reshape(len(prints), -1)
    for top in range(0, len(prints), _BLOCK):
        for left in range(top, len(prints), _BLOCK):
            distance = (BITS - signs[top : top + _BLOCK] @ signs[left : left + _BLOCK].T) / 2
            close = np.argwhere(distance <= DISTANCE) + np.array([top, left])
            close = close[close[:, 0] < close[:, 1]]
            for start in range(0, len(close), _PAIRS):
                pairs = close[start : start + _PAIRS]
                yield pairs[_correlation(thumbnails[pairs[:, 0]], thumbnails[pairs[:, 1]]) >= CORRELATION]


def _correlation(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.float64]:
    """float64 [P] from -1 to 1, of thumbnails uint8 [P, 1024]; 0 where one of the two is flat."""
    one, other = (part - part.mean(axis=1, keepdims=True, dtype=np.float64) for part in (first, second))
    deviations = np.minimum(one.std(axis=1), other.std(axis=1))
    product: NDArray[np.float64] = (one * other).mean(axis=1) / np.maximum(one.std(axis=1) * other.std(axis=1), 1e-9)
    return np.where(deviations > CONTRAST, product, 0.0)


def _linked(count: int, pairs: Iterator[NDArray[np.int64]]) -> list[list[int]]:
    """Groups of two and more among 0..count - 1 that pairs connect."""
    parent = list(range(count))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    for some in pairs:
        for first, second in some.tolist():
            parent[root(second)] = root(first)
    groups: dict[int, list[int]] = {}
    for index in range(count):
        groups.setdefault(root(index), []).append(index)
    return [group for group in groups.values() if len(group) > 1]
