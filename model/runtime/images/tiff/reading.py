"""From a TIFF's bytes to the picture of the plane that is asked for.

What Pillow reads rightly, 8-bit pixels with all samples together, is left to it, given the directory of the plane.
Everything deeper or otherwise laid out is read by `segments`.
"""

from __future__ import annotations

import logging
import math
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import TiffImagePlugin

from model.runtime.images.conversion import of_channel, picture_of
from model.runtime.images.errors import DamagedImage, ImageError, NoSuchPlane, TooManyPixels, UnsupportedVariant
from model.runtime.images.limits import ImageLimits
from model.runtime.images.orientation import turned
from model.runtime.images.picture import Picture
from model.runtime.images.planes import PlaneAxis, PlaneChoice
from model.runtime.images.tiff.directories import full_directories
from model.runtime.images.tiff.pixel_size import stated_pixel_size
from model.runtime.images.tiff.segments import read_samples

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage, TiffPageSeries

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR, _LAB = 0, 1, 2, 3, 5, 6, 8
_ALPHA: Final = (1, 2)
_PACK_BITS: Final = 32773
"""ExtraSamples: associated and unassociated alpha."""
_AXES: Final = {"Z": "z", "T": "t", "C": "channel"}
_COMPRESSIONS: Final = (1, 2, 3, 4, 5, 6, 7, 8, 32773, 32946, 34925, 50000)
"""Those that Pillow's libtiff is built with: none, CCITT's three, LZW, JPEG by two numbers, then `BYTE_CODECS`."""
_MAX_SEGMENTS: Final = 200_000
_BYTES_PER_PIXEL: Final = 16
"""Of samples that are unpacked, for each pixel that is accepted."""


@dataclass(frozen=True, slots=True, eq=False)
class Plane:
    """One plane of a file: the page whose header describes it, where its data lie, and which of several it is.

    `directory` is the offset of its own directory, None when it has none.
    """

    page: TiffPage
    offsets: tuple[int, ...]
    counts: tuple[int, ...]
    axes: tuple[PlaneAxis, ...]
    directory: int | None
    sample: int | None
    """The sample that is asked for; None for all that make a color, or the first."""


def read_tiff(data: bytes, limits: ImageLimits, choice: PlaneChoice) -> Picture:
    """The picture, always upright. Raises ImageError as `read_picture`."""
    with _opened(data, limits, choice) as (tiff, plane):
        declared = _declared(tiff, plane.page)
        if plane.directory is not None and _is_for_pillow(plane.page, data):
            picture = of_channel(_by_pillow(data, plane.directory, limits), PlaneChoice(channel=plane.sample))
        else:
            picture = turned(_by_segments(data, plane), _orientation(plane.page))
        bits = _significant_bits(tiff) if picture.values.dtype.kind == "u" else None
        pixel_size = stated_pixel_size(tiff, plane.page)
        if pixel_size is not None and _orientation(plane.page) >= 5:
            pixel_size = replace(pixel_size, x=pixel_size.y, y=pixel_size.x)
    picture = replace(picture, plane=plane.axes + picture.plane, pixel_size=pixel_size)
    if picture.values.dtype == np.uint8:
        return picture
    return replace(
        picture,
        declared_range=declared,
        significant_bits=picture.significant_bits or bits,
    )


def tiff_size(data: bytes, limits: ImageLimits, choice: PlaneChoice) -> tuple[int, int]:
    """(width, height) as seen, in pixels, without decoding. Raises ImageError as far as the header shows it."""
    with _opened(data, limits, choice) as (_, plane):
        width, height = plane.page.imagewidth, plane.page.imagelength
        return (height, width) if _orientation(plane.page) >= 5 else (width, height)


@contextmanager
def _opened(data: bytes, limits: ImageLimits, choice: PlaneChoice) -> Iterator[tuple[TiffFile, Plane]]:
    """The file, opened by tifffile, and its chosen plane, which is not too large."""
    from tifffile import TiffFile  # takes a tenth of a second, which a server without TIFFs need not spend

    logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)  # what it complains of is found by other means
    full_directories(data)  # bounds what tifffile will walk
    try:
        # Other files that an OME-TIFF may name are none of an upload's.
        file = TiffFile(BytesIO(data), _multifile=False)
        plane = _chosen(file, data, choice)
        _check(plane.page, limits)
    except (ImageError, MemoryError):
        raise
    except ValueError as error:
        raise DamagedImage(f"the TIFF image's header cannot be read: {error}") from error
    except Exception as error:  # tifffile raises whatever it stumbles over
        raise DamagedImage("the TIFF image's header cannot be read: its tags contradict each other") from error
    with file:
        yield file, plane


