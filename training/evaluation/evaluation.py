"""COCO average precision of boxes, masks, their boundaries and keypoints, by faster-coco-eval.

The figures are pycocotools' own, which has none of boundaries: Boundary AP (Cheng et al., arXiv 2103.16562) takes as
IoU of two masks the smaller of theirs and that of their bands along the edge, as wide as 2 % of the image's diagonal.
It tells good outlines of large objects apart, which mask IoU hardly sees.

A figure without ground truth (no small objects, a class that never appears) is -1, as COCO has it. AP is taken at the
largest of `max_detections`, which caps the detections of each class in one image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from model.architecture import Task
from model.runtime.detections import RLE, Detections
from training.data.annotations.dataset import Dataset

Kind = Literal["box", "mask", "boundary", "keypoints"]

KINDS: dict[Task, tuple[Kind, ...]] = {
    "boxes": ("box",),
    "masks": ("box", "mask"),
    "keypoints": ("box", "keypoints"),
    "masks_keypoints": ("box", "mask", "keypoints"),
}
"""What is measured for each task while it trains; a model is chosen by the last."""

ALL_KINDS: dict[Task, tuple[Kind, ...]] = {
    **KINDS,
    "masks": ("box", "mask", "boundary"),
    "masks_keypoints": ("box", "mask", "boundary", "keypoints"),
}
"""What `training.evaluate` measures."""

MAX_DETECTIONS = (1, 10, 100)
KEYPOINT_MAX_DETECTIONS = (20,)
OTHER_KEYPOINT_SIGMA = 0.067
"""OKS deviation of each keypoint where they are not COCO's 17 of a person: the mean of COCO's."""

_IOU_TYPE: dict[Kind, str] = {"box": "bbox", "mask": "segm", "boundary": "boundary", "keypoints": "keypoints"}
_MASKED: tuple[Kind, ...] = ("mask", "boundary")
_SIZES = ("all", "small", "medium", "large")
_KEYPOINT_SIZES = ("all", "medium", "large")


class Figures(BaseModel):
    """COCO's figures, 0..1, or -1 where there is nothing to find.

    AP is the mean over IoU (OKS for keypoints) 0.50:0.05:0.95 and classes; s is for objects of up to 32x32 pixels, m up
    to 96x96, l above (keypoints have no s). AR is the mean recall at the most detections that are counted.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    AP: float
    AP50: float
    AP75: float
    APs: float
    APm: float
    APl: float
    AR: float
    ARs: float
    ARm: float
    ARl: float


class ClassMetrics(Figures):
    """The figures of one class."""

    name: str


class KindMetrics(Figures):
    """The figures of boxes, masks, boundaries or keypoints: all classes together, and each.

    AR is at the largest of max_detections, AR_at at each of them, in their order.
    """

    max_detections: tuple[int, ...]
    AR_at: tuple[float, ...]
    per_class: tuple[ClassMetrics, ...]


