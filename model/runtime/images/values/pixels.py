"""From a picture of any depth to the 8 bits of each channel that a network takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.runtime.images.channels import RGB_CHANNELS
from model.runtime.images.picture import Picture
from model.runtime.images.planes import Channels
from model.runtime.images.values.intensity import AUTO, Applied, Declared, Intensity, WindowSearch, find_window, keeps
from model.runtime.images.values.tones import scale

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

    May be read-only and may share the picture's memory. Gray as RGB is one channel seen three times (stride 0).
    """
    done = _done(picture, intensity)
    return apply(picture, done, inputs), done


def apply(picture: Picture, done: Done, inputs: int = RGB_CHANNELS) -> NDArray[np.uint8]:
    """A picture, or a part of one, as `to_pixels` gives it when that is what is done to the values."""
    if picture.channels is not None:
        assert isinstance(done, tuple)
        return _by_channel(picture, picture.channels, done)
    assert not isinstance(done, tuple)
    image = _scaled(picture.values, done)
    if picture.transparent is not None:
        image[picture.transparent] = 255
    if inputs == 1:
        gray = image if image.ndim == 2 else np.asarray(Image.fromarray(image).convert("L"))
        return gray[..., None]
    return image if image.ndim == 3 else np.broadcast_to(image[..., None], (*image.shape, RGB_CHANNELS))


class DoneSearch:
    """What `to_pixels` does to a picture that is read in bands of rows, from top to bottom: exactly that of the whole.

    `is_done` from the start where no value need be looked at.
    """

    def __init__(self, like: Picture, pixels: int, intensity: Intensity) -> None:
        """like: a few of the picture's `pixels`, with what its file says."""
        self._channels = like.channels
        dtype = like.values.dtype
        samples = 1 if like.values.ndim == 2 else like.values.shape[2]
        self.is_done = keeps(dtype, intensity)
        count = 0 if self.is_done else 1 if like.channels is None else samples
        self._searches = [
            WindowSearch(dtype, pixels * samples // count, intensity, _declared(like, column))
            for column in range(count)
        ]

    def add(self, values: NDArray[Any]) -> None:
        for column, search in enumerate(self._searches):
            search.add(values if self._channels is None else values[..., column])

    def found(self) -> Done:
        """When all values have come. Errors as `to_uint8`."""
        found = [search.found() for search in self._searches]
        if self._channels is not None:
            return _of_inputs(self._channels, found or [None] * len(self._channels.used))
        return found[0] if found else None


def shown(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """uint8 [H, W, 3] RGB for people, of [H, W, C]: gray of one channel, else the first three as red, green and blue,
    a missing one black."""
    channels = pixels.shape[2]
    if channels == 1:
        return np.repeat(pixels, RGB_CHANNELS, axis=2)
    if channels < RGB_CHANNELS:
        return np.pad(pixels, ((0, 0), (0, 0), (0, RGB_CHANNELS - channels)))
    return np.ascontiguousarray(pixels[..., :RGB_CHANNELS])


def _done(picture: Picture, intensity: Intensity) -> Done:
    if picture.channels is None:
        return find_window(picture.values, intensity, _declared(picture))
    columns = range(picture.values.shape[2])
    return _of_inputs(
        picture.channels,
        [find_window(picture.values[..., column], intensity, _declared(picture, column)) for column in columns],
    )


def _declared(picture: Picture, column: int = 0) -> Declared:
    """What the file says of the values, of the channels that were taken one by one for that one."""
    own = picture.channel_ranges[column] if picture.channel_ranges else picture.declared_range
    return Declared(own, picture.significant_bits)


def _of_inputs(channels: Channels, of_used: Sequence[Applied | None]) -> tuple[Applied | None, ...]:
    by_channel: dict[int | None, Applied | None] = dict(zip(channels.used, of_used, strict=True))
    return tuple(by_channel.get(taken) for taken in channels.taken)


def _by_channel(picture: Picture, channels: Channels, done: Sequence[Applied | None]) -> NDArray[np.uint8]:
    pixels = np.zeros((*picture.values.shape[:2], len(channels.taken)), np.uint8)
    for column, index in enumerate(channels.used):
        places = [place for place, taken in enumerate(channels.taken) if taken == index]
        values = _scaled(picture.values[..., column], done[places[0]])
        for place in places:
            pixels[..., place] = values
            if picture.transparent is not None:
                pixels[picture.transparent, place] = 255
    return pixels


def _scaled(values: NDArray[Any], applied: Applied | None) -> NDArray[np.uint8]:
    return values if applied is None else scale(values, applied.low, applied.high)
