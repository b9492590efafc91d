"""Whether a contender's answer is the reference's: looked at before anything is timed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.runtime.detections import RawDetections

LEAST_SCORE = 0.1
"""Detections nearer to the threshold than this may come and go with the last bit."""

SAME_IOU = 0.8
SAME_SCORE = 0.1

LEAST_SHARE = {"fp32": 0.97, "tf32": 0.1, "fp16": 0.1, "bf16": 0.1}
"""Share of detections, either way, that must be found again. Little in low precision: see
`model.network.serving.checking`."""


@dataclass(frozen=True)
class Agreement:
    """How far an answer is the reference's, over detections that score more than `LEAST_SCORE`.

    found: share of the reference's for which there is one of the same label, with IoU of at least `SAME_IOU` and a
    score within `SAME_SCORE`; extra: share of the answer's for which there is none. The medians are over pairs.
    """

    detections: int
    found: float
    extra: float
    median_box_pixels: float
    median_score: float
    mask_iou: float
    good: bool


def agree(answer: RawDetections, reference: RawDetections, precision: str, images: int) -> Agreement:
    """Compares image by image. `precision`: a key of `LEAST_SHARE`."""
    found = extra = expected = given = 0
    boxes: list[float] = []
    scores: list[float] = []
    ious: list[float] = []
    for index in range(images):
        own, theirs = answer.of_image(index), reference.of_image(index)
        match = _match(theirs, own)
        sure = theirs.scores > LEAST_SCORE
        expected += int(sure.sum())
        pairs = np.flatnonzero(sure & (match >= 0))
        found += len(pairs)
        own_sure = own.scores > LEAST_SCORE
        given += int(own_sure.sum())
        extra += int((own_sure & (_match(own, theirs) < 0)).sum())
        partner = match[pairs]
        boxes += np.abs(own.boxes[partner] - theirs.boxes[pairs]).max(axis=1, initial=0).tolist()
        scores += np.abs(own.scores[partner] - theirs.scores[pairs]).tolist()
        if own.masks is not None and theirs.masks is not None:
            a, b = own.masks[partner] > 0.5, theirs.masks[pairs] > 0.5
            union = (a | b).sum(axis=(1, 2))
            ious += ((a & b).sum(axis=(1, 2)) / np.maximum(union, 1))[union > 0].tolist()
    shares = (found / max(expected, 1), extra / max(given, 1))
    least = LEAST_SHARE[precision]
    good = expected > 0 and shares[0] >= least and shares[1] <= 1 - least
    return Agreement(expected, *shares, _median(boxes), _median(scores), float(np.mean(ious)) if ious else 0.0, good)


def _match(these: RawDetections, those: RawDetections) -> NDArray[np.int64]:
    """For each of `these` the best of `those`, or -1."""
    if len(those.boxes) == 0:
        return np.full(len(these.boxes), -1)
    overlap = _iou(these.boxes, those.boxes)
    overlap[these.labels[:, None] != those.labels[None]] = 0
    overlap[np.abs(these.scores[:, None] - those.scores[None]) > SAME_SCORE] = 0
    best = overlap.argmax(axis=1)
    return np.where(overlap[np.arange(len(best)), best] >= SAME_IOU, best, -1)


def _iou(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (a, b)]
    union: NDArray[np.float32] = np.maximum(areas[0][:, None] + areas[1][None] - shared, 1e-9)
    return np.asarray(shared / union, np.float32)


def _median(values: list[float]) -> float:
    return float(np.median(values)) if values else 0.0
