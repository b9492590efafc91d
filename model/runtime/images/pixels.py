"""From a picture of any depth to the 8 bits of each channel that a network takes."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.runtime.images.intensity import AUTO, Applied, Declared, Intensity, to_uint8
from model.runtime.images.picture import Picture
from model.runtime.images.planes import RGB_CHANNELS, Channels

Done: TypeAlias = Applied | tuple[Applied | None, ...] | None
"""What was done to a picture's values: to all alike, or to those of each input where channels were taken one by one.
None: they had 8 bits, which stayed as they are, or the input is black."""


def to_pixels(
    picture: Picture, intensity: Intensity = AUTO, inputs: int = RGB_CHANNELS
) -> tuple[NDArray[np.uint8], Done]:
    """uint8 [H, W, inputs], and what was done to the values; what is transparent is white. Errors as `to_uint8`.

    Gray and RGB become 3 inputs as RGB, or 1 as gray, by one window for all channels, so that colors do not shift. RGB
    becomes gray by ITU-R BT.601's weights. Channels that were taken one by one have a window each, as if each were a
    gray picture of its own: stains, lamps and exposures differ from channel to channel.

    May be read-only and may share the picture's memory.
    """
    declared = Declared(picture.declared_range, picture.significant_bits)
    if picture.channels is not None:
        return _by_channel(picture, picture.channels, intensity, declared)
    image, applied = to_uint8(picture.values, intensity, declared)
    if picture.transparent is not None:
        image[picture.transparent] = 255
    if inputs == 1:
        gray = image if image.ndim == 2 else np.asarray(Image.fromarray(image).convert("L"))
        return gray[..., None], applied
    return image if image.ndim == 3 else np.repeat(image[..., None], RGB_CHANNELS, axis=2), applied


def shown(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """uint8 [H, W, 3] RGB for people, of [H, W, C]: gray of one channel, else the first three as red, green and blue,
    a missing one black."""
    channels = pixels.shape[2]
    if channels == 1:
        return np.repeat(pixels, RGB_CHANNELS, axis=2)
    if channels < RGB_CHANNELS:
        return np.pad(pixels, ((0, 0), (0, 0), (0, RGB_CHANNELS - channels)))
    return np.ascontiguousarray(pixels[..., :RGB_CHANNELS])


def _by_channel(
    picture: Picture, channels: Channels, intensity: Intensity, declared: Declared
) -> tuple[NDArray[np.uint8], tuple[Applied | None, ...]]:
    pixels = np.zeros((*picture.values.shape[:2], len(channels.taken)), np.uint8)
    applied: list[Applied | None] = [None] * len(channels.taken)
    for column, index in enumerate(channels.used):
        values, done = to_uint8(np.ascontiguousarray(picture.values[..., column]), intensity, declared)
        for place in (place for place, taken in enumerate(channels.taken) if taken == index):
            pixels[..., place], applied[place] = values, done
            if picture.transparent is not None:
                pixels[picture.transparent, place] = 255
    return pixels, tuple(applied)
