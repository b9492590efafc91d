"""The whole line from a stored image to a sample: what comes out fits together, and follows from torch's seed."""

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
    random_scene,
)
from training.config import AugmentConfig
from training.data.annotations.records import Annotations
from training.data.augmentation.geometry import Sample
from training.data.augmentation.transforms import Augmentation, Stored

HEIGHT, WIDTH = 40, 60
BOXES = ((5, 8, 25, 30), (30, 2, 58, 20))
ARCHITECTURE = ArchitectureConfig(task="masks_keypoints", min_size=40, max_size=90)
MOVED = {"vertical_flip": 0.5, "transpose": 0.5}

CONFIGS = {
    "windows": AugmentConfig.model_validate({"crop": 32, "scale": (0.7, 1.4), **MOVED}),
    "around": AugmentConfig.model_validate({"crop": 40, "scale": (0.3, 3), "crop_around": 0.7, **MOVED}),
    "jitter": AugmentConfig.model_validate({"crop": 48, "jitter": (0.1, 2), **MOVED}),
    "whole": AugmentConfig.model_validate({"min_sizes": (40, 60), **MOVED}),
    "color": AugmentConfig(
        crop=32, invert=0.5, grayscale=0.5, brightness=0.3, contrast=0.3, saturation=0.3, hue=0.1, blur=2, noise=0.1
    ),
}


def rectangles() -> tuple[np.ndarray, Annotations]:
    """Two bright rectangles on black, an object each; the picture itself says where boxes and masks must be."""
    image, masks = np.zeros((HEIGHT, WIDTH, 3), np.uint8), np.zeros((2, HEIGHT, WIDTH), np.uint8)
    for number, (x1, y1, x2, y2) in enumerate(BOXES):
        image[y1:y2, x1:x2] = 100 * (number + 1)
        masks[number, y1:y2, x1:x2] = 1
    return image, annotate(masks, np.array([1, 2]), np.zeros((2, 3, 3), np.float32))


@pytest.mark.parametrize("pasting", [False, True], ids=["alone", "pasted"])
@pytest.mark.parametrize("name", CONFIGS)
def test_samples_are_what_torchvision_takes(name: str, pasting: bool) -> None:
    config, seen = CONFIGS[name], 0
    augment = Augmentation(config, ARCHITECTURE, ((0, 1),))
    for seed in range(30):
        sizes = np.random.default_rng(seed).integers(1, 90, (2, 2)).tolist()
        first, second = (
            random_scene(seed, height, width, number=number)[:2] for number, (height, width) in enumerate(sizes, 1)
        )
        torch.manual_seed(seed)
        sample = augment(*first, Stored(*second) if pasting else None)
        assert_well_formed(sample)
        if config.crop is not None:
            assert max(sample.image.shape) <= config.crop
        if config.crop is not None or pasting:
            assert_tight(sample)
        seen += len(sample.boxes)
    assert seen > 20


@pytest.mark.parametrize("name", ["windows", "around", "jitter", "whole"])
def test_objects_stay_on_their_pixels(name: str) -> None:
    augment = Augmentation(CONFIGS[name], ARCHITECTURE)
    seen = 0
    for seed in range(40):
        torch.manual_seed(seed)
        sample = augment(*rectangles())
        assert sample.masks is not None
        for label, mask, box in zip(sample.labels.tolist(), sample.masks, sample.boxes.tolist(), strict=True):
            assert max(abs(a - b) for a, b in zip(box, extent(mask.numpy()), strict=True)) <= 0.5
            # Interpolation blurs edges: well inside the object and well outside it, the gray value tells.
            brightness = sample.image[0].float()
            assert not mask[brightness < 10].any()
            if label == 2:
                assert mask[brightness > 190].all()
            seen += 1
    assert seen > 40


def test_a_window_that_misses_every_object_is_an_empty_sample() -> None:
    masks = np.zeros((1, 100, 100), np.uint8)
    masks[:, :20, :20] = 1
    annotations = annotate(masks, np.ones(1), np.zeros((1, 3, 3), np.float32))
    empty = 0
    for seed in range(40):
        torch.manual_seed(seed)
        sample = Augmentation(AugmentConfig(crop=32), ARCHITECTURE)(random_image(100, 100), annotations)
        assert_well_formed(sample)
        empty += len(sample.boxes) == 0
    assert 5 < empty < 40


@pytest.mark.parametrize("name", CONFIGS)
def test_an_image_without_objects_or_with_one_pixel_gives_a_sample(name: str) -> None:
    augment = Augmentation(CONFIGS[name], ARCHITECTURE)
    for height, width, count in ((50, 70, 0), (1, 1, 1), (1, 1, 0), (1, 200, 1), (200, 1, 0)):
        masks = np.zeros((count, height, width), np.uint8)
        masks[:, 0, 0] = 1
        annotations = annotate(masks, np.ones(count), np.zeros((count, 3, 3), np.float32))
        for seed in range(10):
            torch.manual_seed(seed)
            assert_well_formed(augment(random_image(height, width), annotations))


def test_randomness_is_torchs_seed_alone() -> None:
    samples: list[Sample] = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        samples.append(Augmentation(CONFIGS["color"], ARCHITECTURE)(*rectangles(), Stored(*rectangles())))
    for key, value in samples[0].target().items():
        assert torch.equal(value, samples[1].target()[key])
    assert torch.equal(samples[0].image, samples[1].image)
    assert not torch.equal(samples[0].image, samples[2].image)
