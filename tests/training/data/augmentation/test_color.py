"""Photometric changes: each against its own definition, and none of them when all are off."""

import math

import numpy as np
import pytest
import torch

from training.config import AugmentConfig
from training.data.augmentation.color import change_color, gaussian_blur

IMAGE = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 12, 17), np.uint8))


def mirrored(index: int, length: int) -> int:
    """The pixel that stands for `index` outside 0..length - 1, the border's own pixel not repeated."""
    index = abs(index)
    return index if index < length else 2 * (length - 1) - index


@pytest.mark.parametrize("sigma", [0.05, 0.5, 1.3, 3.0])
def test_a_blurred_pixel_is_the_gaussian_mean_of_its_neighbors(sigma: float) -> None:
    reach = math.ceil(3 * sigma)
    weights = {step: math.exp(-(step**2) / (2 * sigma**2)) for step in range(-reach, reach + 1)}
    total = sum(weights.values()) ** 2
    blurred = gaussian_blur(IMAGE, sigma)
    assert blurred.dtype == torch.uint8
    for y, x in ((0, 0), (5, 8), (11, 16), (3, 15)):
        mean = sum(
            a * b * IMAGE[:, mirrored(y + dy, 12), mirrored(x + dx, 17)].double()
            for dy, a in weights.items()
            for dx, b in weights.items()
        )
        assert (blurred[:, y, x].double() - mean / total).abs().max() <= 0.5 + 1e-3


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (2, 3)])
def test_an_image_smaller_than_the_kernel_is_blurred_as_far_as_it_goes(size: tuple[int, int]) -> None:
    image = torch.full((3, *size), 77, dtype=torch.uint8)
    assert torch.equal(gaussian_blur(image, 4.0), image)


def test_noise_has_a_deviation_from_zero_to_the_one_asked_for() -> None:
    gray = torch.full((3, 80, 80), 128, dtype=torch.uint8)
    config = AugmentConfig(noise=0.2)
    deviations = []
    for seed in range(60):
        torch.manual_seed(seed)
        noise = (change_color(gray, config).float() - 128) / 255
        assert abs(float(noise.mean())) < 0.01
        deviations.append(float(noise.std()))
    assert min(deviations) < 0.02
    assert 0.17 < max(deviations) < 0.205
    assert 0.07 < float(np.mean(deviations)) < 0.13


def test_everything_at_once_stays_an_image_and_follows_from_the_seed() -> None:
    config = AugmentConfig(
        brightness=0.4, contrast=0.4, saturation=0.4, hue=0.2, grayscale=0.5, invert=0.5, blur=2, noise=0.1
    )
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(change_color(IMAGE, config))
        assert results[-1].dtype == torch.uint8
        assert results[-1].shape == IMAGE.shape
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_what_is_off_changes_nothing_and_draws_nothing() -> None:
    state = torch.get_rng_state()
    assert torch.equal(change_color(IMAGE, AugmentConfig()), IMAGE)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (AugmentConfig(invert=1), 255 - IMAGE),
        (
            AugmentConfig(grayscale=1),
            (IMAGE.double() * torch.tensor([0.299, 0.587, 0.114]).reshape(3, 1, 1)).sum(0).expand(3, -1, -1),
        ),
    ],
    ids=["invert", "grayscale"],
)
def test_certain_changes_are_what_their_names_say(config: AugmentConfig, expected: torch.Tensor) -> None:
    assert (
        change_color(IMAGE, config).double() - expected.double()
    ).abs().max() < 1.1  # rounded down, and so are the weights


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_channels_that_are_no_colors_change_each_by_itself(channels: int) -> None:
    """By a factor, and about their own mean; what makes sense of colors alone is left out."""
    image = torch.from_numpy(np.random.default_rng(1).integers(40, 80, (channels, 12, 17), np.uint8))
    assert torch.equal(change_color(image, AugmentConfig(saturation=0.9, hue=0.5, grayscale=1)), image)
    torch.manual_seed(3)
    brighter = change_color(image, AugmentConfig(brightness=0.5)).double()
    factors = brighter.mean((1, 2)) / image.double().mean((1, 2))
    assert (brighter - image * factors[:, None, None]).abs().max() <= 1.5
    steeper = change_color(image, AugmentConfig(contrast=0.5)).double()
    means = image.double().mean((1, 2))
    assert (steeper.mean((1, 2)) - means).abs().max() < 0.5
    spread = (steeper - steeper.mean((1, 2), keepdim=True)).std((1, 2)) / image.double().std((1, 2))
    assert ((spread >= 0.45) & (spread <= 1.55)).all()
    if channels > 1:
        assert len(set(factors.round(decimals=2).tolist())) > 1
        assert len(set(spread.round(decimals=2).tolist())) > 1
    assert torch.equal(change_color(image, AugmentConfig(invert=1)), 255 - image)


def test_everything_at_once_works_on_any_number_of_channels() -> None:
    everything = AugmentConfig(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, invert=0.5, blur=2, noise=0.1)
    for channels in (1, 2, 4, 16):
        changed = change_color(torch.full((channels, 9, 8), 100, dtype=torch.uint8), everything)
        assert (changed.shape, changed.dtype) == ((channels, 9, 8), torch.uint8)
