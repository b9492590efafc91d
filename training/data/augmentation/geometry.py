"""An image with its objects, and everything that moves both: windows, resizing, mirror images.

Coordinates are continuous: pixel i covers i to i + 1, so a box ends behind its last pixel, and the mirror image of x is
width - x.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import masks_to_boxes
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from training.data.annotations.records import Annotations, Window

MIN_SIDE = 1.0
"""Boxes thinner than this many pixels after augmentation are dropped: torchvision rejects degenerate boxes."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One image and its objects, in pixels of that image.

    image: uint8 [C, H, W]. boxes: float32 [N, 4] xyxy. labels: int64 [N]. masks: uint8 [N, H, W] or None.
    keypoints: float32 [N, K, 3] (x, y, visibility) or None.
    """

    image: Tensor
    boxes: Tensor
    labels: Tensor
    masks: Tensor | None = None
    keypoints: Tensor | None = None

    def target(self) -> dict[str, Tensor]:
        """The dict that torchvision's detection models take."""
        columns = {"boxes": self.boxes, "labels": self.labels, "masks": self.masks, "keypoints": self.keypoints}
        return {name: value for name, value in columns.items() if value is not None}


def reaching_into(boxes: NDArray[np.float32], window: Window) -> NDArray[np.int64]:
    """Indices of the boxes [N, 4] xyxy that have something in common with `window`."""
    top, left, height, width = window
    x1, y1, x2, y2 = boxes.T
    return np.flatnonzero((x2 > left) & (x1 < left + width) & (y2 > top) & (y1 < top + height))


def cut_window(
    image: NDArray[np.uint8],
    annotations: Annotations,
    window: Window,
    size: tuple[int, int] | None = None,
    *,
    with_masks: bool,
) -> Sample:
    """The part of an image, uint8 [H, W, C], inside `window`, with the objects that reach into it.

    size: (height, width) that it is resized to: the image bilinear and antialiased like serving's resize, masks by the
    nearest pixel, made once at that size.
    """
    height, width = image.shape[:2]
    top, left, window_height, window_width = window
    kept = annotations.select(reaching_into(annotations.boxes, window))
    boxes = kept.boxes - np.array([left, top, left, top], np.float32)
    boxes = boxes.clip(0, np.array([window_width, window_height] * 2, np.float32))
    size = size or (window_height, window_width)
    scale = torch.tensor([size[1] / window_width, size[0] / window_height])
    masks = torch.from_numpy(kept.masks(height, width, window, size)) if with_masks else None
    keypoints = None
    if kept.keypoints is not None:
        keypoints = torch.from_numpy(kept.keypoints - np.array([left, top, 0], np.float32))
        keypoints = drop_outside(keypoints, window_height, window_width)
        keypoints = torch.cat([keypoints[..., :2] * scale, keypoints[..., 2:]], dim=-1)
    cut = torch.from_numpy(image[top : top + window_height, left : left + window_width].copy()).permute(2, 0, 1)
    if size != (window_height, window_width):
        cut = F.resize(cut, list(size), InterpolationMode.BILINEAR, antialias=True)
    return Sample(cut, torch.from_numpy(boxes) * scale.repeat(2), torch.from_numpy(kept.labels), masks, keypoints)


def horizontal_flip(sample: Sample, flip_pairs: tuple[tuple[int, int], ...] = ()) -> Sample:
    """The mirror image: a left hand becomes a right one, so keypoints named in `flip_pairs` change places."""
    width = sample.image.shape[-1]
    x1, y1, x2, y2 = sample.boxes.unbind(1)
    boxes = torch.stack([width - x2, y1, width - x1, y2], dim=1)
    keypoints = sample.keypoints
    if keypoints is not None:
        keypoints = keypoints.clone()
        seen = keypoints[..., 2] > 0
        keypoints[..., 0] = torch.where(seen, width - keypoints[..., 0], 0.0)
        keypoints = _swap(keypoints, flip_pairs)
    masks = None if sample.masks is None else sample.masks.flip(-1)
    return Sample(sample.image.flip(-1), boxes, sample.labels, masks, keypoints)


def vertical_flip(sample: Sample, flip_pairs: tuple[tuple[int, int], ...] = ()) -> Sample:
    """Upside down. That is a mirror image too, so `flip_pairs` swap as in `horizontal_flip`."""
    return transpose(horizontal_flip(transpose(sample), flip_pairs))


def transpose(sample: Sample, flip_pairs: tuple[tuple[int, int], ...] = ()) -> Sample:
    """x and y change places: a mirror image along the diagonal."""
    keypoints = sample.keypoints
    if keypoints is not None:
        keypoints = _swap(keypoints[..., [1, 0, 2]], flip_pairs)
    masks = None if sample.masks is None else sample.masks.transpose(-1, -2)
    return Sample(sample.image.transpose(-1, -2), sample.boxes[:, [1, 0, 3, 2]], sample.labels, masks, keypoints)


def tighten(sample: Sample) -> Sample:
    """Boxes become their masks' own: an object that lost pixels is only what is left of it. Empty masks go."""
    assert sample.masks is not None
    sample = _rows(sample, sample.masks.any(dim=2).any(dim=1).bool())
    assert sample.masks is not None
    if len(sample.masks) == 0:
        return sample
    # masks_to_boxes gives the last pixel, a box ends behind it
    boxes = masks_to_boxes(sample.masks) + torch.tensor([0.0, 0.0, 1.0, 1.0])
    return replace(sample, boxes=boxes)


def drop_degenerate(sample: Sample) -> Sample:
    """Without boxes thinner than MIN_SIDE pixels."""
    sides = sample.boxes[:, 2:] - sample.boxes[:, :2]
    return _rows(sample, (sides >= MIN_SIDE).all(dim=1))


def drop_outside(keypoints: Tensor, height: int, width: int) -> Tensor:
    """Keypoints outside the image become unlabeled (visibility 0, at the origin), as COCO writes them."""
    x, y, visibility = keypoints.unbind(-1)
    inside = (visibility > 0) & (x >= 0) & (x <= width) & (y >= 0) & (y <= height)
    return torch.where(inside[..., None], keypoints, 0.0)


def _rows(sample: Sample, keep: Tensor) -> Sample:
    if bool(keep.all()):
        return sample
    masks, keypoints = sample.masks, sample.keypoints
    return Sample(
        sample.image,
        sample.boxes[keep],
        sample.labels[keep],
        None if masks is None else masks[keep],
        None if keypoints is None else keypoints[keep],
    )


def _swap(keypoints: Tensor, flip_pairs: tuple[tuple[int, int], ...]) -> Tensor:
    order = list(range(keypoints.shape[1]))
    for left, right in flip_pairs:
        order[left], order[right] = right, left
    return keypoints[:, order]
