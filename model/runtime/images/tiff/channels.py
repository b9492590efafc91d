"""A TIFF's channels, taken one by one: samples of each pixel, planes along the axis C, or pages without any axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final, TypeVar

import numpy as np

from model.runtime.images.conversion import by_channel
from model.runtime.images.data import Data
from model.runtime.images.errors import TooManyPixels, UnsupportedVariant
from model.runtime.images.limits import ImageLimits
from model.runtime.images.picture import Picture
from model.runtime.images.planes import Channels, PlaneAxis, PlaneChoice
from model.runtime.images.regions import PictureByRegion
from model.runtime.images.tiff.opening import opened, orientation_of
from model.runtime.images.tiff.reading import block_decoder, by_region, read_tiff
from model.runtime.images.tiff.sizes import BYTES_PER_PIXEL, block_size, is_decoded_whole

_Opened = TypeVar("_Opened", bound=Picture | PictureByRegion)

_DIFFERENT: Final = (
    "the TIFF image cannot be read by channels: its pages differ in size or type; ask for one, with page"
)
_TURNED: Final = (
    "the TIFF image cannot be read by channels: its pages have different orientations; ask for one, with page"
)


def read_channels(data: Data, limits: ImageLimits, choice: PlaneChoice) -> Picture:
    """The picture of the channels that `choice` takes, always upright. Raises ImageError as `read_picture`."""
    alone = PlaneChoice(choice.page, choice.z, choice.t)
    _, plane = opened(data, limits, alone)
    page, along = plane.page, _axis_of_channels(plane.axes, plane.page.samplesperpixel, choice)
    size = page.imagewidth * page.imagelength * (page.dtype.itemsize if page.dtype is not None else 1)
    if along is None:
        return by_channel(read_tiff(data, limits, alone, all_samples=True), choice)
    channels = choice.of(along.size)
    if size * len(channels.used) > limits.max_pixels * BYTES_PER_PIXEL:
        raise TooManyPixels(
            f"{len(channels.used)} channels of {page.imagewidth} x {page.imagelength} pixels take more memory than is "
            f"accepted; send the image smaller"
        )
    pictures = [read_tiff(data, limits, _of_axis(alone, along, index)) for index in channels.used]
    return _together(pictures, along, channels)


def open_channels(data: Data, limits: ImageLimits, choice: PlaneChoice) -> Picture | PictureByRegion:
    """The same, decoded unless it is too large for that and can be read part by part."""
    alone = PlaneChoice(choice.page, choice.z, choice.t)
    tiff, plane = opened(data, limits, alone, by_region=True)
    if is_decoded_whole(plane.page, limits):
        return read_channels(data, limits, choice)
    along = _axis_of_channels(plane.axes, plane.page.samplesperpixel, choice)
    if along is None:
        of_pixels = block_decoder(data, tiff, replace(plane, all_samples=True))
        return by_region(tiff, plane, limits, lambda part: by_channel(of_pixels(part), choice))
    channels = choice.of(along.size)
    files = [opened(data, limits, _of_axis(alone, along, index), by_region=True) for index in channels.used]
    if len({(one.page.imagelength, one.page.imagewidth, *block_size(one.page, limits)) for _, one in files}) > 1:
        raise UnsupportedVariant(_DIFFERENT)
    if len({orientation_of(one.page) for _, one in files}) > 1:
        raise UnsupportedVariant(_TURNED)
    of_channels = [block_decoder(data, *file) for file in files]
    return by_region(
        *files[0], limits, lambda part: _together([decode(part) for decode in of_channels], along, channels)
    )


def _together(pictures: Sequence[Picture], along: PlaneAxis, channels: Channels) -> Picture:
    """One picture of those of its channels."""
    first = pictures[0]
    if any(picture.values.ndim != 2 for picture in pictures):
        raise UnsupportedVariant(
            "the TIFF image cannot be read by channels: some are pictures in colors; ask for one, with page or channel"
        )
    if len({(one.values.shape, one.values.dtype, one.significant_bits) for one in pictures}) > 1:
        raise UnsupportedVariant(_DIFFERENT)
    hidden = [picture.transparent for picture in pictures if picture.transparent is not None]
    return replace(
        first,
        values=np.stack([picture.values for picture in pictures], axis=2),
        channel_ranges=tuple(picture.declared_range for picture in pictures),
        transparent=np.logical_or.reduce(hidden) if hidden else None,
        plane=tuple(axis for axis in first.plane if axis.name != along.name),
        channels=channels,
    )


def require_one_channel(picture: _Opened, choice: PlaneChoice) -> _Opened:
    """The picture, unless it is one of several channels that a network of one channel would see by chance.

    Raises NoSuchPlane.
    """
    if choice.inputs == 1 and choice.channel is None:
        for axis in (picture if isinstance(picture, Picture) else picture.like).plane:
            if axis.name == "channel":
                choice.of(axis.size)
    return picture


def _axis_of_channels(axes: tuple[PlaneAxis, ...], samples: int, choice: PlaneChoice) -> PlaneAxis | None:
    """Along which the planes are channels; None where they are the samples of one plane.

    Pages of a file that states no axes are what most programs make of an array [C, H, W].
    """
    for axis in axes:
        if axis.name == "channel":
            return axis
    if choice.page is None and samples == 1 and [axis.name for axis in axes] == ["page"]:
        return axes[0]
    return None


def _of_axis(choice: PlaneChoice, along: PlaneAxis, index: int) -> PlaneChoice:
    return replace(choice, page=index) if along.name == "page" else replace(choice, channel=index)
