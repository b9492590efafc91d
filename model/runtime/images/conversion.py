"""From a loaded Pillow image of any mode to a picture: gray, or RGB as viewers show it.

Pillow holds RGB as four bytes a pixel, and makes the three of an array by way of two copies. So a picture that will be
resized is resized by Pillow first, and a large one that will not leaves it in bands.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from model.runtime.images.errors import NoSuchPlane
from model.runtime.images.orientation import put_upright, turned_size
from model.runtime.images.picture import Picture, Size
from model.runtime.images.planes import PlaneAxis, PlaneChoice

Fit = Callable[[Size], Size]
"""From a picture's size as seen to the size to which it will be resized."""

_BAND: Final = 1 << 18
"""Bytes of a large picture that leave Pillow at once: they stay in the processor's cache between their two copies."""
_SMALL: Final = 8 << 20
"""Bytes that Pillow holds of a picture whose bands would cost more than they save."""


def picture_of(image: Image.Image, fit: Fit | None = None) -> Picture:
    """The picture of a loaded image of any mode that is upright, resized where it has 8 bits and `fit` is given."""
    image = _shown(image)
    if image.mode not in ("L", "RGB"):
        return Picture(np.asarray(image, np.uint16 if image.mode.startswith("I;16") else None))  # this machine's order
    original = (image.height, image.width)
    if fit is None:
        return Picture(pixels(image))
    height, width = fit(original)
    if (height, width) != original:
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    return Picture(pixels(image), original=original)


def reduced_picture(image: Image.Image, by: int, stored: Size, target: Size, orientation: int) -> Picture:
    """The picture, upright and resized, of a loaded image that has one pixel for each `by` x `by` of the `stored` size,
    and for what is left over at its right and lower borders. `target` is as stored too."""
    box = (0, 0, stored[1] / by, stored[0] / by)  # where the stored picture lies, the last pixels in part
    image = _shown(image).resize(target[::-1], Image.Resampling.BILINEAR, box)
    return Picture(pixels(put_upright(image, orientation)), original=turned_size(stored, orientation))


def pixels(image: Image.Image) -> NDArray[Any]:
    """The values of an image of mode L or RGB: uint8 [H, W] or [H, W, 3], which may be read-only."""
    width, height = image.size
    if 4 * width * height <= _SMALL:
        return np.asarray(image)
    channels = len(image.getbands())
    values = np.empty((height, width, channels)[: 2 if channels == 1 else 3], np.uint8)
    rows = max(1, _BAND // (4 * width))
    for top in range(0, height, rows):
        values[top : top + rows] = np.asarray(image.crop((0, top, width, min(top + rows, height))))
    return values


def _shown(image: Image.Image) -> Image.Image:
    """In mode L or RGB what has 8 bits, the others as they are."""
    if image.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
        assert converted is not None, "None comes only where the image itself is changed"
        return converted
    if image.mode.startswith("I") or image.mode == "F":
        return image
    if image.has_transparency_data:
        return _over_white(image)
    if image.mode == "1":
        return image.convert("L")
    return image if image.mode in ("L", "RGB") else image.convert("RGB")


def _over_white(image: Image.Image) -> Image.Image:
    """Mode RGB of an image with transparency."""
    if image.mode == "La":
        image = image.convert("LA")
    if image.mode != "RGBA":
        image = image.convert("RGBA")
    page = Image.new("RGB", image.size, "white")
    page.paste(image, mask=image)
    return page


def check_only_plane(choice: PlaneChoice) -> None:
    """Raises NoSuchPlane for a page, z or t of a file that has one plane."""
    for name, asked in (("page", choice.page), ("z", choice.z), ("t", choice.t)):
        if asked:
            raise NoSuchPlane(f"the image has no {name} {asked}: only a TIFF's pages and axes can be chosen")


def of_channel(picture: Picture, choice: PlaneChoice) -> Picture:
    """The one channel that is asked for, as gray, or those that are taken one by one; the picture itself where none is.

    Raises NoSuchPlane for a channel that it does not have, and for a page, z or t: it is the only plane of its file.
    """
    check_only_plane(choice)
    if choice.by_channel:
        return by_channel(picture, choice)
    channels = picture.values.shape[2] if picture.values.ndim == 3 else 1
    if choice.channel is None:
        return picture
    if choice.channel >= channels:
        raise NoSuchPlane(f"the image has no channel {choice.channel}: it has {channels}, counted from 0")
    if channels == 1:
        return picture
    values = np.ascontiguousarray(picture.values[..., choice.channel])
    return replace(picture, values=values, plane=(PlaneAxis("channel", choice.channel, channels),))


def by_channel(picture: Picture, choice: PlaneChoice) -> Picture:
    """The channels that are taken of a picture with all of its file's: [H, W], or [H, W, C]. Raises NoSuchPlane."""
    values = picture.values if picture.values.ndim == 3 else picture.values[..., None]
    channels = choice.of(values.shape[2])
    if len(channels.used) < values.shape[2]:
        values = values[..., list(channels.used)]
    return replace(picture, values=values, channels=channels)
