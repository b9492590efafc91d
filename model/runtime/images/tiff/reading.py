"""From a TIFF's bytes to the picture of the plane that is asked for.

What Pillow reads rightly is left to it (`by_pillow`), given the directory of the plane; everything deeper or otherwise
laid out is read by `segments`. A plane that is too large to be decoded at once (`sizes`) is read part by part: Pillow
is then given the strips or tiles of a part as a file of their own (`excerpt`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from model.runtime.images.conversion import of_channel
from model.runtime.images.data import Data, let_go
from model.runtime.images.errors import DamagedImage, UnsupportedVariant, saying
from model.runtime.images.limits import ImageLimits
from model.runtime.images.orientation import turned
from model.runtime.images.picture import Picture, PixelSize
from model.runtime.images.planes import PlaneAxis, PlaneChoice
from model.runtime.images.regions import Part, PictureByRegion
from model.runtime.images.tiff.by_pillow import by_pillow, is_for_pillow
from model.runtime.images.tiff.excerpt import decoding_tags, excerpt
from model.runtime.images.tiff.opening import Plane, opened, orientation_of, within
from model.runtime.images.tiff.pixel_size import stated_pixel_size
from model.runtime.images.tiff.segments import NONE, read_samples, segment_size, segments_in
from model.runtime.images.tiff.sizes import (
    block_size,
    is_decoded_whole,
)

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage

WHITE_IS_ZERO, BLACK_IS_ZERO, _RGB = 0, 1, 2
_ALPHA: Final = (1, 2)
"""ExtraSamples: associated and unassociated alpha."""


def read_tiff(data: Data, limits: ImageLimits, choice: PlaneChoice, *, all_samples: bool = False) -> Picture:
    """The picture, always upright. all_samples: with all channels of its pixels, [H, W, C], whether they are colors or
    not. Raises ImageError as `read_picture`."""
    tiff, plane = opened(data, limits, choice)
    return _whole(data, tiff, replace(plane, all_samples=all_samples), limits)


def open_tiff(data: Data, limits: ImageLimits, choice: PlaneChoice) -> Picture | PictureByRegion:
    """The picture, decoded unless it is too large for that and can be read part by part.

    Raises ImageError as `read_picture`.
    """
    tiff, plane = opened(data, limits, choice, by_region=True)
    if is_decoded_whole(plane.page, limits):
        return _whole(data, tiff, plane, limits)
    return by_region(tiff, plane, limits, block_decoder(data, tiff, plane))


def tiff_size(data: Data, limits: ImageLimits, choice: PlaneChoice) -> tuple[int, int]:
    """(width, height) as seen, in pixels, without decoding. Raises ImageError as far as the header shows it."""
    _, plane = opened(data, limits, choice)
    width, height = plane.page.imagewidth, plane.page.imagelength
    return (height, width) if orientation_of(plane.page) >= 5 else (width, height)


def _whole(data: Data, tiff: TiffFile, plane: Plane, limits: ImageLimits) -> Picture:
    page = plane.page
    everything = Part(0, 0, page.imagelength, page.imagewidth)
    if plane.directory is None or not is_for_pillow(page, data):
        picture = _described(turned(_by_segments(data, plane, everything), orientation_of(page)), tiff, plane)
    elif page.compression == NONE and _stated_segments(page) != segments_in(page):
        # Pillow would leave black what is missing, and lay what is too many over the first.
        picture = turned(block_decoder(data, tiff, plane)(everything), orientation_of(page))
    else:
        read = by_pillow(bytes(data), plane.directory, limits)
        picture = _described(of_channel(read, PlaneChoice(channel=plane.sample)), tiff, plane)
    return replace(picture, pixel_size=_pixel_size(tiff, page))


def by_region(tiff: TiffFile, plane: Plane, limits: ImageLimits, decode: Callable[[Part], Picture]) -> PictureByRegion:
    """The picture whose blocks `decode` gives as they are stored, like those of that plane."""
    page = plane.page
    return PictureByRegion(
        (page.imagelength, page.imagewidth),
        block_size(page, limits),
        decode,
        orientation=orientation_of(page),
        pixel_size=_pixel_size(tiff, page),
    )


def block_decoder(data: Data, tiff: TiffFile, plane: Plane) -> Callable[[Part], Picture]:
    """Gives the blocks of a plane as they are stored. It raises ImageError."""
    page = plane.page
    tags = None
    if plane.directory is not None and is_for_pillow(page, data):
        tags = decoding_tags(data, plane.directory)

    def decode(part: Part) -> Picture:
        with saying("the TIFF image cannot be decoded"):
            if tags is None:
                picture = _by_segments(data, plane, part)
            else:
                rows = None if page.is_tiled else page.rowsperstrip
                alone = excerpt(data, tags, _segments_of(plane, part), part, rows)
                picture = by_pillow(alone, None, ImageLimits(part.height * part.width))
                picture = of_channel(picture, PlaneChoice(channel=plane.sample))
        let_go(data)
        return _described(picture, tiff, plane)

    return decode


def _segments_of(plane: Plane, part: Part) -> list[tuple[int, int]]:
    """(offset, count) of the strips or tiles, with all samples together, that a part which begins with one lies in."""
    height, width = segment_size(plane.page)
    columns = -(-plane.page.imagewidth // width)
    found = []
    for row in range(part.top // height, -(-(part.top + part.height) // height)):
        for column in range(part.left // width, -(-(part.left + part.width) // width)):
            index = row * columns + column
            if index >= min(len(plane.offsets), len(plane.counts)):
                raise DamagedImage(f"the TIFF image is damaged: strip or tile {index} is missing")
            found.append((plane.offsets[index], plane.counts[index]))
    return found


def _stated_segments(page: TiffPage) -> int:
    """How many strips or tiles the file lists, of which tifffile passes over those that are too many."""
    return next((tag.count for code in (324, 273) if (tag := page.tags.get(code)) is not None), 0)


def _described(picture: Picture, tiff: TiffFile, plane: Plane) -> Picture:
    """With what the file says of its values and of the plane."""
    picture = replace(picture, plane=plane.axes + picture.plane)
    if picture.values.dtype == np.uint8:
        return picture
    bits = _significant_bits(tiff) if picture.values.dtype.kind == "u" else None
    return replace(
        picture,
        declared_range=_declared(tiff, plane),
        significant_bits=picture.significant_bits or bits,
    )


def _pixel_size(tiff: TiffFile, page: TiffPage) -> PixelSize | None:
    """Of the picture as seen."""
    pixel_size = stated_pixel_size(tiff, page)
    if pixel_size is not None and orientation_of(page) >= 5:
        pixel_size = replace(pixel_size, x=pixel_size.y, y=pixel_size.x)
    return pixel_size


def _declared(tiff: TiffFile, plane: Plane) -> tuple[float, float] | None:
    """(least, greatest) of SMinSampleValue and SMaxSampleValue, or of ImageJ's display range. Each channel of a
    composite has one of its own there; min and max are then those of the channel that was shown last."""
    low, high = plane.page.tags.valueof(340), plane.page.tags.valueof(341)
    if low is None and high is None and tiff.is_imagej:
        metadata = tiff.imagej_metadata or {}
        low, high = metadata.get("min"), metadata.get("max")
        ranges = metadata.get("Ranges", ())
        if plane.channel is not None and len(ranges) >= 2 * plane.channel + 2:
            low, high = ranges[2 * plane.channel : 2 * plane.channel + 2]
    try:
        least, greatest = float(np.min(low)), float(np.max(high))
    except (TypeError, ValueError):
        return None
    return (least, greatest) if math.isfinite(least) and math.isfinite(greatest) and least < greatest else None


def _significant_bits(tiff: TiffFile) -> int | None:
    """What OME-XML says."""
    found = re.search(r'SignificantBits="(\d{1,2})"', tiff.pages.first.description) if tiff.is_ome else None
    return int(found[1]) if found else None


def _by_segments(data: Data, plane: Plane, part: Part) -> Picture:
    """A part that begins where a strip or tile begins, as it is stored."""
    page = plane.page
    bits, dtype = page.bitspersample, page.dtype
    if page.photometric not in (WHITE_IS_ZERO, BLACK_IS_ZERO, _RGB):
        name = getattr(page.photometric, "name", page.photometric)
        raise UnsupportedVariant(
            f"the TIFF image cannot be read: {name} colors of {bits} bits in this layout; send it as gray or RGB"
        )
    if (
        dtype is None
        or not isinstance(bits, int)
        or dtype.kind not in "buif"
        or (bits != 8 * dtype.itemsize and (dtype.kind in "if" or bits % 8 == 0))
    ):
        format = getattr(page.sampleformat, "name", page.sampleformat)
        raise UnsupportedVariant(
            f"the TIFF image cannot be read: samples of {bits} bits in format {format}; send it with integers or "
            f"floats of 8, 16 or 32 bits"
        )
    dtype = np.dtype(np.uint8) if dtype.kind == "b" else dtype
    samples = page.samplesperpixel
    extra = tuple(page.extrasamples or ())
    alpha = alpha_of(samples, extra, 3 if page.photometric == _RGB else 1)
    channels = samples if alpha is None else samples - 1
    axes: list[PlaneAxis] = []
    if plane.all_samples:
        wanted = slice(0, channels)
    elif plane.sample is not None or (page.photometric != _RGB and channels > 1):
        sample = within("channel", plane.sample, channels)
        wanted = slice(sample, sample + 1)
        if channels > 1:
            axes.append(PlaneAxis("channel", sample, channels))
        alpha = None
    elif page.photometric == _RGB and channels < 3:
        raise DamagedImage(f"the TIFF image is damaged: RGB of {channels} samples")
    else:
        wanted = slice(0, 3 if page.photometric == _RGB else 1)
    values = read_samples(data, page, plane.offsets, plane.counts, dtype, wanted, part)
    if page.photometric == WHITE_IS_ZERO:
        values = _inverted(values, bits)
    transparent = None
    if alpha is not None:
        opacity = read_samples(data, page, plane.offsets, plane.counts, dtype, slice(alpha, alpha + 1), part)
        values, transparent = _over_white(values, opacity, bits, associated=extra[alpha - samples] == 1)
    if dtype.kind == "u" and bits < 8:
        values = (values.astype(np.uint16) * 255 // (2**bits - 1)).astype(np.uint8)
    narrow = bits if dtype.kind == "u" and 8 < bits < 8 * dtype.itemsize else None
    return Picture(
        values[..., 0] if values.shape[2] == 1 else values,
        significant_bits=narrow,
        transparent=transparent,
        plane=tuple(axes),
    )


def alpha_of(samples: int, extra: tuple[int, ...], colors: int) -> int | None:
    """Which of a pixel's samples is its opacity; None where none is. Extra samples come behind the colors."""
    found = next((samples - len(extra) + at for at, kind in enumerate(extra) if kind in _ALPHA), None)
    if found is not None and (found < colors or (colors == 1 and found != samples - 1)):
        raise UnsupportedVariant(
            f"the TIFF image cannot be read: of {samples} samples a pixel, number {found + 1} is said to be the opacity"
        )
    return found


def _inverted(values: NDArray[Any], bits: int) -> NDArray[Any]:
    """Where white is zero, turned to where it is the largest value."""
    if values.dtype.kind == "f":
        raise UnsupportedVariant("the TIFF image cannot be read: floats of which zero is white; send them inverted")
    return ~values if values.dtype.kind == "i" else values.dtype.type(2**bits - 1) - values


def _over_white(
    values: NDArray[Any], opacity: NDArray[Any], bits: int, *, associated: bool
) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """[H, W, C] laid over white by opacity [H, W, 1], and where nothing is seen; None when all is opaque."""
    if values.dtype.kind != "u":
        if values.dtype.kind == "f" and (opacity == 1).all():
            return values, None
        raise UnsupportedVariant("the TIFF image cannot be read: transparency of signed or floating values")
    white = 2**bits - 1
    if (opacity == white).all():
        return values, None
    share = opacity.astype(np.float64) / white
    seen = values.astype(np.float64) if associated else values * share
    laid = np.rint(np.minimum(seen + white * (1 - share), white)).astype(values.dtype)
    return laid, opacity[..., 0] == 0
