"""What changes a training image's pixels and leaves every object where it is."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from model.runtime.images.channels import RGB_CHANNELS
from training.config import AugmentConfig
from training.data.augmentation.draws import chance, uniform


def change_color(image: Tensor, config: AugmentConfig) -> Tensor:
    """image: uint8 [C, H, W], RGB if C is 3. First the scene's light and color, then the camera's blur and noise."""
    image = _change_rgb(image, config) if len(image) == RGB_CHANNELS else _change_channels(image, config)
    if chance(config.invert):
        image = F.invert(image)
    if config.blur:
        image = gaussian_blur(image, uniform(config.blur, 0))  # this way around it is never 0
    if config.noise:
        image = F.gaussian_noise(image, sigma=uniform(0, config.noise))
    return image


def _change_channels(image: Tensor, config: AugmentConfig) -> Tensor:
    """uint8 [C, H, W] of channels that are no colors: each has a brightness and contrast of its own, and there is no
    saturation or hue, nor a gray for all."""

    def factors(most: float) -> Tensor:
        return torch.tensor([uniform(1 - most, 1 + most) for _ in image])[:, None, None]

    changed = image.float()
    if config.brightness:
        changed = (changed * factors(config.brightness)).clamp(0, 255)
    if config.contrast:
        mean = changed.mean((1, 2), keepdim=True)
        changed = (mean + (changed - mean) * factors(config.contrast)).clamp(0, 255)
    return changed.round().to(image.dtype)


def _change_rgb(image: Tensor, config: AugmentConfig) -> Tensor:
    if config.brightness:
        image = F.adjust_brightness(image, uniform(1 - config.brightness, 1 + config.brightness))
    if config.contrast:
        image = F.adjust_contrast(image, uniform(1 - config.contrast, 1 + config.contrast))
    if config.saturation:
        image = F.adjust_saturation(image, uniform(1 - config.saturation, 1 + config.saturation))
    if config.hue:
        image = F.adjust_hue(image, uniform(-config.hue, config.hue))
    if chance(config.grayscale):
        image = F.rgb_to_grayscale(image, num_output_channels=3)
    return image


def gaussian_blur(image: Tensor, sigma: float) -> Tensor:
    """uint8 [C, H, W] blurred with a Gaussian of `sigma` > 0 pixels, the image mirrored at its borders.

    The kernel reaches three sigma, and no further than a mirrored image has pixels.
    """
    height, width = image.shape[-2:]
    reach = math.ceil(3 * sigma)
    rows, columns = 2 * min(reach, height - 1) + 1, 2 * min(reach, width - 1) + 1
    # One direction after the other costs the sum of both kernel sides instead of their product.
    blurred: Tensor = F.gaussian_blur(image.float(), [columns, 1], [sigma, sigma])
    blurred = F.gaussian_blur(blurred, [1, rows], [sigma, sigma])
    return blurred.round().to(image.dtype)
