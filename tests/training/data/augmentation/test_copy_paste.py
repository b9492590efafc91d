"""Pasting against a loop over pixels: who is seen where, and what that leaves of masks, boxes and keypoints."""

import numpy as np
import pytest
import torch

from model.architecture import ArchitectureConfig
from tests.training.data.augmentation.scenes import (
    annotate,
    assert_tight,
    assert_well_formed,
    extent,
    random_image,
    random_sample,
    random_scene,
    whole,
)
from training.config import AugmentConfig
from training.data.augmentation.copy_paste import paste
from training.data.augmentation.geometry import Sample
from training.data.augmentation.transforms import Augmentation, Stored

HEIGHT, WIDTH = 14, 18


def pasted_by_loops(sample: Sample, other: Sample, top: int, left: int) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """The picture [3, H, W], and the mask of every label that has pixels left."""
    assert sample.masks is not None
    assert other.masks is not None
    image, height, width = sample.image.numpy().copy(), sample.image.shape[1], sample.image.shape[2]
    masks = {int(label): mask.numpy().copy() for label, mask in zip(sample.labels, sample.masks, strict=True)}
    pasted = {int(label): np.zeros((height, width), np.uint8) for label in other.labels}
    for y in range(height):
        for x in range(width):
            other_y, other_x = y - top, x - left
            if not (0 <= other_y < other.image.shape[1] and 0 <= other_x < other.image.shape[2]):
                continue
            for label, mask in zip(other.labels.tolist(), other.masks, strict=True):
                if mask[other_y, other_x]:
                    image[:, y, x] = other.image[:, other_y, other_x]
                    pasted[label][y, x] = 1
                    for below in masks.values():
                        below[y, x] = 0
    return image, {label: mask for label, mask in (masks | pasted).items() if mask.any()}


@pytest.mark.parametrize("seed", range(60))
def test_pasting_is_what_a_loop_over_pixels_does(seed: int) -> None:
    rng = np.random.default_rng(seed)
    other_height, other_width = int(rng.integers(1, 25)), int(rng.integers(1, 25))
    sample = random_sample(seed, HEIGHT, WIDTH, count=int(rng.integers(0, 6)))
    other = random_sample(seed, other_height, other_width, count=int(rng.integers(0, 4)), number=2)
    top, left = int(rng.integers(-26, 16)), int(rng.integers(-26, 20))  # quite beside it too

    result = paste(sample, other, top, left)

    image, masks = pasted_by_loops(sample, other, top, left)
    assert np.array_equal(result.image.numpy(), image)
    assert result.labels.tolist() == list(masks)
    assert result.masks is not None
    for label, mask, box in zip(result.labels.tolist(), result.masks.numpy(), result.boxes.tolist(), strict=True):
        assert np.array_equal(mask, masks[label])
        assert tuple(box) == extent(masks[label])
    assert_well_formed(result)


@pytest.mark.parametrize("seed", range(40))
def test_a_keypoint_is_visible_only_where_its_own_image_shows(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sample = random_sample(seed, HEIGHT, WIDTH)
    other = random_sample(seed, 12, 20, count=2, number=2)
    assert other.keypoints is not None
    other.keypoints[0, 0] = torch.tensor([19.5, 11.5, 2.0])  # as annotated, but maybe on no pixel of its object
    top, left = int(rng.integers(-6, 8)), int(rng.integers(-10, 10))
    before = {
        int(label): (points, *offset)
        for part, offset in ((sample, (0, 0)), (other, (top, left)))
        for label, points in zip(part.labels, part.keypoints, strict=True)  # type: ignore[arg-type]
    }
    result = paste(sample, other, top, left)
    assert result.keypoints is not None
    for label, points in zip(result.labels.tolist(), result.keypoints.tolist(), strict=True):
        own_points, down, right = before[label]
        for (x, y, visibility), (own_x, own_y, own_visibility) in zip(points, own_points.tolist(), strict=True):
            moved_x, moved_y = own_x + right, own_y + down
            if own_visibility == 0 or not (0 <= moved_x <= WIDTH and 0 <= moved_y <= HEIGHT):
                assert (x, y, visibility) == (0, 0, 0)
                continue
            assert (x, y) == (moved_x, moved_y)
            shown = int(result.image[2, int(y), int(x)]) == label // 10  # the pixel's own word on its image
            assert visibility == (own_visibility if shown else 1)


def test_a_keypoint_on_the_far_edge_counts_as_the_last_pixel() -> None:
    masks, corner = np.ones((1, 4, 5), np.uint8), np.array([[[5, 4, 2]]], np.float32)
    below, above = (
        whole(random_image(4, 5, number), annotate(masks, np.array([10 * number]), corner)) for number in (1, 2)
    )
    result = paste(below, above, 3, 4)  # one pixel of it, in the corner
    assert result.keypoints is not None
    assert result.labels.tolist() == [10, 20]
    assert result.keypoints[:, 0].tolist() == [[5, 4, 1], [0, 0, 0]]


def test_an_object_that_is_covered_goes() -> None:
    below = random_sample(0, HEIGHT, WIDTH)
    over = annotate(np.ones((1, HEIGHT, WIDTH), np.uint8), np.array([20]), np.zeros((1, 3, 3), np.float32))
    result = paste(below, whole(random_image(HEIGHT, WIDTH, 2), over), 0, 0)
    assert result.labels.tolist() == [20]
    assert (result.image[2] == 2).all()
    assert_well_formed(result)


@pytest.mark.parametrize("crop", [32, None], ids=["windows", "whole images"])
def test_two_augmented_images_become_one(crop: int | None) -> None:
    """Nothing is resized here, so that every pixel still says which image it is of."""
    architecture = ArchitectureConfig(task="masks_keypoints", min_size=20, max_size=60)
    augment = Augmentation(AugmentConfig(crop=crop, vertical_flip=0.5, transpose=0.5), architecture)
    counts = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        # The shorter side is that of the network input: a whole image keeps its size.
        sizes = [
            (20, int(longer)) if portrait else (int(longer), 20)
            for longer, portrait in rng.integers((20, 0), (60, 2), (2, 2))
        ]
        first, second = (random_scene(seed, *size, number=number)[:2] for number, size in enumerate(sizes, 1))
        torch.manual_seed(seed)
        sample = augment(*first, Stored(*second))
        assert sample.masks is not None
        assert_well_formed(sample)
        assert_tight(sample)
        of_second = sample.labels >= 20
        pasted = sample.masks[of_second].any(dim=0).bool()
        assert torch.equal(pasted, sample.image[2] == 2)
        assert not sample.masks[~of_second].any(dim=0).bool()[pasted].any()
        counts.append(int(of_second.sum()))
    assert set(counts) >= {1, 2, 3, 4}  # a random part of four


def test_pasting_from_an_image_whose_window_shows_no_object() -> None:
    empty = annotate(np.zeros((0, 20, 30), np.uint8), np.zeros(0), np.zeros((0, 3, 3), np.float32))
    augment = Augmentation(AugmentConfig(crop=32), ArchitectureConfig(task="masks_keypoints"))
    for first, second in ((empty, empty), (random_scene(1, 20, 30)[1], empty), (empty, random_scene(1, 20, 30)[1])):
        sample = augment(random_image(20, 30), first, Stored(random_image(20, 30, 2), second))
        assert_well_formed(sample)
        assert (len(sample.boxes) > 0) == (len(first) + len(second) > 0)
