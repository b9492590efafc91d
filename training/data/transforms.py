"""A training image's way from the file to the network input: window, resize, flips, colours.

Geometry is decided before masks become pixels, so that a dense image never costs more memory than the window in use.
Randomness comes from torch's global generator, which the dataset seeds for each sample.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision import tv_tensors
from torchvision.ops import masks_to_boxes
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from model.architecture import ArchitectureConfig
from model.runtime.preprocess import Preprocessing
from training.config import AugmentConfig
from training.data.coco import Annotations

MIN_SIDE = 1.0
"""Boxes thinner than this many pixels after augmentation are dropped: torchvision rejects degenerate boxes."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One image and its objects, in pixels of that image.

    image: uint8 [3, H, W]. boxes: float32 [N, 4] xyxy. labels: int64 [N]. masks: uint8 [N, H, W] or None.
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


class Augmentation:
    """The training transform of a run. `flip_pairs` are indices of left/right keypoints that a mirror image swaps."""

    def __init__(
        self, config: AugmentConfig, architecture: ArchitectureConfig, flip_pairs: tuple[tuple[int, int], ...] = ()
    ) -> None:
        self.config = config
        self.architecture = architecture
        self.flip_pairs = flip_pairs

    def __call__(self, image: NDArray[np.uint8], annotations: Annotations) -> Sample:
        """image: uint8 [H, W, 3]; `annotations` without crowd regions."""
        height, width = image.shape[:2]
        window, size = self._geometry(height, width)
        sample = cut_window(image, annotations, window, with_masks=self.architecture.task == "masks")
        sample = resize(sample, size)
        if self.config.crop is not None and sample.masks is not None:
            sample = tighten(sample)
        return drop_degenerate(self._color(self._flip(sample)))

    def _geometry(self, height: int, width: int) -> tuple[tuple[int, int, int, int], tuple[int, int]]:
        """The window (top, left, height, width) in image pixels and the size (height, width) it is resized to."""
        config = self.config
        if config.crop is None:
            preprocessing = Preprocessing.from_architecture(self.architecture)
            if config.min_sizes:
                choice = config.min_sizes[int(torch.randint(len(config.min_sizes), ()))]
                preprocessing = preprocessing.model_copy(update={"min_size": choice})
            return (0, 0, height, width), preprocessing.resized((height, width))
        low, high = config.scale
        scale = math.exp(_uniform(math.log(low), math.log(high)))
        side = max(1, round(config.crop / scale))
        window_height, window_width = min(side, height), min(side, width)
        top = int(torch.randint(height - window_height + 1, ()))
        left = int(torch.randint(width - window_width + 1, ()))
        size = (max(1, round(window_height * scale)), max(1, round(window_width * scale)))
        return (top, left, window_height, window_width), (min(size[0], config.crop), min(size[1], config.crop))

    def _flip(self, sample: Sample) -> Sample:
        if _chance(self.config.horizontal_flip):
            sample = horizontal_flip(sample, self.flip_pairs)
        if _chance(self.config.vertical_flip):
            sample = vertical_flip(sample, self.flip_pairs)
        if _chance(self.config.transpose):
            sample = transpose(sample, self.flip_pairs)
        return sample

    def _color(self, sample: Sample) -> Sample:
        config, image = self.config, sample.image
        if config.brightness:
            image = F.adjust_brightness(image, _uniform(1 - config.brightness, 1 + config.brightness))
        if config.contrast:
            image = F.adjust_contrast(image, _uniform(1 - config.contrast, 1 + config.contrast))
        if config.saturation:
            image = F.adjust_saturation(image, _uniform(1 - config.saturation, 1 + config.saturation))
        if config.hue:
            image = F.adjust_hue(image, _uniform(-config.hue, config.hue))
        if _chance(config.grayscale):
            image = F.rgb_to_grayscale(image, num_output_channels=3)
        if _chance(config.invert):
            image = F.invert(image)
        return replace(sample, image=image)


def cut_window(
    image: NDArray[np.uint8], annotations: Annotations, window: tuple[int, int, int, int], *, with_masks: bool
) -> Sample:
    """The part of an image inside `window` = (top, left, height, width), with the objects that reach into it."""
    height, width = image.shape[:2]
    top, left, window_height, window_width = window
    boxes = annotations.boxes
    x1, y1, x2, y2 = boxes.T
    inside = (x2 > left) & (x1 < left + window_width) & (y2 > top) & (y1 < top + window_height)
    kept = annotations.select(np.flatnonzero(inside))
    boxes = boxes[inside] - np.array([left, top, left, top], np.float32)
    boxes = boxes.clip(0, np.array([window_width, window_height] * 2, np.float32))
    masks = None
    if with_masks:
        masks = torch.from_numpy(kept.masks(height, width, (left, top, window_width, window_height)))
    keypoints = None
    if kept.keypoints is not None:
        keypoints = torch.from_numpy(kept.keypoints - np.array([left, top, 0], np.float32))
        keypoints = _hide_outside(keypoints, window_height, window_width)
    cut = image[top : top + window_height, left : left + window_width].copy()
    return Sample(
        torch.from_numpy(cut).permute(2, 0, 1), torch.from_numpy(boxes), torch.from_numpy(kept.labels), masks, keypoints
    )


def resize(sample: Sample, size: tuple[int, int]) -> Sample:
    """To `size` = (height, width): bilinear and antialiased like serving's resize, masks by nearest neighbour."""
    height, width = sample.image.shape[-2:]
    if (height, width) == size:
        return sample
    scale = torch.tensor([size[1] / width, size[0] / height])
    masks, keypoints = sample.masks, sample.keypoints
    if masks is not None:
        masks = F.resize(tv_tensors.Mask(masks), list(size), InterpolationMode.NEAREST_EXACT).as_subclass(Tensor)
    if keypoints is not None:
        keypoints = torch.cat([keypoints[..., :2] * scale, keypoints[..., 2:]], dim=-1)
    image = F.resize(sample.image, list(size), InterpolationMode.BILINEAR, antialias=True)
    return Sample(image, sample.boxes * scale.repeat(2), sample.labels, masks, keypoints)


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
    """Boxes become their masks' own: an object that the window cut is only what is left of it. Empty masks go."""
    assert sample.masks is not None
    sample = _rows(sample, sample.masks.flatten(1).any(dim=1).bool())
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


def _hide_outside(keypoints: Tensor, height: int, width: int) -> Tensor:
    """Keypoints outside the window become unlabeled (visibility 0, at the origin), as COCO writes them."""
    x, y, visibility = keypoints.unbind(-1)
    inside = (visibility > 0) & (x >= 0) & (x <= width) & (y >= 0) & (y <= height)
    return torch.where(inside[..., None], keypoints, 0.0)


def _swap(keypoints: Tensor, flip_pairs: tuple[tuple[int, int], ...]) -> Tensor:
    order = list(range(keypoints.shape[1]))
    for left, right in flip_pairs:
        order[left], order[right] = right, left
    return keypoints[:, order]


def _chance(probability: float) -> bool:
    return probability > 0 and float(torch.rand(())) < probability


def _uniform(low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand(()))