def _chosen(tiff: TiffFile, data: bytes, choice: PlaneChoice) -> Plane:
    from tifffile import TiffPage

    series = _stack(tiff, data)
    if series is not None:
        return _of_stack(series, choice)
    directories = full_directories(data)
    index = _within("page", choice.page, len(directories))
    _no_axes(choice, "z", "t")
    tiff.filehandle.seek(directories[index].offset)
    page = TiffPage(tiff, index)
    axes = (PlaneAxis("page", index, len(directories)),) if len(directories) > 1 else ()
    return Plane(page, page.dataoffsets, page.databytecounts, axes, directories[index].offset, choice.channel)


def _within(name: str, asked: int | None, size: int) -> int:
    index = asked or 0
    if index >= size:
        raise NoSuchPlane(f"the image has no {name} {index}: it has {size}, counted from 0")
    return index


def _no_axes(choice: PlaneChoice, *names: str) -> None:
    for name in names:
        if getattr(choice, name):
            raise NoSuchPlane(f"the image has no {name} {getattr(choice, name)}: its file states no axis {name}")


def _stack(tiff: TiffFile, data: bytes) -> TiffPageSeries | None:
    """The first series of a file that states its axes; None where one directory is one plane.

    The axes of other kinds of file are guesses.
    """
    if not (tiff.is_ome or tiff.is_imagej or tiff.is_shaped):
        return None
    description = tiff.pages.first.description
    for stated in (*re.findall(r"<(?:\w+:)?Pixels\b[^>]*", description), *re.findall(r"\bimages=\d+", description)):
        sizes = [int(size) for size in re.findall(r"(?:\bSize[CZT]=[\"']|images=)(\d{1,18})", stated)]
        planes = math.prod(sizes)
        if planes > len(data):  # tifffile would make a list of them
            raise DamagedImage(f"the TIFF image is damaged: it announces {planes} planes in {len(data)} bytes")
    series = tiff.series[0]
    keyframe = series.keyframe
    planes, rest = divmod(series.size, max(math.prod(keyframe.shape), 1))
    if rest or planes < 2 or keyframe.is_reduced:
        return None
    in_one_piece = series.dataoffset is not None and series.dataoffset + series.nbytes <= len(data)
    return series if len(series) == planes or in_one_piece else None


def _of_stack(series: TiffPageSeries, choice: PlaneChoice) -> Plane:
    page = series.keyframe
    planes = series.size // math.prod(page.shape)
    leading = next((n for n in range(len(series.shape) + 1) if math.prod(series.shape[:n]) == planes), 0)
    names = [_AXES.get(axis, "page") for axis in series.axes[:leading]] or ["page"]
    sizes = list(series.shape[:leading]) or [planes]
    _no_axes(choice, *(name for name in ("z", "t") if name not in names))
    if choice.page is not None or len(set(names)) < len(names):
        if any(getattr(choice, name) is not None for name in names if name != "page"):
            raise NoSuchPlane("page counts all planes of the image: ask for it alone, or for z, t and channel")
        flat = _within("page", choice.page, planes)
        axes: tuple[PlaneAxis, ...] = (PlaneAxis("page", flat, planes),)
    else:
        axes = tuple(
            PlaneAxis(name, _within(name, getattr(choice, name), size), size)
            for name, size in zip(names, sizes, strict=True)
        )
        flat = int(np.ravel_multi_index([axis.index for axis in axes], sizes))
        axes = tuple(axis for axis in axes if axis.size > 1)
    sample = None if "channel" in names else choice.channel
    if len(series) == planes and (entry := series[flat]) is not None:
        own = getattr(entry, "offset", 0) or None
        return Plane(page, entry.dataoffsets, entry.databytecounts, axes, own, sample)
    if page.compression == 1 and series.dataoffset is not None:
        size = math.prod(page.shape) * page.bitspersample // 8
        whole = Plane(page, (series.dataoffset + flat * size,), (size,), axes, None, sample)
        page.rowsperstrip = page.imagelength
        return whole
    raise DamagedImage(f"the TIFF image is damaged: plane {flat} of {planes} is not in the file")


