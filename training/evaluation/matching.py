"""Which detection found which object, as COCO matches them at IoU 0.5: each picks, by falling score, the best one left.

A class's matching at any score threshold is a part of that of all its detections, so it is made once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from faster_coco_eval import mask as mask_api
from numpy.typing import NDArray

from model.architecture import Task
from model.runtime.detections import RLE, Detections
from training.data.annotations.dataset import Dataset
from training.data.annotations.records import Annotations, ImageRecord

MATCH_IOU = 0.5

MatchedBy = Literal["box", "mask"]

MATCHED_BY: dict[Task, MatchedBy] = {"boxes": "box", "masks": "mask", "keypoints": "box", "masks_keypoints": "mask"}
"""Whose IoU counts; objects with keypoints alone are found by their boxes."""


@dataclass(frozen=True, slots=True, eq=False)
class Matches:
    """One image's N detections, in falling score, and M objects.

    scores: float32 [N]. labels: int64 [N]. found: int64 [N], the object that a detection matches, of its own class; -1
    without one. ignored: bool [N], detections in a crowd region of their class, neither right nor wrong.
    truth: int64 [M], the objects' labels. crowd: bool [M], regions that no detection has to find. iou: float64 [N, M].
    areas: float64 [N] and truth_areas: float64 [M], in pixels, of what iou compares: masks or boxes.
    """

    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    found: NDArray[np.int64]
    ignored: NDArray[np.bool_]
    truth: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    iou: NDArray[np.float64]
    areas: NDArray[np.float64]
    truth_areas: NDArray[np.float64]


def match_detections(data: Dataset, results: Sequence[Detections], by: MatchedBy) -> list[Matches]:
    """The matches of `results`, one for each image of `data` and in its order, by the IoU of their boxes or masks.

    Raises ValueError where they do not fit together or masks are missing.
    """
    if len(results) != len(data):
        raise ValueError(f"{len(results)} results for {len(data)} images of {data.name}: give one for each, in order")
    return [
        _match(image, objects, detections, by)
        for image, objects, detections in zip(data.images, data.annotations, results, strict=True)
    ]


def _match(image: ImageRecord, objects: Annotations, detections: Detections, by: MatchedBy) -> Matches:
    order = np.argsort(-detections.scores, kind="stable")
    labels = detections.labels[order]
    said, true = _shapes(image, objects, detections, by)
    iou = said.iou(true, objects.crowd)[order]
    # Any class but a detection's own is out of its reach.
    reach = np.where(labels[:, None] == objects.labels[None], iou, 0.0)
    found = np.full(len(order), -1)
    ignored = np.zeros(len(order), np.bool_)
    left = ~objects.crowd
    for row in range(len(order)):
        best = _last_best(np.where(left, reach[row], 0.0))
        if best is not None:
            found[row], left[best] = best, False
        else:
            ignored[row] = bool((reach[row, objects.crowd] >= MATCH_IOU).any())
    return Matches(
        detections.scores[order],
        labels,
        found,
        ignored,
        objects.labels,
        objects.crowd,
        iou,
        said.areas[order],
        true.areas,
    )


def _last_best(ious: NDArray[np.float64]) -> int | None:
    """The object of the highest IoU, the last of equals, which is COCO's choice; None if none reaches MATCH_IOU."""
    if not len(ious):
        return None
    best = len(ious) - 1 - int(ious[::-1].argmax())
    return best if ious[best] >= MATCH_IOU else None


@dataclass(frozen=True, slots=True, eq=False)
class _Shapes:
    """Boxes (left, top, width, height) or RLE as the COCO library takes them, and their areas, float64 [N]."""

    shapes: list[list[float]] | list[dict[str, object]]
    areas: NDArray[np.float64]

    def iou(self, objects: _Shapes, crowd: NDArray[np.bool_]) -> NDArray[np.float64]:
        """float64 [N, M]; of crowd regions the share of the detection that lies inside, as COCO has it."""
        if not self.shapes or not objects.shapes:
            return np.zeros((len(self.shapes), len(objects.shapes)))
        ious = mask_api.iou(self.shapes, objects.shapes, crowd.astype(int).tolist())
        return np.asarray(ious, np.float64).reshape(len(self.shapes), len(objects.shapes))


def _shapes(image: ImageRecord, objects: Annotations, detections: Detections, by: MatchedBy) -> tuple[_Shapes, _Shapes]:
    """What is compared of the detections and of the objects."""
    if by == "box":
        corners = detections.boxes.astype(np.float64)
        return _boxes(np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)), _boxes(objects.xywh)
    if detections.masks is None:
        if not len(detections):
            return _masks([]), _masks(objects.rles(image.height, image.width))
        raise ValueError(f"the detections of {image.file} have no masks to match")
    return _masks(detections.masks), _masks(objects.rles(image.height, image.width))


def _boxes(xywh: NDArray[np.float64]) -> _Shapes:
    return _Shapes(xywh.tolist(), xywh[:, 2] * xywh[:, 3])


def _masks(rles: Sequence[RLE]) -> _Shapes:
    shapes: list[dict[str, object]] = [{"size": list(rle.size), "counts": rle.counts} for rle in rles]
    return _Shapes(shapes, np.asarray(mask_api.area(shapes), np.float64).reshape(-1) if shapes else np.zeros(0))
