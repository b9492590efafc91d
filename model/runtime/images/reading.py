"""From an uploaded file to its picture, or to an error that says what is wrong with it.

The bytes are hostile until proven otherwise. The format is told from the signature alone, and only that format's
Pillow plugin runs (`Image.open` is not used: it would add Pillow's own process-wide pixel limit and its MPO plugin).
The pixels are counted from the header before anything is allocated for them. Nothing here changes Pillow's state.
"""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from typing import Final

import numpy as np
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageCms,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from model.runtime.images import jpeg, png
from model.runtime.images.errors import DamagedImage, ImageError, NotAnImage, TooManyPixels, UnsupportedFormat
from model.runtime.images.limits import DEFAULT_LIMITS, ImageFormat, ImageLimits
from model.runtime.images.orientation import UPRIGHT, exif_orientation, turned
from model.runtime.images.picture import Picture
from model.runtime.images.signatures import sniff_format

_PLUGINS: Final[dict[str, type[ImageFile.ImageFile]]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "GIF": GifImagePlugin.GifImageFile,
}


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """What the header says. Width and height in pixels as seen, that is with the EXIF orientation applied.

    A PNG may carry its orientation behind the pixels; that one is found only by decoding.
    """

    format: ImageFormat
    width: int
    height: int


def probe(data: bytes, limits: ImageLimits = DEFAULT_LIMITS) -> ImageHeader:
    """Read only the header: no pixel is decoded and no memory allocated for them.

    Raises:
        ImageError: as `read_picture`, as far as the header shows it.
    """
    data, format = _accepted(data, limits)
    image = _open(data, format, limits)
    width, height = image.size
    # Pillow swaps a TIFF's sides by itself.
    if format != "TIFF" and exif_orientation(image) >= 5:
        width, height = height, width
    return ImageHeader(format, width, height)


def read_picture(data: bytes, limits: ImageLimits = DEFAULT_LIMITS, *, upright: bool = True) -> Picture:
    """The file's (first) picture with all of its bits. Releases the GIL while decoding.

    `upright=False` leaves the EXIF orientation alone, as COCO's annotations do (but Pillow turns a TIFF by itself).

    Raises:
        NotAnImage: the bytes have no image format's signature.
        UnsupportedFormat: they have one that `limits.formats` does not name.
        TooManyPixels: the header announces more than `limits.max_pixels`; nothing was decoded.
        DamagedImage: the file is cut short or broken. A part of a picture is never returned.
    """
    data, format = _accepted(data, limits)
    opened = _open(data, format, limits)
    try:
        image = _loaded(opened, data)
        # After loading, because a PNG's EXIF may lie behind its pixels. Pillow turns a TIFF itself.
        orientation = exif_orientation(image) if upright and format != "TIFF" else 1
        if isinstance(image, PngImagePlugin.PngImageFile) and (picture := png.to_picture(image, data)) is not None:
            return turned(picture, orientation)
        return _to_picture(image if orientation == 1 else image.transpose(UPRIGHT[orientation]))
    except Image.DecompressionBombError as error:
        raise TooManyPixels(f"the image has more pixels than can be decoded: {error}") from error
    except MemoryError:
        raise
    except Exception as error:  # a parser on hostile bytes: Pillow's plugins raise whatever they stumble over
        raise DamagedImage(f"the {format} image cannot be decoded: {error}") from error


def _accepted(data: bytes, limits: ImageLimits) -> tuple[bytes, ImageFormat]:
    """What is to be parsed, and as what."""
    if not data:
        raise NotAnImage("the image is empty: 0 bytes")
    format = sniff_format(data)
    if format is None:
        raise NotAnImage("the bytes are no image: they begin like no known image format")
    for accepted in limits.formats:
        if format == accepted:
            return (png.picture_chunks(data) if accepted == "PNG" else data), accepted
    raise UnsupportedFormat(format, limits.formats)


def _open(data: bytes, format: ImageFormat, limits: ImageLimits) -> ImageFile.ImageFile:
    if format == "WEBP":
        # The plugin's decoder allocates the canvas when it is opened.
        limits.check_pixels(*_webp_size(data))
    try:
        image = _PLUGINS[format](BytesIO(data))
        limits.check_pixels(*image.size)
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            # A tile is decoded whole, however small the image is that it belongs to.
            tags = image.tag_v2
            tile = tags.get(TiffImagePlugin.TILEWIDTH, 0), tags.get(TiffImagePlugin.TILELENGTH, 0)
            limits.check_pixels(int(tile[0]), int(tile[1]))
    except (ImageError, MemoryError):
        raise
    except Image.DecompressionBombError as error:  # a plugin's own check of Pillow's own limit
        raise TooManyPixels(f"the image has more pixels than can be decoded: {error}") from error
    except Exception as error:  # see read_picture
        raise DamagedImage(f"the {format} image's header cannot be read: {error}") from error
    return image


def _loaded(image: ImageFile.ImageFile, data: bytes) -> Image.Image:
    """The image of `data` with its pixels. Raises OSError where they are cut short, and whatever else Pillow raises."""
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        ended = jpeg.ended(data)
        if ended is None:
            raise OSError("image file is truncated")
        if ended is not data:
            image = JpegImagePlugin.JpegImageFile(BytesIO(ended))
    image.load()
    return image


def _webp_size(data: bytes) -> tuple[int, int]:
    """Canvas (width, height) from a WebP's first chunk; (0, 0) when it has none. RFC 9649, sections 2.5 to 2.7."""
    chunk, head = data[12:16], data[20:30]
    if len(head) == 10 and chunk == b"VP8X":
        return int.from_bytes(head[4:7], "little") + 1, int.from_bytes(head[7:10], "little") + 1
    if len(head) == 10 and chunk == b"VP8 ":
        return int.from_bytes(head[6:8], "little") & 0x3FFF, int.from_bytes(head[8:10], "little") & 0x3FFF
    if len(head) >= 5 and chunk == b"VP8L":
        bits = int.from_bytes(head[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return 0, 0


def _to_picture(image: Image.Image) -> Picture:
    """The picture of a loaded image of any mode."""
    if image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.uint16, copy=False)  # the machine's byte order
        tags = getattr(image, "tag_v2", {})
        bits = 12 if tags.get(TiffImagePlugin.BITSPERSAMPLE) == (12,) else None
        if tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0:  # white is zero; Pillow leaves it so
            values = (2 ** (bits or 16) - 1) - values
        return Picture(values, significant_bits=bits)
    if image.mode in ("I", "F"):
        return Picture(np.asarray(image))
    if image.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
        return Picture(np.asarray(converted))
    if image.has_transparency_data:
        image = _over_white(image)
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
