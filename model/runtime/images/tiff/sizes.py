"""Whether a TIFF's plane is small enough to be decoded, at once or part by part: told from its header."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from model.runtime.images.errors import DamagedImage, TooManyPixels, UnsupportedVariant
from model.runtime.images.limits import ImageLimits
from model.runtime.images.tiff.directories import MAX_SEGMENTS
from model.runtime.images.tiff.segments import segment_size, segments_in

if TYPE_CHECKING:
    from tifffile import TiffPage

BYTES_PER_PIXEL: Final = 16
"""Of samples that are unpacked, for each pixel that is accepted."""
_OLD_JPEG: Final = 6
BLOCK: Final = 256
"""Pixels that a block has at least on each side, if the picture has; smaller tiles and strips are decoded together."""
STRIPS: Final = 1 << 20
"""Pixels of strips that are decoded together, about."""
_IN_TILES: Final = "write it in tiles of, say, 512 x 512 pixels"


def check_header(page: TiffPage) -> None:
    """Raises DamagedImage or UnsupportedVariant for sizes that no picture has, or none that is read here."""
    width, height, samples = page.imagewidth, page.imagelength, page.samplesperpixel
    tile = segment_size(page)[::-1]
    if not all(isinstance(size, int) and size > 0 for size in (width, height, samples, *tile)):
        raise DamagedImage(
            f"the TIFF image's header cannot be read: it states {samples} samples for each of {width} x {height} "
            f"pixels, in strips or tiles of {tile[0]} x {tile[1]}"
        )
    if page.planarconfig not in (1, 2):
        raise DamagedImage(
            f"the TIFF image's header cannot be read: it states {page.planarconfig} for how samples are arranged "
            f"(PlanarConfiguration), which is 1 or 2"
        )
    if page.imagedepth != 1 or (page.is_tiled and page.tiledepth != 1):
        raise UnsupportedVariant("the TIFF image cannot be read: it is a volume of voxels, not of planes")


def is_decoded_whole(page: TiffPage, limits: ImageLimits) -> bool:
    """Whether the plane is small enough for that, or nothing else is accepted."""
    area = page.imagewidth * page.imagelength
    small = area <= limits.max_pixels and _bytes(page, area) <= limits.max_pixels * BYTES_PER_PIXEL
    return small or limits.max_picture_pixels is None


def check_whole(page: TiffPage, limits: ImageLimits) -> None:
    """Raises TooManyPixels, or DamagedImage for more segments than a picture of that size has."""
    limits.check_pixels(page.imagewidth, page.imagelength)
    tile_height, tile_width = segment_size(page)
    limits.check_pixels(tile_width, tile_height)  # a strip or tile is decoded whole
    _check_bytes(page, limits, page.imagewidth * page.imagelength)
    _check_bytes(page, limits, tile_width * tile_height)
    _check_segments(page)


def check_by_region(page: TiffPage, limits: ImageLimits, *, is_turned: bool) -> None:
    """Raises TooManyPixels for a plane that is too large even for that, or that cannot be read part by part."""
    width, height = page.imagewidth, page.imagelength
    limits.check_picture(width, height)
    segment_height, segment_width = segment_size(page)
    at_once = f"at most {limits.max_pixels} are decoded at once (max_pixels)"
    if page.compression == _OLD_JPEG:
        raise TooManyPixels(
            f"the TIFF image has {width} x {height} pixels in the old kind of JPEG, which is decoded whole, and "
            f"{at_once}; compress it otherwise, and {_IN_TILES}"
        )
    if is_turned and not page.is_tiled:
        raise TooManyPixels(
            f"the TIFF image has {width} x {height} pixels in strips that its orientation turns upright, and "
            f"{at_once}; {_IN_TILES}"
        )
    if segment_height * segment_width > limits.max_pixels:
        raise TooManyPixels(
            f"the TIFF image has {width} x {height} pixels in strips or tiles of {segment_width} x {segment_height}, "
            f"and {at_once}; {_IN_TILES}"
        )
    block_height, block_width = block_size(page, limits)
    _check_bytes(page, limits, block_height * block_width)
    _check_segments(page)


def block_size(page: TiffPage, limits: ImageLimits) -> tuple[int, int]:
    """(height, width) of what is decoded together when the plane is read part by part: some strips, or tiles."""
    height, width = segment_size(page)
    if page.is_tiled:
        return height * -(-BLOCK // height), width * -(-BLOCK // width)
    return height * max(1, rows_at_once(page, limits) // height), width


def rows_at_once(page: TiffPage, limits: ImageLimits) -> int:
    """Of a picture in strips, the rows that are decoded together: about `STRIPS` pixels, or as many as are accepted."""
    pixels = min(STRIPS, limits.max_pixels, limits.max_pixels * BYTES_PER_PIXEL // max(_bytes(page, 1), 1))
    return max(1, min(pixels // int(page.imagewidth), int(page.imagelength)))


def _bytes(page: TiffPage, area: int) -> int:
    item = page.dtype.itemsize if page.dtype is not None else 1
    return area * int(page.samplesperpixel) * item


def _check_bytes(page: TiffPage, limits: ImageLimits, area: int) -> None:
    if _bytes(page, area) > limits.max_pixels * BYTES_PER_PIXEL:
        raise TooManyPixels(
            f"the image has {page.samplesperpixel} samples of {_bytes(page, 1) // page.samplesperpixel} bytes for each "
            f"of {page.imagewidth} x {page.imagelength} pixels, which takes more memory than is accepted; "
            f"send it smaller"
        )


def _check_segments(page: TiffPage) -> None:
    if (segments := segments_in(page)) > MAX_SEGMENTS:
        raise DamagedImage(f"the TIFF image has {segments} strips or tiles, and at most {MAX_SEGMENTS} are read")