def _check(page: TiffPage, limits: ImageLimits) -> None:
    """Raises TooManyPixels, DamagedImage or UnsupportedVariant by what the header says of the picture's size."""
    width, height, samples = page.imagewidth, page.imagelength, page.samplesperpixel
    tile = (page.tilewidth, page.tilelength) if page.is_tiled else (width, page.rowsperstrip)
    if not all(isinstance(size, int) and size > 0 for size in (width, height, samples, *tile)):
        raise DamagedImage(
            f"the TIFF image's header cannot be read: it states {samples} samples for each of {width} x {height} "
            f"pixels, in strips or tiles of {tile[0]} x {tile[1]}"
        )
    limits.check_pixels(width, height)
    limits.check_pixels(*tile)  # a strip or tile is decoded whole
    if page.imagedepth != 1 or (page.is_tiled and page.tiledepth != 1):
        raise UnsupportedVariant("the TIFF image cannot be read: it is a volume of voxels, not of planes")
    item = page.dtype.itemsize if page.dtype is not None else 1
    for area in (width * height, tile[0] * tile[1]):
        if area * samples * item > limits.max_pixels * _BYTES_PER_PIXEL:
            raise TooManyPixels(
                f"the image has {samples} samples of {item} bytes for each of {width} x {height} pixels, which takes "
                f"more memory than is accepted; send it smaller"
            )
    segments = -(-width // tile[0]) * -(-height // tile[1]) * (samples if page.planarconfig == 2 else 1)
    if segments > _MAX_SEGMENTS:
        raise DamagedImage(f"the TIFF image has {segments} strips or tiles, and at most {_MAX_SEGMENTS} are read")


def _orientation(page: TiffPage) -> int:
    value = page.tags.valueof(274)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _declared(tiff: TiffFile, page: TiffPage) -> tuple[float, float] | None:
    """(least, greatest) of SMinSampleValue and SMaxSampleValue, or of ImageJ's display range."""
    low, high = page.tags.valueof(340), page.tags.valueof(341)
    if low is None and high is None and tiff.is_imagej:
        metadata = tiff.imagej_metadata or {}
        low, high = metadata.get("min"), metadata.get("max")
    try:
        least, greatest = float(np.min(low)), float(np.max(high))
    except (TypeError, ValueError):
        return None
    return (least, greatest) if math.isfinite(least) and math.isfinite(greatest) and least < greatest else None


def _significant_bits(tiff: TiffFile) -> int | None:
    """What OME-XML says."""
    found = re.search(r'SignificantBits="(\d{1,2})"', tiff.pages.first.description) if tiff.is_ome else None
    return int(found[1]) if found else None


def _is_for_pillow(page: TiffPage, data: bytes) -> bool:
    if page.planarconfig != 1 or page.sampleformat != 1 or data[:4] == b"MM\0+":
        return False
    if page.compression not in _COMPRESSIONS:
        return False
    samples, extra = page.samplesperpixel, tuple(page.extrasamples or ())
    if page.bitspersample in (1, 2, 4):
        return samples == 1 and page.photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _PALETTE)
    if page.bitspersample != 8:
        return False
    if page.predictor != 1 and page.compression == _PACK_BITS:  # libtiff passes over a predictor there
        return False
    alpha = len(extra) == 1 and extra[0] in _ALPHA
    colors = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _RGB: 3, _PALETTE: 1, _CMYK: 4, _YCBCR: 3, _LAB: 3}
    expected = colors.get(page.photometric, 0)
    return samples == expected or (alpha and page.photometric in (_BLACK_IS_ZERO, _RGB) and samples == expected + 1)


def _by_pillow(data: bytes, directory: int, limits: ImageLimits) -> Picture:
    """The upright picture of the directory at that offset, which becomes the file's first."""
    big = data[2:4] == b"+\0"
    order = "<" if data[:2] == b"II" else ">"
    head = data[:8] + struct.pack("<Q", directory) if big else data[:4] + struct.pack(order + "I", directory)
    if not data.startswith(head):
        data = head + data[len(head) :]
    image = TiffImagePlugin.TiffImageFile(BytesIO(data))
    limits.check_pixels(*image.size)
    image.info.pop("xmp", None)  # Pillow turns by the tag, and where there is none by what XMP says, as no viewer does
    image.load()
    return picture_of(image)


def _by_segments(data: bytes, plane: Plane) -> Picture:
    page = plane.page
    bits, dtype = page.bitspersample, page.dtype
    if page.photometric not in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB):
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
    alpha = _alpha(samples, extra, 3 if page.photometric == _RGB else 1)
    channels = samples if alpha is None else samples - 1
    axes: list[PlaneAxis] = []
    if plane.sample is not None or (page.photometric != _RGB and channels > 1):
        sample = _within("channel", plane.sample, channels)
        wanted = slice(sample, sample + 1)
        if channels > 1:
            axes.append(PlaneAxis("channel", sample, channels))
        alpha = None
    elif page.photometric == _RGB and channels < 3:
        raise DamagedImage(f"the TIFF image is damaged: RGB of {channels} samples")
    else:
        wanted = slice(0, 3 if page.photometric == _RGB else 1)
    values = read_samples(data, page, plane.offsets, plane.counts, dtype, wanted)
    if page.photometric == _WHITE_IS_ZERO:
        values = _inverted(values, bits)
    transparent = None
    if alpha is not None:
        opacity = read_samples(data, page, plane.offsets, plane.counts, dtype, slice(alpha, alpha + 1))
        values, transparent = _over_white(values, opacity, bits, associated=extra[alpha - samples] == 1)
    if dtype.kind == "u" and bits < 8:
        values = (values.astype(np.uint16) * 255 // (2**bits - 1)).astype(np.uint8)
    narrow = bits if dtype.kind == "u" and 8 < bits < 8 * dtype.itemsize else None
    return Picture(
        values if values.shape[2] == 3 else values[..., 0],
        significant_bits=narrow,
        transparent=transparent,
        plane=tuple(axes),
    )


def _alpha(samples: int, extra: tuple[int, ...], colors: int) -> int | None:
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
