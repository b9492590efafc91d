"""Whether a server under load says of an image what it says of it alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from pycocotools import mask as coco

from benchmarks.peers.network import Answer

SCORE_TOLERANCE = 1e-3
BOX_TOLERANCE = 0.1
"""Pixels."""
MASK_TOLERANCE = 0.99
"""IoU. Less than these may differ because a sum was taken in another order; more changes what a user sees."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Of all answers under load: how many images they are of, how many of these got a changed one, how far it is off.

    lowest_iou: of any mask, on either side, with the mask of the same label on the other side that is most like it.
    largest_score_difference: between detections of the same rank, where there are equally many.
    """

    images: int
    changed_images: int
    answers: int
    changed_answers: int
    lowest_iou: float
    largest_score_difference: float


def compare(alone: Sequence[Answer], loaded: Iterable[tuple[int, Answer]]) -> Agreement:
    """`alone[i]` is the answer to image i alone; `loaded` holds (i, answer) of each request under load."""
    seen: set[int] = set()
    changed: list[int] = []
    answers, lowest, largest = 0, 1.0, 0.0
    for image, answer in loaded:
        answers += 1
        seen.add(image)
        iou = lowest_iou(alone[image], answer)
        scores = _difference(alone[image]["scores"], answer["scores"])
        boxes = _difference(alone[image]["boxes"], answer["boxes"])
        same_labels = alone[image]["labels"] == answer["labels"]
        lowest = min(lowest, iou)
        if scores is not None:
            largest = max(largest, scores)
        close = scores is not None and scores <= SCORE_TOLERANCE and boxes is not None and boxes <= BOX_TOLERANCE
        if not (close and same_labels and iou >= MASK_TOLERANCE):
            changed.append(image)
    return Agreement(len(seen), len(set(changed)), answers, len(changed), lowest, largest)


def _difference(one: Sequence[object], other: Sequence[object]) -> float | None:
    """The largest between two columns; None when they are not equally long."""
    if len(one) != len(other):
        return None
    return float(np.abs(np.asarray(one, float) - np.asarray(other, float)).max(initial=0))


def lowest_iou(one: Answer, other: Answer) -> float:
    """The worst mask's IoU with its best partner; 1 when neither has masks, 0 when a label is on one side alone."""
    lowest = 1.0
    for label in {*one["labels"], *other["labels"]}:
        sides = [
            [mask for mask, own in zip(answer["masks"], answer["labels"], strict=True) if own == label]
            for answer in (one, other)
        ]
        if not all(sides):
            return 0.0
        overlaps = coco.iou(*sides, [0] * len(sides[1]))
        lowest = min(lowest, float(overlaps.max(axis=0).min()), float(overlaps.max(axis=1).min()))
    return lowest