class Metrics(BaseModel):
    """The figures of each kind that was measured; the others are None."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    box: KindMetrics | None = None
    mask: KindMetrics | None = None
    boundary: KindMetrics | None = None
    keypoints: KindMetrics | None = None

    def measured(self) -> dict[Kind, KindMetrics]:
        """The kinds that were measured, in the order of the fields."""
        kinds: dict[Kind, KindMetrics | None] = {
            "box": self.box,
            "mask": self.mask,
            "boundary": self.boundary,
            "keypoints": self.keypoints,
        }
        return {kind: figures for kind, figures in kinds.items() if figures is not None}

    def headline(self) -> dict[str, float]:
        """Flat figures for curves and tables, such as 'mask/AP50'; without the classes."""
        return {
            f"{kind}/{name}": value
            for kind, figures in self.model_dump(exclude_none=True).items()
            for name, value in figures.items()
            if isinstance(value, float)
        }


def evaluate_detections(
    data: Dataset,
    results: Sequence[Detections],
    kinds: Sequence[Kind],
    max_detections: tuple[int, ...] = MAX_DETECTIONS,
) -> Metrics:
    """COCO metrics of `results`, one for each image of `data` and in its order; labels 1..C as in `data`.

    max_detections applies to boxes and masks; keypoints are measured with COCO's 20. Prints nothing.
    Raises ValueError where results and data do not fit together.
    """
    return Metrics(**{kind: _evaluate(data, results, kind, max_detections) for kind in kinds})


def to_coco_results(data: Dataset, results: Sequence[Detections], kind: Kind) -> list[dict[str, Any]]:
    """COCO result records of one kind: image_id, category_id, score and bbox, segmentation (RLE, counts as text) or
    keypoints; the format of COCO's evaluation server.

    Only that kind, because a record with both would have its mask's size taken from its box.
    Raises ValueError for another number of results than images, unknown labels, and absent or mis-sized masks.
    """
    if len(results) != len(data):
        raise ValueError(f"{len(results)} results for {len(data)} images of {data.name}: give one for each, in order")
    records: list[dict[str, Any]] = []
    for image, detections in zip(data.images, results, strict=True):
        shapes = _shapes(detections, kind, image.height, image.width, image.file)
        for label, score, shape in zip(detections.labels, detections.scores, shapes, strict=True):
            records.append(
                {
                    "image_id": image.id,
                    "category_id": data.label_to_category(int(label)),
                    "score": float(score),
                    **shape,
                }
            )
    return records


def _shapes(detections: Detections, kind: Kind, height: int, width: int, file: str) -> list[dict[str, Any]]:
    """What a result record of this kind holds besides class and score."""
    if kind == "box":
        corners = detections.boxes.astype(np.float64)
        xywh = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
        return [{"bbox": box} for box in xywh.tolist()]
    if not len(detections):
        return []
    if kind in _MASKED:
        if detections.masks is None:
            raise ValueError(f"the detections of {file} have no masks to evaluate")
        for mask in detections.masks:
            if tuple(mask.size) != (height, width):
                raise ValueError(f"a mask of {file} has size {mask.size} (height, width), the image {(height, width)}")
        return [{"segmentation": _as_dict(mask)} for mask in detections.masks]
    if detections.keypoints is None:
        raise ValueError(f"the detections of {file} have no keypoints to evaluate")
    points = detections.keypoints.astype(np.float64)
    points[:, :, 2] = 1.0  # COCO's OKS does not read a result's visibility; its format has 1 there
    return [{"keypoints": row} for row in points.reshape(len(points), -1).tolist()]


def _ground_truth(data: Dataset, kind: Kind) -> dict[str, Any]:
    """The dataset as COCO JSON with what this kind needs, numbered from 1: matching takes id 0 for 'no match'."""
    records: list[dict[str, Any]] = []
    for image, objects in zip(data.images, data.annotations, strict=True):
        rles = objects.rles(image.height, image.width) if kind in _MASKED else []
        for row in range(len(objects)):
            record: dict[str, Any] = {
                "id": len(records) + 1,
                "image_id": image.id,
                "category_id": data.label_to_category(int(objects.labels[row])),
                "bbox": objects.xywh[row].tolist(),
                "area": float(objects.area[row]),
                "iscrowd": int(objects.crowd[row]),
            }
            if kind in _MASKED:
                record["segmentation"] = _as_dict(rles[row])
            if kind == "keypoints":
                if objects.keypoints is None:
                    raise ValueError(f"{data.name} has no keypoints to evaluate against")
                record["keypoints"] = objects.keypoints[row].astype(np.float64).ravel().tolist()
                record["num_keypoints"] = int((objects.keypoints[row, :, 2] > 0).sum())
            records.append(record)
    return {
        "info": {},
        "images": [{"id": image.id, "width": image.width, "height": image.height} for image in data.images],
        "categories": [{"id": category.id, "name": category.name} for category in data.categories],
        "annotations": records,
    }


def _evaluate(data: Dataset, results: Sequence[Detections], kind: Kind, max_detections: tuple[int, ...]) -> KindMetrics:
    truth = COCO(_ground_truth(data, kind), print_function=_silent)
    found = truth.loadRes(to_coco_results(data, results, kind))
    sigmas = None
    if kind == "keypoints" and data.num_keypoints != 17:
        sigmas = [OTHER_KEYPOINT_SIGMA] * data.num_keypoints
    run = COCOeval_faster(truth, found, _IOU_TYPE[kind], print_function=_silent, kpt_oks_sigmas=sigmas)
    limits = KEYPOINT_MAX_DETECTIONS if kind == "keypoints" else tuple(sorted(max_detections))
    run.params.maxDets = list(limits)
    ids = sorted(category.id for category in data.categories)  # as the library does: its figures are in this order
    run.params.catIds = ids
    run.evaluate()
    run.accumulate()
    # precision is [IoU threshold, recall, class, area, limit], recall [IoU threshold, class, area, limit]; -1: absent
    precision, recall = run.eval["precision"][..., -1], run.eval["recall"]
    sizes = _KEYPOINT_SIZES if kind == "keypoints" else _SIZES
    everything = slice(None)
    return KindMetrics(
        **_figures(precision, recall[..., -1], sizes, everything),
        max_detections=limits,
        AR_at=tuple(_mean(recall[:, :, 0, index]) for index in range(len(limits))),
        per_class=tuple(
            ClassMetrics(name=category.name, **_figures(precision, recall[..., -1], sizes, slice(index, index + 1)))
            for category in data.categories
            for index in (ids.index(category.id),)
        ),
    )


def _figures(
    precision: NDArray[np.float64], recall: NDArray[np.float64], sizes: tuple[str, ...], classes: slice
) -> dict[str, float]:
    """The fields of `Figures` for some classes. precision: [10, 101, C, sizes]; recall: [10, C, sizes]."""
    found = {"AP50": _mean(precision[0, :, classes, 0]), "AP75": _mean(precision[5, :, classes, 0])}
    for letter, size in zip(("", "s", "m", "l"), _SIZES, strict=True):
        index = sizes.index(size) if size in sizes else None
        found[f"AP{letter}"] = -1.0 if index is None else _mean(precision[:, :, classes, index])
        found[f"AR{letter}"] = -1.0 if index is None else _mean(recall[:, classes, index])
    return found


def _mean(values: NDArray[np.float64]) -> float:
    present = values[values > -1]
    return float(present.mean()) if present.size else -1.0


def _as_dict(rle: RLE) -> dict[str, Any]:
    return {"size": list(rle.size), "counts": rle.counts.decode("ascii")}


def _silent(*_: object) -> None:
    """Takes the library's progress messages."""
