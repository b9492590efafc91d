"""All planes of a TIFF, each as the choice that gives it alone."""

from __future__ import annotations

import contextlib
import itertools
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from model.runtime.images.data import Data
from model.runtime.images.errors import NoSuchPlane
from model.runtime.images.planes import OnePlane, PlaneAxis, PlaneChoice, Planes, check_number
from model.runtime.images.tiff.directories import full_directories
from model.runtime.images.tiff.opening import (
    axes_of,
    file_of,
    has_several_stacks,
    header_errors,
    no_axes,
    page_at,
    stack_of,
    within,
)
from model.runtime.images.tiff.reading import BLACK_IS_ZERO, WHITE_IS_ZERO, alpha_of

if TYPE_CHECKING:
    from tifffile import TiffPage, TiffPageSeries


def tiff_planes(data: Data, choice: PlaneChoice, most: int) -> Planes:
    """The planes that `choice` leaves open. Raises ImageError as `planes_of`."""
    with header_errors():
        tiff = file_of(data)
        narrowed = choice.by_channel or not choice.z is choice.t is choice.channel is None
        if (series := stack_of(tiff, data)) is not None and (narrowed or not has_several_stacks(tiff)):
            return _planes_of_stack(series, choice, most)
        directories = full_directories(data)
        check_number(len(directories), most)
        no_axes(choice, "z", "t")
        found: list[OnePlane] = []
        pixels = 0
        for index, directory in enumerate(directories):
            axes = (PlaneAxis("page", index, len(directories)),) if len(directories) > 1 else ()
            samples = channels = 1
            with contextlib.suppress(Exception):  # whatever is wrong with this one is said where it is read
                page = page_at(tiff, directory.offset, index)
                pixels = max(pixels, page.imagewidth * page.imagelength)
                channels = page.samplesperpixel
                samples = _gray_channels(page)
            if choice.by_channel and channels == 1:  # the pages are the channels
                return Planes((OnePlane(choice),), pixels)
            found += _with_samples(OnePlane(replace(choice, page=index), axes), samples)
    check_number(len(found), most)
    return Planes(tuple(found), pixels)


def _planes_of_stack(series: TiffPageSeries, choice: PlaneChoice, most: int) -> Planes:
    page, names, sizes = series.keyframe, *axes_of(series)
    no_axes(choice, *(name for name in ("z", "t") if name not in names))
    samples = 1 if "channel" in names else _gray_channels(page)
    if "page" in names or len(set(names)) < len(names):
        if any(getattr(choice, name) is not None for name in names):
            raise NoSuchPlane("the image's axes are not told apart: ask for all of its planes without z, t and channel")
        names, sizes = ["page"], [math.prod(sizes)]
    if choice.by_channel and "channel" in names:
        sizes.pop(names.index("channel"))
        names.remove("channel")
    elif choice.by_channel and names == ["page"] and page.samplesperpixel == 1:  # the pages are the channels
        names, sizes = [], []
    asked = [getattr(choice, name) for name in names]
    indices = [
        range(size) if one is None else [within(name, one, size)]
        for name, one, size in zip(names, asked, sizes, strict=True)
    ]
    check_number(math.prod(map(len, indices)), most)
    found: list[OnePlane] = []
    for at in itertools.product(*indices):
        axes = tuple(PlaneAxis(*axis) for axis in zip(names, at, sizes, strict=True) if axis[2] > 1)
        place: dict[str, Any] = dict(zip(names, at, strict=True))
        found += _with_samples(OnePlane(replace(choice, **place), axes), samples)
    check_number(len(found), most)
    return Planes(tuple(found), page.imagewidth * page.imagelength)


def _with_samples(plane: OnePlane, samples: int) -> list[OnePlane]:
    """One for each of a pixel's samples that is asked for, where these are channels."""
    if samples == 1 or plane.choice.by_channel:
        return [plane]
    asked = plane.choice.channel
    return [
        OnePlane(replace(plane.choice, channel=one), (*plane.axes, PlaneAxis("channel", one, samples)))
        for one in (range(samples) if asked is None else [asked])
    ]


def _gray_channels(page: TiffPage) -> int:
    """How many channels the samples of a pixel are; 1 where they are a color."""
    if page.photometric not in (WHITE_IS_ZERO, BLACK_IS_ZERO):
        return 1
    samples = page.samplesperpixel
    return samples if alpha_of(samples, tuple(page.extrasamples or ()), 1) is None else samples - 1
