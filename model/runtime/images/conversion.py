"""From a loaded Pillow image of any mode to a picture: gray, or RGB as viewers show it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from PIL import Image, ImageCms

from model.runtime.images.errors import NoSuchPlane
from model.runtime.images.picture import Picture
from model.runtime.images.planes import PlaneAxis, PlaneChoice


def picture_of(image: Image.Image) -> Picture:
    """The picture of a loaded image of any mode."""
    if image.mode.startswith("I;16"):
        return Picture(np.asarray(image).astype(np.uint16, copy=False))  # the machine's byte order
    if image.mode in ("I", "F"):
        return Picture(np.asarray(image))
    if image.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
        return Picture(np.asarray(converted))
    if image.has_transparency_data:
        image = _over_white(image)
    elif image.mode == "1":
        image = image.convert("L")
    elif image.mode not in ("L", "RGB"):
        image = image.convert("RGB")
    return Picture(np.asarray(image))


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
