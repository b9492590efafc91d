"""A dataset in figures: how many objects, how large, how crowded; for each split and class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from training.data.annotations.dataset import Dataset
from training.data.checking.duplicates import box_ious

SMALL, MEDIUM = 32**2, 96**2
"""COCO's areas in square pixels: small objects are below the first, large ones from the second on."""
CROWDED = 0.5
"""Box IoU with another object from which an object stands in a crowd."""


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Spread(_Model):
    """Where values lie: the smallest, 5 %, the median, 95 % and the largest."""

    smallest: float
    p5: float
    median: float
    p95: float
    largest: float


class ObjectStatistics(_Model):
    """The objects of a class, or of all; crowd regions are counted apart and in nothing else.

    images: how many have such objects. small, medium, large: shares 0..1 by COCO's areas. side: the square root of a
    box's area, in pixels. aspect: a box's height by its width. per_image: objects in images that have any. The latter
    three are None without objects.
    """

    name: str
    images: int
    objects: int
    crowds: int
    small: float
    medium: float
    large: float
    side: Spread | None
    aspect: Spread | None
    per_image: Spread | None


class Crowding(_Model):
    """How close objects are, which decides what non-maximum suppression can keep apart.

    crowded: share of objects whose box overlaps another one's in the image with IoU above 0.5. mean_best_iou: the mean
    of each object's highest box IoU with another. per_megapixel: objects in a million pixels, of images with objects.
    """

    crowded: float
    mean_best_iou: float
    per_megapixel: Spread | None


class SplitStatistics(_Model):
    """One split. width and height in pixels, as stored. keypoints: labeled ones, None in data without them."""

    name: str
    images: int
    without_objects: int
    width: Spread
    height: Spread
    total: ObjectStatistics
    classes: tuple[ObjectStatistics, ...]
    crowding: Crowding
    keypoints: int | None


class ClassGap(_Model):
    """A class that some splits have objects of and others don't."""

    name: str
    present: tuple[str, ...]
    absent: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Objects:
    """The O objects of a split side by side, without crowd regions.

    image: int64 [O], positions. label: int64 [O]. sizes: float64 [O, 2], boxes' (width, height) in pixels. area:
    float64 [O], masks' where the file has them. best_iou: float64 [O], the highest box IoU with another object of the
    image; best_same: with one of its class.
    """

    image: NDArray[np.int64]
    label: NDArray[np.int64]
    sizes: NDArray[np.float64]
    area: NDArray[np.float64]
    best_iou: NDArray[np.float64]
    best_same: NDArray[np.float64]


def gather_objects(data: Dataset) -> Objects:
    """The objects of a sound dataset (no empty boxes)."""
    image, best, best_same = [], [], []
    kept = [objects.select(~objects.crowd) for objects in data.annotations]
    for position, objects in enumerate(kept):
        ious = box_ious(objects)
        np.fill_diagonal(ious, 0)
        image.append(np.full(len(objects), position))
        best.append(ious.max(axis=1, initial=0))
        best_same.append((ious * (objects.labels[:, None] == objects.labels[None])).max(axis=1, initial=0))
    return Objects(
        np.concatenate(image),
        np.concatenate([objects.labels for objects in kept]),
        np.concatenate([objects.xywh[:, 2:] for objects in kept]),
        np.concatenate([objects.area for objects in kept]),
        np.concatenate(best),
        np.concatenate(best_same),
    )


def split_statistics(name: str, data: Dataset, objects: Objects) -> SplitStatistics:
    """The figures of one split; `objects` are `gather_objects(data)`."""
    crowds = np.zeros(data.num_classes, np.int64)
    keypoints = 0
    for some in data.annotations:
        crowds += np.bincount(some.labels[some.crowd], minlength=data.num_classes)
        if some.keypoints is not None:
            keypoints += int((some.keypoints[:, :, 2] > 0).sum())
    everything = np.ones(len(objects.label), np.bool_)
    sizes = np.array([(record.width, record.height) for record in data.images])
    counts = np.bincount(objects.image, minlength=len(data))
    density = counts / sizes.prod(axis=1) * 1e6
    return SplitStatistics(
        name=name,
        images=len(data),
        without_objects=int((counts == 0).sum()),
        width=_spread(sizes[:, 0]),
        height=_spread(sizes[:, 1]),
        total=_statistics("all", objects, everything, int(crowds.sum())),
        classes=tuple(
            _statistics(class_name, objects, objects.label == label, int(crowds[label]))
            for label, class_name in enumerate(data.class_names, 1)
        ),
        crowding=Crowding(
            crowded=_mean(objects.best_iou > CROWDED),
            mean_best_iou=_mean(objects.best_iou),
            per_megapixel=_spread(density[counts > 0]) if counts.any() else None,
        ),
        keypoints=keypoints if data.num_keypoints else None,
    )


def class_gaps(splits: Mapping[str, SplitStatistics]) -> list[ClassGap]:
    """The classes without objects in some or in all of the splits, by name."""
    has = {name: {one.name for one in split.classes if one.objects} for name, split in splits.items()}
    names = dict.fromkeys(one.name for split in splits.values() for one in split.classes)
    return [
        ClassGap(
            name=name,
            present=tuple(split for split in splits if name in has[split]),
            absent=tuple(split for split in splits if name not in has[split]),
        )
        for name in names
        if any(name not in some for some in has.values())
    ]


def _statistics(name: str, objects: Objects, chosen: NDArray[np.bool_], crowds: int) -> ObjectStatistics:
    area, sizes = objects.area[chosen], objects.sizes[chosen]
    counts = np.unique(objects.image[chosen], return_counts=True)[1]
    some = len(area) > 0
    return ObjectStatistics(
        name=name,
        images=len(counts),
        objects=len(area),
        crowds=crowds,
        small=_mean(area < SMALL),
        medium=_mean((area >= SMALL) & (area < MEDIUM)),
        large=_mean(area >= MEDIUM),
        side=_spread(np.sqrt(sizes.prod(axis=1))) if some else None,
        aspect=_spread(sizes[:, 1] / sizes[:, 0]) if some else None,
        per_image=_spread(counts) if some else None,
    )


def _spread(values: NDArray[np.float64] | NDArray[np.int64]) -> Spread:
    smallest, p5, median, p95, largest = (round(float(v), 3) for v in np.quantile(values, (0, 0.05, 0.5, 0.95, 1)))
    return Spread(smallest=smallest, p5=p5, median=median, p95=p95, largest=largest)


def _mean(values: NDArray[np.float64] | NDArray[np.bool_]) -> float:
    return round(float(values.mean()), 6) if len(values) else 0.0
