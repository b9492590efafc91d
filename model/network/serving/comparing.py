"""When two answers for an image are the same, and images that are always the same to compare answers to."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from model.runtime.bundles.references import Answers
from model.runtime.detections import RawDetections
from model.runtime.images.picture import Size

SAME_SCORE, SAME_PIXELS = 0.01, 1.0
"""How near a detection must be to one of the other answer to be the same."""
SAME_MASK: Final = 0.05
"""Mean difference of the probabilities in the box, where masks are compared."""
SAME_PEAKS: Final = 0.9
"""Of the keypoints, whose heatmaps must be largest within one cell of the same place."""
LEAST_ALIKE: Final = 0.9
"""Of the detections of the same image, in another place of its batch, or replayed and computed kernel by kernel, or
when the bundle was published. Meant to be all, but where two nearly have one score a last bit may decide which of them
suppresses the other."""


def reference_images(count: int, size: Size, channels: int) -> NDArray[np.uint8]:
    """uint8 [B, H, W, C]: smooth blobs under noise, always the same."""
    draw = np.random.default_rng(0)
    height, width = size
    coarse = draw.random((count, -(-height // 16), -(-width // 16), channels), np.float32)
    blobs = coarse.repeat(16, axis=1).repeat(16, axis=2)[:, :height, :width]
    noise = draw.random(blobs.shape, np.float32)
    return (200 * blobs + 55 * noise).astype(np.uint8)


def found_again(one: Answers, other: Answers, score_threshold: float) -> tuple[int, int]:
    """Two answers for an image: how many detections of either are in the other, and how many there are in both.

    One that is not in the other counts for nothing if it scores so little more than the threshold that it may have been
    under it.
    """
    same = _same(one, other)
    again = detections = 0
    for found, scores in ((same.any(axis=1), one.scores), (same.any(axis=0), other.scores)):
        again += int(found.sum())
        detections += int((found | (scores > score_threshold + SAME_SCORE)).sum())
    return again, detections


def alike(one: RawDetections, other: RawDetections) -> float:
    """The share of two answers for an image that is in both; 1 where there is nothing."""
    if len(one.scores) == 0 or len(other.scores) == 0:
        return float(len(one.scores) == len(other.scores))
    same = _same(Answers.of(one), Answers.of(other))
    return float(min(same.any(axis=0).mean(), same.any(axis=1).mean()))


def _same(one: Answers, other: Answers) -> NDArray[np.bool_]:
    """bool [N, M]: which detections of the one are those of the other, by label, score, box, mask and keypoints."""
    same = np.abs(one.boxes[:, None] - other.boxes[None]).max(axis=2) < SAME_PIXELS
    same &= np.abs(one.scores[:, None] - other.scores[None]) < SAME_SCORE
    same &= one.labels[:, None] == other.labels[None]
    rows, columns = np.nonzero(same)
    if one.masks is not None and other.masks is not None:
        apart = np.abs(one.masks[rows].astype(np.float32) - other.masks[columns])
        same[rows, columns] &= apart.mean(axis=(1, 2)) < 255 * SAME_MASK
    if one.peaks is not None and other.peaks is not None:
        near = np.abs(one.peaks[rows] - other.peaks[columns]).max(axis=2) <= 1
        same[rows, columns] &= near.mean(axis=1) >= SAME_PEAKS
    return np.asarray(same)
