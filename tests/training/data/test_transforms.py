"""Augmentations against brute force: whatever moves the image moves boxes, masks and keypoints with it."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from model.architecture import ArchitectureConfig
from training.config import AugmentConfig
from training.data.coco import Annotations
from training.data.transforms import (
    Augmentation,
    Sample,
    cut_window,
    horizontal_flip,
    resize,
    tighten,
    transpose,
    vertical_flip,
)

HEIGHT, WIDTH = 40, 60
BOXES = ((5, 8, 25, 30), (30, 2, 58, 20))


def annotations(crowd: tuple[bool, bool] = (False, False)) -> Annotations:
    """Two rectangles as polygons; the keypoints are the corners of each: left, right."""
    xywh = np.array([[x1, y1, x2 - x1, y2 - y1] for x1, y1, x2, y2 in BOXES], np.float64)
    polygons = tuple((np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]], np.float64),) for x1, y1, x2, y2 in BOXES)
    keypoints = np.array([[[x1, y1, 2], [x2, y2, 1]] for x1, y1, x2, y2 in BOXES], np.float32)
    return Annotations(
        ids=np.array([1, 2]),
        xywh=xywh,
        labels=np.array([1, 2]),
        crowd=np.array(crowd),
        area=xywh[:, 2] * xywh[:, 3],
        segmentations=polygons,
        keypoints=keypoints,
    )


def picture() -> np.ndarray:
    """Pixels that are bright exactly where an object is, so that the image itself says where the boxes must be."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for value, (x1, y1, x2, y2) in zip((100, 200), BOXES, strict=True):
        image[y1:y2, x1:x2] = value
    return image


def whole() -> Sample:
    return cut_window(picture(), annotations(), (0, 0, HEIGHT, WIDTH), with_masks=True)


def assert_consistent(sample: Sample) -> None:
    """Masks are where the pixels are, boxes are the masks' own."""
    assert sample.masks is not None
    for box, label, mask in zip(sample.boxes, sample.labels, sample.masks, strict=True):
        assert torch.equal(mask.bool(), sample.image[0] == int(label) * 100)
        ys, xs = torch.nonzero(mask, as_tuple=True)
        assert box.tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


@pytest.mark.parametrize("move", [lambda s: s, horizontal_flip, vertical_flip, transpose], ids=["none", "h", "v", "t"])
def test_moves_keep_everything_together(move: Callable[[Sample], Sample]) -> None:
    assert_consistent(move(whole()))


def test_moves_keep_keypoints_on_their_corners() -> None:
    sample = whole()
    assert sample.keypoints is not None
    mirrored = horizontal_flip(sample, flip_pairs=((0, 1),))
    assert mirrored.keypoints is not None
    # The first keypoint was the left top corner; in the mirror the "left" name goes to the other one.
    x1, y1, x2, y2 = mirrored.boxes[0].tolist()
    assert mirrored.keypoints[0].tolist() == [[x1, y2, 1], [x2, y1, 2]]
    twice = horizontal_flip(mirrored, flip_pairs=((0, 1),))
    assert twice.keypoints is not None
    assert torch.equal(twice.keypoints, sample.keypoints)
    turned = transpose(sample)
    assert turned.keypoints is not None
    assert torch.equal(turned.keypoints[..., :2], sample.keypoints[..., :2].flip(-1))


def test_unlabeled_keypoints_stay_at_the_origin() -> None:
    sample = whole()
    assert sample.keypoints is not None
    hidden = sample.keypoints.clone()
    hidden[0, 0] = 0
    mirrored = horizontal_flip(replace(sample, keypoints=hidden))
    assert mirrored.keypoints is not None
    assert mirrored.keypoints[0, 0].tolist() == [0, 0, 0]


def test_window_cuts_objects() -> None:
    window = (10, 20, 20, 25)  # rows 10..30, columns 20..45: parts of both objects
    sample = cut_window(picture(), annotations(), window, with_masks=True)
    assert sample.image.shape == (3, 20, 25)
    assert_consistent(tighten(sample))
    assert sample.keypoints is not None
    assert sample.keypoints[0, 0].tolist() == [0, 0, 0]  # its corner lies outside the window
    assert sample.keypoints[0, 1].tolist() == [5, 20, 1]


def test_window_without_objects() -> None:
    sample = cut_window(picture(), annotations(), (32, 0, 8, 10), with_masks=True)
    assert len(tighten(sample).boxes) == 0
    assert sample.boxes.shape == (0, 4)


def test_resize_scales_everything() -> None:
    sample = resize(whole(), (HEIGHT * 2, WIDTH * 2))
    assert sample.masks is not None
    assert sample.keypoints is not None
    assert sample.boxes[0].tolist() == [10, 16, 50, 60]
    assert sample.masks[0].sum() == 4 * 20 * 22
    assert sample.keypoints[0, 1].tolist() == [50, 60, 1]


CROP = AugmentConfig(crop=32, scale=(0.7, 1.4), vertical_flip=0.5, transpose=0.5)
PHOTOMETRIC = AugmentConfig(crop=32, invert=0.5, grayscale=0.5, brightness=0.3, contrast=0.3, saturation=0.3, hue=0.1)


@pytest.mark.parametrize(
    "config", [CROP, PHOTOMETRIC, AugmentConfig(min_sizes=(40, 60))], ids=["crop", "color", "whole"]
)
def test_samples_are_what_torchvision_takes(config: AugmentConfig) -> None:
    architecture = ArchitectureConfig(min_size=40, max_size=90)
    augment = Augmentation(config, architecture)
    torch.manual_seed(0)
    seen = 0
    for _ in range(30):
        sample = augment(picture(), annotations())
        height, width = sample.image.shape[1:]
        assert sample.image.dtype == torch.uint8
        if config.crop is not None:
            assert max(height, width) <= config.crop
        assert (sample.boxes[:, 2:] - sample.boxes[:, :2] >= 1).all()
        assert (sample.boxes >= 0).all()
        assert (sample.boxes <= torch.tensor([width, height, width, height])).all()
        assert sample.masks is not None
        assert sample.masks.shape == (len(sample.boxes), height, width)
        seen += len(sample.boxes)
    assert seen > 20


def test_randomness_is_torchs_seed_alone() -> None:
    augment = Augmentation(CROP.model_copy(update={"brightness": 0.3}), ArchitectureConfig())
    samples = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        samples.append(augment(picture(), annotations()))
    assert torch.equal(samples[0].image, samples[1].image)
    assert samples[0].image.shape != samples[2].image.shape or not torch.equal(samples[0].image, samples[2].image)
