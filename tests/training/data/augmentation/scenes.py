"""Random small images whose pixels say where they come from, for augmentations that are compared with loops."""

from __future__ import annotations

import numpy as np
import torch
from faster_coco_eval import mask as mask_api

from model.runtime.detections import RLE
from training.data.annotations.records import Annotations
from training.data.augmentation.geometry import Sample, cut_window

Box = tuple[int, int, int, int]


def random_image(height: int, width: int, number: int = 1) -> np.ndarray:
    """uint8 [H, W, 3]: the pixel's x, its y, and the image's number."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x, y, np.full_like(x, number)], axis=-1).astype(np.uint8)


def random_masks(rng: np.random.Generator, count: int, height: int, width: int) -> np.ndarray:
    """uint8 [N, H, W]: rectangles with a third of their pixels missing, never empty, some a single pixel."""
    masks = np.zeros((count, height, width), np.uint8)
    for mask in masks:
        top, left = int(rng.integers(height)), int(rng.integers(width))
        bottom, right = int(rng.integers(top + 1, height + 1)), int(rng.integers(left + 1, width + 1))
        mask[top:bottom, left:right] = rng.random((bottom - top, right - left)) < 0.67
        mask[top, left] = 1
    return masks


def random_keypoints(rng: np.random.Generator, masks: np.ndarray, count: int = 3) -> np.ndarray:
    """float32 [N, K, 3]: middles of pixels of each object, visible, hidden or unlabeled."""
    keypoints = np.zeros((len(masks), count, 3), np.float32)
    for points, mask in zip(keypoints, masks, strict=True):
        ys, xs = np.nonzero(mask)
        for point in points:
            pixel, visibility = int(rng.integers(len(ys))), int(rng.integers(3))
            if visibility:
                point[:] = xs[pixel] + 0.5, ys[pixel] + 0.5, visibility
    return keypoints


def extent(mask: np.ndarray) -> Box:
    """(x1, y1, x2, y2) of a mask's pixels, found one by one."""
    pixels = [(x, y) for y in range(mask.shape[0]) for x in range(mask.shape[1]) if mask[y, x]]
    xs, ys = [x for x, _ in pixels], [y for _, y in pixels]
    return min(xs), min(ys), max(xs) + 1, max(ys) + 1


def annotate(masks: np.ndarray, labels: np.ndarray, keypoints: np.ndarray | None = None) -> Annotations:
    """Annotations of masks [N, H, W] that are not empty."""
    boxes = np.array([extent(mask) for mask in masks], np.float64).reshape(-1, 4)
    counts = [mask_api.encode(np.asfortranarray(mask))["counts"] for mask in masks]
    return Annotations(
        ids=np.arange(len(masks)),
        xywh=np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1),
        labels=labels.astype(np.int64),
        crowd=np.zeros(len(masks), np.bool_),
        area=masks.sum((1, 2)).astype(np.float64),
        segmentations=tuple(RLE((masks.shape[1], masks.shape[2]), rle) for rle in counts),
        keypoints=keypoints,
    )


def random_scene(
    seed: int, height: int, width: int, count: int = 4, number: int = 1
) -> tuple[np.ndarray, Annotations, np.ndarray]:
    """Image, annotations and masks; labels begin at 10 times the image's number."""
    rng = np.random.default_rng([seed, number])
    masks = random_masks(rng, count, height, width)
    labels = np.arange(count) + 10 * number
    return random_image(height, width, number), annotate(masks, labels, random_keypoints(rng, masks)), masks


def random_sample(seed: int, height: int, width: int, count: int = 4, number: int = 1) -> Sample:
    """The whole of a random scene."""
    image, annotations, _ = random_scene(seed, height, width, count, number)
    return whole(image, annotations)


def whole(image: np.ndarray, annotations: Annotations, size: tuple[int, int] | None = None) -> Sample:
    """The whole image, resized to `size` (height, width)."""
    return cut_window(image, annotations, (0, 0, image.shape[0], image.shape[1]), size, with_masks=True)


def assert_well_formed(sample: Sample, keypoints: int | None = 3) -> None:
    """Types and shapes that torchvision's models take, with or without objects."""
    count, (channels, height, width) = len(sample.boxes), sample.image.shape
    assert (sample.image.dtype, channels) == (torch.uint8, 3)
    assert (sample.boxes.dtype, sample.boxes.shape) == (torch.float32, (count, 4))
    assert (sample.labels.dtype, sample.labels.shape) == (torch.int64, (count,))
    assert (sample.boxes >= 0).all()
    assert (sample.boxes <= torch.tensor([width, height, width, height])).all()
    assert (sample.boxes[:, 2:] - sample.boxes[:, :2] >= 1).all()
    if sample.masks is not None:
        assert (sample.masks.dtype, sample.masks.shape) == (torch.uint8, (count, height, width))
        assert set(sample.masks.unique().tolist()) <= {0, 1}
    if keypoints is None:
        assert sample.keypoints is None
    else:
        assert sample.keypoints is not None
        assert (sample.keypoints.dtype, sample.keypoints.shape) == (torch.float32, (count, keypoints, 3))


def assert_tight(sample: Sample) -> None:
    """Boxes are exactly their masks'."""
    assert sample.masks is not None
    for box, mask in zip(sample.boxes.tolist(), sample.masks.numpy(), strict=True):
        assert tuple(box) == extent(mask)
